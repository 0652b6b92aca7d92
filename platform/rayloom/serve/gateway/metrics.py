"""Prometheus metrics of the gateway, by model and adapter, exported by Ray, which adds the prefix `ray_`.

Metrics of the engine (`ray_vllm_…`: cache use and hits, its queue, tokens) and of Ray Serve (`ray_serve_…`: requests
queued in the gateway, replicas) are exported too and not duplicated here.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from rayloom.serve.gateway.access_log import AccessRecord

LABELS = ("service", "model", "adapter")
_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0]
_SECONDS_PER_TOKEN = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]


class RequestMetrics:
    """Counts finished requests."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._requests = Counter(
            "rayloom_requests_total", "Requests, by status and error.", (*LABELS, "status", "error")
        )
        self._tokens = Counter("rayloom_streamed_pieces_total", "Pieces of streams: one a token.", LABELS)
        self._first = _histogram("rayloom_time_to_first_token_seconds", "Until a stream's first piece.", _SECONDS)
        self._each = _histogram("rayloom_time_per_output_token_seconds", "Between pieces.", _SECONDS_PER_TOKEN)
        self._whole = _histogram("rayloom_request_seconds", "From the request's arrival to its last byte.", _SECONDS)

    def count(self, record: AccessRecord) -> None:
        adapter = record.adapter.partition("@")[0]
        labels = {"service": self._service, "model": record.served_by, "adapter": adapter}
        self._requests.inc(1, labels | {"status": str(record.status), "error": record.error})
        if not record.served_by:
            return
        self._whole.observe(record.seconds, labels)
        if record.num_pieces == 0 or record.first_piece_seconds is None:
            return
        self._tokens.inc(record.num_pieces, labels)
        self._first.observe(record.first_piece_seconds, labels)
        if record.num_pieces > 1:
            seconds = max(0.0, record.seconds - record.first_piece_seconds)
            self._each.observe(seconds / (record.num_pieces - 1), labels)


def _histogram(name: str, text: str, boundaries: list[float]) -> Histogram:
    return Histogram(name, text, boundaries, LABELS)
