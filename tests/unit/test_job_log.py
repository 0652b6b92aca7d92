"""What is said while a job runs is kept with its job, stage and rank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayloom.errors import InputError
from rayloom.observe.job_log import in_stage, logged_to
from rayloom.observe.progress import messages, say


def test_lines_say_who_told_them_and_the_last_one_what_went_wrong(tmp_path: Path) -> None:
    file, before = tmp_path / "job.jsonl", len(messages.handlers)
    with pytest.raises(InputError), logged_to(file, "tuned", "finetune"):
        say("starting 2 workers")
        say("held-out loss 2.50", rank=0)
        with in_stage("inner"):
            say("läuft")
        raise InputError("There is no base", where="artifact:m")
    assert len(messages.handlers) == before
    say("not of this job")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line.pop("time").endswith("+00:00") for line in lines)
    assert lines == [
        {"level": "info", "job": "tuned", "stage": "finetune", "text": "starting 2 workers"},
        {"level": "info", "job": "tuned", "stage": "finetune", "rank": 0, "text": "held-out loss 2.50"},
        {"level": "info", "job": "tuned", "stage": "inner", "text": "läuft"},
        {"level": "error", "job": "tuned", "stage": "finetune", "text": "There is no base (artifact:m)."},
    ]
