"""Trials of tasks and preferences: their own rows, made once, and the accuracy that their training counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import preferences
from support.artifacts import Folder
from support.models import write_model
from support.preferences import pairs, write
from support.tasks import review_rows, write_encoder, write_jsonl

from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec
from rayloom.tune.search import TrialRun
from rayloom.tune.trials.trial import run_trial
from rayloom.tune.trials.trial_files import TrialFiles

TASK = {
    "kind": "train", "name": "reviews", "base": "./base", "adapter": {"type": "lora", "rank": 4},
    "task": {"type": "text_classification", "labels": ["no", "yes"]},
    "data": {
        "type": "labelled", "heldout_rows": 24,
        "sources": [{"dataset": "./data", "read": {"type": "table", "names": {"0": "no", "1": "yes"}}}],
    },
    "sequence_length_tokens": 32, "micro_batch_sequences": 16, "global_batch_tokens": 512, "num_steps": 30,
    "learning_rate": 1e-3, "precision": "fp32", "evaluate_every_steps": 10,
}  # fmt: skip


def files_of(folder: Path, base: Path, train: dict[str, Any], **changes: Any) -> TrialFiles:
    rates = {"learning_rate": {"type": "choice", "values": [5e-3, 2e-2]}}
    plain = {"kind": "tune", "name": "search", "train": train, "space": rates, "budget": {"num_trials": 2}}
    parents: Any = {"train.base": Folder(base), "train.data.sources.0.dataset": Folder(folder / "data")}
    return TrialFiles(TuneSpec.model_validate(plain | changes), parents, folder / "work")


def results(files: TrialFiles) -> list[dict[str, Any]]:
    """What each of two trials reported last."""
    found = []
    for number, rate in enumerate((5e-3, 2e-2)):
        heard: list[dict[str, Any]] = []
        run_trial(files.task(TrialRun(number, {"learning_rate": rate})), heard.append)
        found.append(heard[-1])
    return found


def test_trials_of_a_task_report_its_accuracy_and_are_checked_on_texts(tmp_path: Path) -> None:
    write_jsonl(review_rows(200), tmp_path / "data/x.jsonl")
    checks = [{"type": "task", "name": "texts", "rows_of": "artifact:earlier"}]
    files = files_of(tmp_path, write_encoder(tmp_path / "base"), TASK, checks=checks)
    files.prepare_rows()
    # The rows that the trials themselves hold out stand for those of an earlier run.
    files.parents = {**files.parents, "checks.0.rows_of": Folder(files.rows_folder({}) / "data")}  # type: ignore[dict-item]
    for result in results(files):
        assert result["message"] == "finished", result
        metrics = result["metrics"]
        assert metrics["checks.texts.accuracy"] == metrics["checks.texts.score"]
        assert abs(metrics["checks.texts.score"] - metrics["heldout_accuracy"]) < 1e-6
        assert metrics["heldout_score"] == metrics["heldout_accuracy"]
    assert len(list((tmp_path / "work/rows").iterdir())) == 1


def test_trials_of_preferences_share_one_reference(tmp_path: Path) -> None:
    write_model(tmp_path / "base", initializer_range=0.02)
    write(pairs(24), tmp_path / "data")
    train: TrainSpec = preferences.spec_of({"type": "dpo"}, evaluate_every_steps=2)
    files = files_of(tmp_path, tmp_path / "base", train.model_dump(mode="json"))
    for result in results(files):
        assert result["message"] == "finished", result
        assert result["metrics"]["heldout_accuracy"] == 1.0
    rows = files.job(0, 0, {}).train[0]
    assert len(list(rows.glob("reference*"))) == 1
    other = files.job(0, 0, {"preference.beta": 0.3})
    assert other.train[0] == rows
