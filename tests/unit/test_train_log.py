"""The run's log after a kill."""

from __future__ import annotations

from pathlib import Path

from rayloom.train.loop.run_log import RunLog, read_log
from rayloom.train.publish import summarize

END = {
    "tokens": 80,
    "updates": 2,
    "skipped_steps": [],
    "rollbacks": 0,
    "best_step": None,
    "checkpoint_stall_seconds": 0.0,
}


def write_run(file: Path, from_step: int) -> list[str]:
    """Two steps, the last measurement and the end, as far as they are not done yet; what was told."""
    told: list[str] = []
    log = RunLog(file, from_step, lambda event: told.append(event["event"]), is_first=True)
    if from_step < 0:
        log.add("heldout", 0, name="all", loss=4.0, perplexity=54.6, labels=10)
    for step in range(max(from_step, 0) + 1, 3):
        log.add("step", step, loss=3.0, tokens=40, seconds=1.0, data_wait_seconds=0.0)
    log.add("heldout", 2, name="all", loss=2.0, perplexity=7.39, labels=10)
    log.add("finished", 2, **END)
    log.close()
    return told


def test_a_run_killed_after_its_end_has_each_event_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    write_run(file, from_step=-1)
    whole = list(read_log(file))
    assert write_run(file, from_step=2) == ["heldout", "finished"]
    assert list(read_log(file)) == whole
    assert summarize(read_log(file))["heldout"]["all"]["after"]["loss"] == 2.0


def test_steps_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    write_run(file, from_step=-1)
    whole = list(read_log(file))
    with file.open("a") as cut:
        cut.write('{"event": "ste')
    write_run(file, from_step=1)
    assert list(read_log(file)) == whole
