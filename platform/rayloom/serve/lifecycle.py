"""One service from start to stop: what must hold before, the wait until it answers, and that nothing is left after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import ResourceError
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_session import Session
from rayloom.serve import app
from rayloom.serve.capacity import problems, read_shape, replica_bytes, replicas_that_fit
from rayloom.serve.engine import settings
from rayloom.serve.failures import cause_in
from rayloom.serve.machine import available_bytes, check_port, is_port_free, service_processes
from rayloom.serve.vllm_models import served_architectures
from rayloom.specs.serve import ServedModel, ServeSpec

POLL_SECONDS = 0.5
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Service:
    """A service that answers."""

    spec: ServeSpec
    url: str
    seconds_to_start: float
    is_embedded: bool
    started_serve: bool

    def replicas(self) -> dict[str, int]:
        """How many replicas of each model run now."""
        return app.progress_of(self.spec).replicas

    def stop(self) -> None:
        """Ends it. Raises ResourceError where something is still there half a minute later."""
        app.remove(self.spec, with_serve=self.started_serve)
        if not self.started_serve or not self.is_embedded:
            return
        until = time.monotonic() + STOP_SECONDS
        while service_processes() or not is_port_free(self.spec.host, self.spec.port):
            if time.monotonic() > until:
                left = ", ".join(service_processes()) or f"port {self.spec.port}"
                raise ResourceError("The service did not stop", where=left, fix="End these processes by hand.")
            time.sleep(0.1)


def served_artifacts(spec: ServeSpec, parents: Mapping[str, Artifact]) -> list[tuple[ServedModel, Artifact]]:
    """Each model of the spec with the artifact that it names."""
    return [(served, parents[f"models.{index}.model"]) for index, served in enumerate(spec.models)]


def check_before(spec: ServeSpec, parents: Mapping[str, Artifact], *, num_cores: int | None) -> None:
    """Raises ResourceError for what can be known to fail before anything is started.

    `num_cores`: of this machine where the service will run on it; None where it runs on another cluster.
    """
    found = [
        f"{served.name}: {problem}"
        for served, artifact in served_artifacts(spec, parents)
        for problem in problems(read_shape(artifact.path), served.engine, served_architectures())
    ]
    if found:
        raise ResourceError("; ".join(found))
    if num_cores is not None:
        check_port(spec.host, spec.port)
        _check_room(spec, parents, available_bytes(), num_cores)


def _check_room(spec: ServeSpec, parents: Mapping[str, Artifact], available: int, num_cores: int) -> None:
    for served, artifact in served_artifacts(spec, parents):
        each = replica_bytes(read_shape(artifact.path), served.engine)
        wanted = served.autoscaling.max_replicas
        fit = replicas_that_fit(each, served.engine.cpus_per_replica, available, num_cores)
        if fit < wanted:
            what = (
                f"{served.name} may grow to {wanted} replicas of {each / 1e9:.1f} GB and "
                f"{served.engine.cpus_per_replica} cores, and {fit} fit into {available / 1e9:.1f} GB and "
                f"{num_cores} cores"
            )
            fix = "Lower engine.kv_cache.size_bytes, engine.cpus_per_replica or autoscaling.max_replicas."
            raise ResourceError(what, fix=fix)


def start(
    spec: ServeSpec,
    parents: Mapping[str, Artifact],
    store: Store,
    session: Session,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Service | None:
    """Starts every model and returns when all answer; None where `is_stopped` said so first.

    Raises ResourceError with the engine's own cause where a model does not start.
    """
    began = time.monotonic()
    started_serve = app.start_serve(spec.host, spec.port)
    service = Service(spec, f"http://{spec.host}:{spec.port}", 0.0, session.is_embedded, started_serve)
    try:
        app.deploy(spec, [settings(served, artifact, store) for served, artifact in served_artifacts(spec, parents)])
        if not _wait(spec, is_stopped):
            service.stop()
            return None
    except BaseException:
        service.stop()
        raise
    return Service(spec, service.url, time.monotonic() - began, session.is_embedded, started_serve)


def _wait(spec: ServeSpec, is_stopped: Callable[[], bool]) -> bool:
    """Until everything answers; False where it was stopped meanwhile."""
    with progress("starting", len(spec.models), "models") as bar:
        while not is_stopped():
            now = app.progress_of(spec)
            for model, said in now.failures.items():
                cause = cause_in(said) or said.strip().splitlines()[-1]
                fix = "Change the job file, or look into the log for all that the engine said."
                raise ResourceError(f"{model} did not start: {cause}", fix=fix)
            bar.advance(sum(count > 0 for count in now.replicas.values()) - bar.done)
            if now.is_ready:
                return True
            time.sleep(POLL_SECONDS)
    return False


def say_how_to_reach(service: Service) -> None:
    model = service.spec.models[0].name
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'
    say(f"serving {', '.join(m.name for m in service.spec.models)} at {service.url} (Ctrl-C stops it)")
    say(f"  rayloom chat {service.url}")
    say(f"  curl {service.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'")
    say(f'  python: openai.OpenAI(base_url="{service.url}/v1", api_key="none")')
