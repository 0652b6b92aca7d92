"""A run's events as a progress bar and lines for people."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from rayloom.observe.progress import Bar, say
from rayloom.train.job import TrainJob
from rayloom.train.reporting.trackers import Following

RECENT_STEPS = 20


class TrainingProgress:
    """Shows steps on a bar with loss, speed and time left; everything else as lines."""

    def __init__(self, job: TrainJob, bar: Bar, trackers: Sequence[Following] = ()) -> None:
        self.job, self.bar, self.trackers = job, bar, trackers
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_STEPS)

    def show(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            for tracker in self.trackers:
                tracker.add(event)
            if event["event"] == "step":
                self._recent.append(event)
                self.bar.advance(event["step"] - self.bar.done, self._note())
            elif event["event"] == "resumed":
                self.bar.advance(event["step"] - self.bar.done)
            elif event["event"] == "heldout":
                beside = f"score {event['score']:.3f}" if "score" in event else f"perplexity {event['perplexity']:,.1f}"
                where = f"{self.job.spec.name}: step {event['step']}: {event['name']}"
                say(f"{where} loss {event['loss']:.4f}, {beside}", rank=0)
            elif event["event"] == "said":
                say(f"{self.job.spec.name}: {event['text']}", rank=0)

    def _note(self) -> str:
        seconds = sum(event["seconds"] for event in self._recent)
        speed = sum(event["tokens"] for event in self._recent) / seconds
        left = (self.job.num_steps - self._recent[-1]["step"]) * seconds / len(self._recent)
        return f"loss {self._recent[-1]['loss']:.3f}, {speed:,.0f} tokens/s, {left:.0f} s left"
