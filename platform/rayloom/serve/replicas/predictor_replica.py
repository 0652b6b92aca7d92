"""A replica of a predictor: texts of different requests are answered in batches, in a thread beside the event loop.

Torch is imported when a replica starts, so the driver that deploys it needs none.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from ray import serve

from rayloom.artifacts.store import Store
from rayloom.engine_errors import CAUSE
from rayloom.errors import RayloomError
from rayloom.serve.replicas.answering_replica import AnsweringReplica, Write
from rayloom.serve.replicas.engine_replica import opened_artifact, replica_name
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import BadRequestError, endpoint_of, response_body, rows_of
from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Headers, head_frame
from rayloom.text.labelled.examples import ExampleError

if TYPE_CHECKING:
    from rayloom.models.responders.responder import Responder

_LOG = logging.getLogger("ray.serve")


class PredictorReplica(AnsweringReplica):
    """A replica of a predictor."""

    async def __init__(self, settings: PredictorSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        super().__init__()
        self._settings, self._endpoint = settings, endpoint_of(settings.task)
        self._name = replica_name()
        try:
            self._responder = await asyncio.to_thread(_loaded, settings)
        except RayloomError as error:
            raise RuntimeError(f"{CAUSE}{error}") from None
        batching: Any = self._responses
        batching.set_max_batch_size(settings.served.batching.max_texts)
        batching.set_batch_wait_timeout_s(settings.served.batching.wait_seconds)

    async def answer(self, path: str, headers: Headers, body: bytes, write: Write) -> None:
        """Writes an answer's frames. `path` is not used: the gateway sends only requests for this model's path."""
        del path, headers
        try:
            rows = rows_of(self._endpoint, body)
            self._check(rows)
            responses = await asyncio.gather(*(self._responses(row) for row in rows))
        except BadRequestError as error:
            self._write(write, 400, {"error": {"message": str(error), "param": error.param}})
            return
        failed = [f"input.{number}: {one['failed']}" for number, one in enumerate(responses) if "failed" in one]
        if failed:
            _LOG.error("a predictor failed: %s", "; ".join(failed))
            self._write(write, 500, {"error": {"message": f"The model failed on {failed[0]}"}})
            return
        self._write(write, 200, response_body(self._endpoint, self._settings.served.name, responses))

    def _check(self, rows: list[dict[str, Any]]) -> None:
        """Raises BadRequestError for texts that the model cannot answer."""
        if len(rows) > self._settings.max_texts:
            raise BadRequestError(f"A request may ask about {self._settings.max_texts} texts at most.", "input")
        for number, row in enumerate(rows):
            try:
                self._responder.check(row)
            except ExampleError as error:
                raise BadRequestError(f"input.{number}: {error}", "input") from None

    def _write(self, write: Write, status: int, value: dict[str, Any]) -> None:
        name = (REPLICA_HEADER.encode(), self._name.encode())
        write(head_frame(status, [(b"content-type", b"application/json"), name]))
        write(json.dumps(value, ensure_ascii=False).encode())

    @serve.batch  # type: ignore[untyped-decorator]
    async def _responses(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from rayloom.models.responders.responder import respond_to_each

        return await asyncio.to_thread(respond_to_each, self._responder, rows, len(rows))


def _loaded(settings: PredictorSettings) -> Responder:
    import torch

    from rayloom.models.responders.prompted import PromptedModel
    from rayloom.models.responders.prompted_rows import PromptedResponder
    from rayloom.models.responders.responder import responder_for
    from rayloom.models.responders.subject import Subject

    torch.set_num_threads(settings.served.cpus_per_replica)
    artifact = opened_artifact(settings.store_uri, settings.artifact_name, settings.artifact_version)
    subject = Subject.of("model", artifact, Store(settings.store_uri))
    prompt = settings.served.prompt
    if prompt is not None:
        asked = PromptedModel(subject, prompt)
        asked.check()
        asked.load()
        return PromptedResponder(asked, settings.shown)
    responder = responder_for(subject, settings.served.generation)
    if isinstance(responder, PromptedResponder):
        responder.model.load()
    elif subject.task is None:
        subject.model  # noqa: B018 (loads a language model now; a task's model is loaded already)
    return responder
