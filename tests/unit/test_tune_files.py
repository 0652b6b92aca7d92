"""Where trials' files lie: rows made once for all trials that share them, each trial's own spec on top."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.searches import tune_spec
from support.training_jobs import small_spec, write_rows, write_tokenizer
from transformers import AutoTokenizer

from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.tune.search import DonorCheckpoint, TrialRun
from rayloom.tune.trials.trial_files import TrialFiles


def files_in(folder: Path, space: dict[str, Any], **changes: Any) -> TrialFiles:
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(folder / "corpus" / "tokenizer"))
    for name in ("train", "heldout"):
        index = write_rows(folder / "corpus" / name, 20, seed=1) / "index.json"
        facts = json.loads(index.read_text()) | {"tokenizer_digest": tokenizer_digest(tokenizer)}
        index.write_text(json.dumps(facts))
    train = small_spec(num_steps=12, evaluate_every_steps=2, **changes).model_dump(mode="json")
    spec = tune_spec(train=train, space=space, scheduler={"type": "none"})
    manifest = SimpleNamespace(digest=str(folder))
    corpus: Any = SimpleNamespace(path=folder / "corpus", manifest=manifest)
    base: Any = SimpleNamespace(path=folder / "corpus" / "tokenizer", manifest=manifest)
    parents = {"train.data.corpus": corpus, "train.replay.corpus": corpus}
    parents |= {"train.base": base} if changes.get("base") else {}
    return TrialFiles(spec, parents, folder / "work")


def test_trials_share_rows_and_keep_their_own_values(tmp_path: Path) -> None:
    files = files_in(tmp_path, {"micro_batch_sequences": {"type": "choice", "values": [1, 2]}})
    files.prepare_rows()
    first, second = (files.job(number, 0, {"micro_batch_sequences": number + 1}) for number in range(2))
    assert (first.micro_batch_sequences, second.micro_batch_sequences) == (1, 2)
    assert (first.spec.micro_batch_sequences, second.spec.micro_batch_sequences) == (1, 2)
    assert first.train == second.train
    assert first.work != second.work
    assert len(list((tmp_path / "work" / "rows").iterdir())) == 1
    assert files.length({}) == 12
    assert files.length({"num_steps": 7}) == 7


def test_trials_that_differ_in_their_rows_have_their_own(tmp_path: Path) -> None:
    space = {"replay.share": {"type": "choice", "values": [0.25, 0.5]}}
    replay = {"corpus": "artifact:made-up", "share": 0.25}
    files = files_in(tmp_path, space, base="artifact:base", architecture=None, replay=replay)
    (tmp_path / "corpus" / "tokenizer" / "config.json").write_text('{"model_type": "llama"}')
    jobs = [files.job(number, 0, {"replay.share": share}) for number, share in enumerate((0.25, 0.5))]
    assert [job.shares for job in jobs] == [(0.75, 0.25), (0.5, 0.5)]


def test_a_task_names_the_checkpoint_that_a_member_of_a_population_goes_on_from(tmp_path: Path) -> None:
    files = files_in(tmp_path, {"learning_rate": {"type": "choice", "values": [0.1, 0.2]}})
    task = files.task(TrialRun(3, {"learning_rate": 0.2}, until_step=8, segment=1, source=DonorCheckpoint(0, 2, 4)))
    assert task.source == tmp_path / "work" / "trials" / "0000" / "2" / "checkpoints" / "step-00000004"
    assert task.job.work == tmp_path / "work" / "trials" / "0003" / "1"
    assert (task.until_step, task.job.spec.learning_rate) == (8, 0.2)


def test_only_what_is_wanted_keeps_its_weights(tmp_path: Path) -> None:
    files = files_in(tmp_path, {"learning_rate": {"type": "choice", "values": [0.1, 0.2]}})
    ended: list[Any] = [SimpleNamespace(number=number, copies=()) for number in range(2)]
    for number in range(3):
        job = files.job(number, 0, {})
        job.out.mkdir()
        job.checkpoints.mkdir()
        job.log.write_text("")
    files.keep_only([1], ended)
    assert [files.result(number).exists() for number in range(3)] == [False, True, True]
    assert (tmp_path / "work" / "trials" / "0000" / "0" / "metrics.jsonl").exists()
    assert not (tmp_path / "work" / "trials" / "0000" / "0" / "checkpoints").exists()


def test_what_ray_tune_wrote_is_kept_without_its_pickles(tmp_path: Path) -> None:
    files = files_in(tmp_path, {"learning_rate": {"type": "choice", "values": [0.1, 0.2]}})
    trial = files.ray / "session-1" / "trial-0000-0-abcde"
    trial.mkdir(parents=True)
    for name in ("params.json", "params.pkl", "result.json", "events.out.tfevents.17.host"):
        (trial / name).write_text(name)
    (trial.parent / "tuner.pkl").touch()
    files.write_ray_records(tmp_path / "ray")
    kept = {str(path.relative_to(tmp_path / "ray")) for path in (tmp_path / "ray").rglob("*") if path.is_file()}
    names = ("params.json", "result.json", "events.out.tfevents.17.host")
    assert kept == {f"session-1/trial-0000-0-abcde/{name}" for name in names}
