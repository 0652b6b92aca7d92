"""A run's events as they happen, for programs that draw curves of several runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from rayloom.errors import ResourceError
from rayloom.specs.trackers import TensorBoard

STEP_SCALARS = ("loss", "learning_rate", "gradient_norm", "seconds", "data_wait_seconds")


class Tracker(Protocol):
    """Receives events of a run's log."""

    def add(self, event: dict[str, Any]) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@contextmanager
def opened(specs: Sequence[TensorBoard], name: str, directory: Path) -> Iterator[list[Tracker]]:
    """All of them, closed at the end. `name`: of the artifact; `directory`: of the job file.

    Raises ResourceError where a tracker's package is missing.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_TensorBoardTracker(directory / spec.folder / name)) for spec in specs]


class _TensorBoardTracker:
    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            fix = "Install it where the job is started (pip install tensorboardX), or leave trackers out."
            raise ResourceError("The tracker tensorboard needs the package tensorboardX", fix=fix)
        self._folder = folder

    def __enter__(self) -> Self:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, event: dict[str, Any]) -> None:
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event["step"])


def scalars(event: dict[str, Any]) -> dict[str, float]:
    """Name and value of what is worth a curve: `train/loss`, `heldout/perplexity`."""
    if event["event"] == "step":
        found = {f"train/{name}": float(event[name]) for name in STEP_SCALARS}
        return found | {"train/tokens_per_second": event["tokens"] / event["seconds"]}
    if event["event"] == "heldout":
        return {f"{event['name']}/{name}": float(event[name]) for name in ("loss", "perplexity") if name in event}
    return {}
