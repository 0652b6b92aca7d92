"""Shows a run's events as they happen: in experiment trackers (TensorBoard, MLflow, W&B) and as a progress bar."""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from rayloom.errors import InterruptedJobError, ResourceError
from rayloom.observe.mlflow_experiment import MlflowExperiment, missing_mlflow, mlflow_metrics
from rayloom.observe.progress import Bar, say
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.trackers import Mlflow, TensorBoard, Tracker, WeightsAndBiases
from rayloom.train.job import TrainJob
from rayloom.train.reporting.signs import Signs
from rayloom.train.settings import by_path

STEP_SCALARS = ("loss", "learning_rate", "gradient_norm", "seconds", "data_wait_seconds")
MEASURES = ("loss", "perplexity", "accuracy", "score")
TOKEN_SCALARS = ("entropy", "kl", "clipped", "mismatch", "mismatch_p99")
"""What a policy's loss sees of its tokens."""
ROLLOUT_SCALARS = (
    *("reward", "reward_deviation", "same_reward_share", "same_answer_share", "answer_tokens", "cut_share", "turns"),
    *("unjudged_share", "retokenised_share", "environment_seconds"),
    *("written_tokens_per_second", "writing_seconds", "judging_seconds", "handover_seconds"),
)
MLFLOW_SECONDS = 5.0
"""Least time between two calls to MLflow: a call at every step would slow training down."""
MAX_METRICS = 500
"""Metrics that may wait before they are sent; MLflow accepts 1,000 in one call."""
_RUN = "rayloom.artifact"


class Following(Protocol):
    """An open tracker, which receives the events of a run's log."""

    def add(self, event: dict[str, Any]) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, /, *_: object) -> None: ...


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told about a run when they open."""

    spec: TrainSpec
    version: str
    """Version of the artifact that the run makes."""
    job_directory: Path

    @property
    def artifact_id(self) -> str:
        return f"{self.spec.name}@{self.version}"

    @property
    def settings(self) -> dict[str, str]:
        """The values that the job file sets, by dotted path; defaults are left out."""
        plain = self.spec.model_dump(mode="json", exclude_unset=True, exclude={"trackers", "kind", "name"})
        return dict(by_path(plain))


@contextmanager
def opened(run: TrackedRun) -> Iterator[list[Following]]:
    """The run's trackers, closed at the end. Raises ResourceError if a package or a server is missing."""
    missing = missing_trackers(run.spec)
    if missing:
        raise ResourceError(missing[0][0].upper() + missing[0][1:])
    with ExitStack() as stack:
        yield [stack.enter_context(_following(tracker, run)) for tracker in run.spec.trackers]


def missing_trackers(spec: TrainSpec) -> list[str]:
    """One sentence for each tracker whose package is not installed here: what is missing and what to do."""
    problems = [_missing(tracker) for tracker in spec.trackers]
    return [said for said in problems if said is not None]


def _missing(tracker: Tracker) -> str | None:
    if isinstance(tracker, Mlflow):
        return missing_mlflow(tracker)
    package = "tensorboardX" if isinstance(tracker, TensorBoard) else "wandb"
    if importlib.util.find_spec(package) is not None:
        return None
    return (
        f"the tracker {tracker.type} needs the package {package}: pip install {package} where the job is started, or "
        "leave it out of trackers"
    )


def _following(tracker: Tracker, run: TrackedRun) -> Following:
    if isinstance(tracker, TensorBoard):
        return _TensorBoardFiles(run.job_directory / tracker.folder / run.artifact_id)
    if isinstance(tracker, Mlflow):
        return _MlflowRun(tracker, run)
    return _WandbRun(tracker, run)


class _TensorBoardFiles:
    def __init__(self, folder: Path) -> None:
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


class _MlflowRun:
    """Writes to MLflow. A resumed job continues its MLflow run; steps computed again are not logged twice."""

    def __init__(self, tracker: Mlflow, run: TrackedRun) -> None:
        self._tracker, self._run = tracker, run
        self._waiting: list[Any] = []
        self._sent_at = time.monotonic()

    def __enter__(self) -> Self:
        run = self._run
        self._mlflow = MlflowExperiment(self._tracker, run.spec.name, run.job_directory)
        with self._mlflow.required():
            known = next(self._mlflow.runs(_RUN, run.artifact_id), None)
            self._before = {} if known is None else self._mlflow.last_values(known)
            if known is None:
                self._id = self._mlflow.created(run.artifact_id, {_RUN: run.artifact_id}, run.settings)
            else:
                self._id = str(known.info.run_id)
                self._mlflow.client.update_run(self._id, status="RUNNING")
        return self

    def __exit__(self, kind: type[BaseException] | None, /, *_: object) -> None:
        self._send()
        is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt | InterruptedJobError)
        status = "FINISHED" if kind is None else "KILLED" if is_stopped else "FAILED"
        self._mlflow.wished(lambda: self._mlflow.client.set_terminated(self._id, status), "the training")

    def add(self, event: dict[str, Any]) -> None:
        values = scalars(event)
        for metric in mlflow_metrics(values, event["step"]) if values else ():
            if metric.step > self._before.get(metric.key, (-1, 0.0))[0]:
                self._waiting.append(metric)
        if time.monotonic() - self._sent_at > MLFLOW_SECONDS or len(self._waiting) > MAX_METRICS:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting, self._sent_at = self._waiting, [], time.monotonic()
        self._mlflow.wished(lambda: self._mlflow.log(self._id, waiting), "the training")


class _WandbRun:
    def __init__(self, tracker: WeightsAndBiases, run: TrackedRun) -> None:
        self._tracker, self._run = tracker, run

    def __enter__(self) -> Self:
        import wandb

        run, tracker = self._run, self._tracker
        folder = run.job_directory / tracker.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb.init(
            project=tracker.project or run.spec.name,
            name=run.artifact_id,
            id=run.artifact_id.replace("@", "-"),
            resume="allow",
            mode=tracker.mode,
            dir=str(folder),
            config=run.settings,
            settings=wandb.Settings(console="off", silent=True),
        )
        # W&B's own step counter only rises; a run that goes back to a checkpoint repeats steps.
        self._wandb.define_metric("*", step_metric="step")
        return self

    def __exit__(self, kind: type[BaseException] | None, /, *_: object) -> None:
        self._wandb.finish(exit_code=0 if kind is None else 1)

    def add(self, event: dict[str, Any]) -> None:
        values = scalars(event)
        if values:
            self._wandb.log({"step": event["step"], **values})


def scalars(event: dict[str, Any]) -> dict[str, float]:
    """The values of an event to plot over steps, by name: `train/loss`, `heldout/perplexity`."""
    if event["event"] == "step":
        values = {f"train/{name}": float(event[name]) for name in (*STEP_SCALARS, *TOKEN_SCALARS) if name in event}
        return values | {"train/tokens_per_second": event["tokens"] / event["seconds"]}
    if event["event"] == "rollout":
        measured = {f"rollout/{name}": event.get(name) for name in ROLLOUT_SCALARS}
        measured |= {f"reward/{name}": value for name, value in event["parts"].items()}
        return {name: float(value) for name, value in measured.items() if value is not None}
    if event["event"] == "heldout":
        return {f"{event['name']}/{name}": float(event[name]) for name in MEASURES if name in event}
    return {}


def measured_in_words(event: dict[str, Any]) -> str:
    """A held-out measurement in words: `loss 1.5290, perplexity 4.6`, `reward 1.680 (exact 0.980, one-word 1.000)`."""
    if "parts" in event:
        said = {name: "unknown" if value is None else f"{value:.3f}" for name, value in event["parts"].items()}
        return f"reward {event['score']:.3f} ({', '.join(f'{name} {value}' for name, value in said.items())})"
    beside = f"score {event['score']:.3f}" if "score" in event else f"perplexity {event['perplexity']:,.1f}"
    return f"loss {event['loss']:.4f}, {beside}"


# The same events in the terminal: a progress bar and lines of text.

RECENT_STEPS = 20


class TrainingProgress:
    """Shows steps on a bar with loss, speed and time left, and other events as lines; passes all on to the trackers."""

    def __init__(self, job: TrainJob, bar: Bar, trackers: Sequence[Following] = ()) -> None:
        self.job, self.bar, self.trackers = job, bar, trackers
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_STEPS)
        self._reward: float | None = None
        self._signs = Signs()

    def show(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            for tracker in self.trackers:
                tracker.add(event)
            self._show(event)
            for sign in self._signs.of(event):
                say(f"{self.job.spec.name}: {sign}", rank=0)

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self._recent.append(event)
            self.bar.advance(event["step"] - self.bar.done, self._note())
        elif event["event"] == "rollout":
            self._reward = event["reward"]
        elif event["event"] == "resumed":
            self.bar.continue_from(event["step"])
        elif event["event"] == "heldout":
            say(f"{self.job.spec.name}: step {event['step']}: {event['name']} {measured_in_words(event)}", rank=0)
        elif event["event"] == "said":
            say(f"{self.job.spec.name}: {event['text']}", rank=0)

    def _note(self) -> str:
        seconds = sum(event["seconds"] for event in self._recent)
        speed = sum(event["tokens"] for event in self._recent) / seconds
        last = f"loss {self._recent[-1]['loss']:.3f}" if self._reward is None else f"reward {self._reward:.3f}"
        return f"{last}, {speed:,.0f} tokens/s"
