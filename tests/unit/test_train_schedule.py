"""Learning rates by step, against values worked out by hand."""

from __future__ import annotations

import pytest

from rayloom.specs.training.optimization import Schedule
from rayloom.train.loop.policies import learning_rate_share


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Schedule(type="constant", warmup_steps=4), 0, 0.25),
        (Schedule(type="constant", warmup_steps=4), 3, 1.0),
        (Schedule(type="constant", warmup_steps=4), 99, 1.0),
        (Schedule(type="linear", warmup_steps=0, final_share=0.0), 0, 1.0),
        (Schedule(type="linear", warmup_steps=0, final_share=0.0), 75, 0.25),
        (Schedule(type="linear", warmup_steps=20, final_share=0.5), 60, 0.75),
        (Schedule(type="cosine", warmup_steps=0, final_share=0.1), 50, 0.55),
        (Schedule(type="cosine", warmup_steps=20, final_share=0.0), 20, 1.0),
        (Schedule(type="cosine", warmup_steps=20, final_share=0.2), 100, 0.2),
        # Of 100 steps the last 20 fall, from 1 at step 80 in equal parts: step 90 has half of them left.
        (Schedule(type="wsd", warmup_steps=10, final_share=0.0), 4, 0.5),
        (Schedule(type="wsd", warmup_steps=10, final_share=0.0), 50, 1.0),
        (Schedule(type="wsd", warmup_steps=10, final_share=0.0), 80, 1.0),
        (Schedule(type="wsd", warmup_steps=10, final_share=0.0), 90, 0.5),
        (Schedule(type="wsd", warmup_steps=10, final_share=0.2), 90, 0.6),
        (Schedule(type="wsd", warmup_steps=0, final_share=0.0, decay_share=0.5), 99, 0.02),
    ],
)
def test_share_of_the_peak(schedule: Schedule, step: int, expected: float) -> None:
    assert learning_rate_share(schedule, step, num_steps=100) == pytest.approx(expected)
