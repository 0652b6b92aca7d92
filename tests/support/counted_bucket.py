"""A real S3 server on loopback in a process of its own (moto's), which counts its requests and what they carry.

`python -m support.counted_bucket PORT` serves; `CountedBucket` starts and asks it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTS = "/_counts"
START_SECONDS = 60.0


@dataclass(frozen=True)
class CountedBucket:
    """The server with an empty bucket named `bucket`."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What processes need to use `s3://bucket/…`."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def counts(self) -> dict[str, int]:
        """Requests by method so far, and `bytes_in`, `bytes_out`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{COUNTS}", timeout=30) as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found


@contextmanager
def counted_bucket(port: int) -> Iterator[CountedBucket]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    bucket = CountedBucket(port)
    with subprocess.Popen(
        [sys.executable, "-m", "support.counted_bucket", str(port)], env=environment, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(bucket, server)
            request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request")
            urllib.request.urlopen(request, timeout=30).close()
            yield bucket
        finally:
            server.terminate()


def _wait_for(bucket: CountedBucket, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            bucket.counts()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < end, "the S3 server did not start"
            time.sleep(0.1)


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def counting(application: Application) -> Application:
    """The application, which also answers how often it was asked."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == COUNTS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(counts).encode()]

        def started(status: str, headers: list[tuple[str, str]], *further: Any) -> Any:
            with lock:
                listed = "list-type" in environ.get("QUERY_STRING", "")
                counts["LIST" if listed else environ["REQUEST_METHOD"]] += 1
                counts["bytes_in"] += int(environ.get("CONTENT_LENGTH") or 0)
                sent = dict(headers).get("Content-Length", 0) if environ["REQUEST_METHOD"] == "GET" else 0
                counts["bytes_out"] += int(sent)
            return start_response(status, headers, *further)

        return application(environ, started)

    return answer


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = counting(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)


if __name__ == "__main__":
    main()
