"""A client of Ray's Jobs API over HTTP, and a websocket for logs, so that `rayloom jobs list` does not import Ray.

Every failure raises one of Rayloom's errors: no answer at the address, a rejected token, an unknown job, another error
of the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from rayloom.errors import InputError, ResourceError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TIMEOUT_SECONDS = 30.0
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class ClusterJob:
    """One submitted job, as the Jobs API describes it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    entrypoint: str
    metadata: Mapping[str, str]
    runtime_env: Mapping[str, Any]
    started_ms: int
    ended_ms: int | None
    exit_code: int | None

    @property
    def name(self) -> str:
        return self.metadata.get("rayloom_name", self.id)

    @property
    def reason(self) -> str:
        """Why the job failed or is pending, in one line: Rayloom's error if its message has one, else Ray's."""
        if self.status not in ("FAILED", "PENDING"):
            return ""
        lines = self.message.strip().splitlines()
        own = [line for line in lines if line.startswith("error: ")]
        return (own or lines or [""])[0]

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True)
class Node:
    """A node that is alive, with its resources."""

    id: str
    address: str
    is_head: bool
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def token_here() -> str | None:
    """The cluster's token from the environment variables and file that Ray itself reads, or None."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return file.read_text().strip() if file.is_file() else None


class JobsApi:
    """The jobs of one cluster."""

    def __init__(self, address: str, token: str | None) -> None:
        self.address, self._token = address.rstrip("/"), token
        if not self.address.startswith(("http://", "https://")):
            fix = "Give the dashboard's address, such as http://HEAD:8265 or https://ray.example.org."
            raise InputError("This is not the address of a cluster's Jobs API", where=address, fix=fix)

    def ray_version(self) -> str:
        return str(self._json("GET", "/api/version")["ray_version"])

    def nodes(self) -> list[Node]:
        """The nodes that are alive."""
        answer = self._json("GET", "/nodes?view=summary")["data"]["summary"]
        raylets = [entry["raylet"] for entry in answer if entry.get("raylet", {}).get("state") == "ALIVE"]
        return [_node(raylet) for raylet in raylets]

    def can_grow(self) -> bool:
        """Whether the cluster has an autoscaler with worker groups, which adds nodes on demand."""
        status = self._json("GET", "/api/cluster_status")["data"].get("clusterStatus") or {}
        report = status.get("autoscalerReport") or {}
        return bool(report) and not report.get("legacy", False)

    def jobs(self) -> list[ClusterJob]:
        """Every submitted job, oldest first, without drivers that were started by hand."""
        submitted = [_job(entry) for entry in self._json("GET", "/api/jobs/") if entry.get("submission_id")]
        return sorted(submitted, key=lambda job: job.started_ms)

    def job(self, id: str) -> ClusterJob | None:  # noqa: A002 (what Ray calls it)
        try:
            return _job(self._json("GET", f"/api/jobs/{id}"))
        except _NotFoundError:
            return None

    def find(self, name: str) -> ClusterJob:
        """The job with this id, or the newest one with this name. Raises InputError if there is none."""
        jobs = self.jobs()
        matching = [job for job in jobs if job.id == name] or [job for job in jobs if job.name == name]
        if not matching:
            fix = "`rayloom jobs list` shows the names and ids."
            raise InputError(f"There is no job {name!r} on this cluster", where=self.address, fix=fix)
        return matching[-1]

    def submit(self, request: Mapping[str, Any]) -> None:
        self._json("POST", "/api/jobs/", dict(request))

    def stop(self, id: str) -> bool:  # noqa: A002
        """Asks the job to end; returns whether it was running."""
        return bool(self._json("POST", f"/api/jobs/{id}/stop")["stopped"])

    def logs(self, id: str) -> str:  # noqa: A002
        return str(self._json("GET", f"/api/jobs/{id}/logs")["logs"])

    def has_package(self, name: str) -> bool:
        try:
            self._request("GET", f"/api/packages/gcs/{name}")
        except _NotFoundError:
            return False
        return True

    def upload_package(self, name: str, content: bytes) -> None:
        self._request("PUT", f"/api/packages/gcs/{name}", content)

    def follow(self, id: str) -> Iterator[str]:  # noqa: A002
        """The log in pieces, from its beginning and as it grows, until the job ends."""
        return log_pieces(self.address, id, self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        text = self._request(method, path, content, {"Content-Type": "application/json"})
        try:
            return json.loads(text)
        except ValueError:
            fix = "Check that the address is the one of Ray's dashboard."
            raise ResourceError(
                "Something other than Ray answers at this address", where=self.address, fix=fix
            ) from None

    def _request(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
        request = urllib.request.Request(
            self.address + path, data=body, method=method, headers={**headers, **self._headers()}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            fix = "Check --address and that the cluster runs; `rayloom cluster up` starts one on this machine."
            raise ResourceError(f"No cluster answers: {reason}", where=self.address, fix=fix) from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        answer = error.read().decode(errors="replace").strip()
        if error.code in (401, 403):
            what = "The cluster requires a token" if self._token is None else "The cluster rejects this token"
            fix = "Set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's."
            return ResourceError(what, where=self.address, fix=fix)
        if error.code == 404:
            return _NotFoundError(answer, where=self.address)
        last = answer.splitlines()[-1] if answer else error.reason
        return ResourceError(f"The cluster answered {error.code}: {last}", where=self.address)


class _NotFoundError(InputError):
    """404: a job or package that the cluster does not have."""


def _node(raylet: Mapping[str, Any]) -> Node:
    return Node(
        id=raylet["nodeId"],
        address=raylet["nodeManagerAddress"],
        is_head=bool(raylet.get("isHeadNode")),
        resources=raylet.get("resourcesTotal", {}),
        labels=raylet.get("labels", {}),
    )


def _job(entry: Mapping[str, Any]) -> ClusterJob:
    return ClusterJob(
        id=str(entry["submission_id"]),
        status=str(entry["status"]),
        message=str(entry.get("message") or ""),
        entrypoint=str(entry.get("entrypoint") or ""),
        metadata=entry.get("metadata") or {},
        runtime_env=entry.get("runtime_env") or {},
        started_ms=int(entry.get("start_time") or 0),
        ended_ms=entry.get("end_time"),
        exit_code=entry.get("driver_exit_code"),
    )


# Following a job's log over the websocket of Ray's Jobs API.


def log_pieces(address: str, job_id: str, headers: Mapping[str, str]) -> Iterator[str]:
    """Pieces of the log until the job ends. Raises ResourceError if the connection breaks before."""
    loop = asyncio.new_event_loop()
    pieces = _pieces(address, job_id, headers)
    waiting: asyncio.Task[str | None] | None = None
    try:
        while True:
            try:
                waiting = loop.create_task(_next(pieces))
                piece = loop.run_until_complete(waiting)
            except aiohttp.ClientError as error:
                fix = "`rayloom jobs status` shows whether it still runs; `rayloom jobs logs --follow` starts again."
                raise ResourceError(f"The job's log broke off: {error}", where=address, fix=fix) from None
            if piece is None:
                return
            yield piece
    finally:
        if waiting is not None and not waiting.done():  # Ctrl-C while it waited
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(waiting)
        loop.run_until_complete(pieces.aclose())
        loop.close()


async def _next(pieces: AsyncGenerator[str, None]) -> str | None:
    return await anext(pieces, None)


async def _pieces(address: str, job_id: str, headers: Mapping[str, str]) -> AsyncGenerator[str, None]:
    url = f"{address}/api/jobs/{job_id}/logs/tail"
    async with aiohttp.ClientSession(headers=dict(headers)) as session, session.ws_connect(url) as socket:
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                yield message.data
            elif message.type == aiohttp.WSMsgType.ERROR:
                raise aiohttp.ClientError(str(socket.exception()))
