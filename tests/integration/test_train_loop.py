"""The loop without Ray: learning, exact resume after a kill, faults, early stopping."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import ONE, small_job

from rayloom.errors import InterruptedJobError, QualityError, ResourceError
from rayloom.train.engines.fragments import write_fragments
from rayloom.train.engines.plain import PlainEngine
from rayloom.train.failures import noted_micro_batch
from rayloom.train.loop import checkpoints, loop, run_state
from rayloom.train.loop.run_log import read_log


class KilledError(Exception):
    pass


def killed_at(step: int) -> Callable[[dict[str, Any]], None]:
    """Receives events like a progress bar, and dies at one."""

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise KilledError

    return tell


def quiet(event: dict[str, Any]) -> None:
    pass


def steps(folder: Path) -> dict[int, tuple[float, float]]:
    return {
        event["step"]: (event["loss"], event["gradient_norm"])
        for event in read_log(folder / "work" / "metrics.jsonl")
        if event["event"] == "step"
    }


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_log(folder / "work" / "metrics.jsonl") if event["event"] == kind]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_gives_the_same_losses_bit_for_bit(tmp_path: Path, precision: str, optimizer: str) -> None:
    changes = {"precision": precision, "optimizer": {"type": optimizer}}
    loop.train(small_job(tmp_path / "whole", **changes), ONE, quiet)
    for kill in (3, 7, 10):
        with pytest.raises(KilledError):
            loop.train(small_job(tmp_path / "killed", **changes), ONE, killed_at(kill))
    said: list[str] = []
    loop.train(small_job(tmp_path / "killed", **changes), ONE, lambda e: said.append(e.get("text", "")))
    # The checkpoint of step 8 counts only if it was on the disk before the kill.
    assert {"continuing from step 8 of 12", "continuing from step 4 of 12"} & set(said)
    whole = steps(tmp_path / "whole")
    assert list(whole) == list(range(1, 13))
    assert steps(tmp_path / "killed") == whole
    assert events(tmp_path / "killed", "heldout") == events(tmp_path / "whole", "heldout")
    weights = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_training_learns_and_the_result_is_a_plain_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loop.train(small_job(tmp_path, num_steps=60, learning_rate=0.02), ONE, quiet)
    before, after = (event["loss"] for event in events(tmp_path, "heldout"))
    assert before == pytest.approx(math.log(67), abs=0.1)
    assert after < 0.75 * before
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 67
    from rayloom.score.perplexity import heldout_loss
    from rayloom.text.packed.shards import TokenShards

    again = heldout_loss(model, TokenShards(tmp_path / "data" / "heldout", 16), 4)
    assert again.mean_nats == pytest.approx(after, abs=1e-5)


def test_micro_batches_and_accumulation_give_the_same_losses(tmp_path: Path) -> None:
    found = []
    for micro_batch in (1, 2, 4):
        loop.train(small_job(tmp_path / str(micro_batch), micro_batch_sequences=micro_batch), ONE, quiet)
        found.append([loss for loss, _ in steps(tmp_path / str(micro_batch)).values()])
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[1] == pytest.approx(found[2], rel=1e-5)


def test_the_full_micro_batch_is_tried_again_behind_a_checkpoint(tmp_path: Path) -> None:
    """And steps after it are those of a run that was started there with the full micro-batch, bit for bit."""
    halved = replace(small_job(tmp_path / "halved"), micro_batch_sequences=1, retry_after_steps=6)
    said: list[str] = []
    loop.train(halved, ONE, lambda e: said.append(e.get("text", "")))
    assert "step 6: trying micro_batch_sequences 2 again" in said
    assert noted_micro_batch(halved) == 2
    with pytest.raises(InterruptedJobError, match="after step 6"):
        loop.train(
            replace(small_job(tmp_path / "started"), micro_batch_sequences=1),
            ONE,
            quiet,
            should_stop=lambda: len(steps(tmp_path / "started")) == 5,
        )
    loop.train(small_job(tmp_path / "started"), ONE, quiet)
    assert list(steps(tmp_path / "halved")) == list(range(1, 13))
    assert steps(tmp_path / "halved") == steps(tmp_path / "started")


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    often = {"checkpoints": {"every_steps": 2, "keep": 3}}
    loop.train(small_job(tmp_path / "whole", **often), ONE, quiet)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **often), ONE, killed_at(9))
    before, newest = sorted((tmp_path / "killed" / "work" / "checkpoints").glob("*/checkpoint.json"))[-2:]
    weights = newest.parent / "rank-00000.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    said: list[str] = []
    loop.train(small_job(tmp_path / "killed", **often), ONE, lambda e: said.append(e.get("text", "")))
    damaged, sound = (int(path.parent.name.removeprefix("step-")) for path in (newest, before))
    assert any(f"checkpoint of step {damaged} is damaged (rank-00000.safetensors)" in line for line in said)
    assert f"continuing from step {sound} of 12" in said
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


def test_being_asked_to_stop_writes_a_checkpoint_first(tmp_path: Path) -> None:
    seen: list[int] = []

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            seen.append(event["step"])

    with pytest.raises(InterruptedJobError, match="after step 6"):
        loop.train(small_job(tmp_path), ONE, tell, should_stop=lambda: len(seen) == 5)
    loop.train(small_job(tmp_path), ONE, tell)
    assert seen == list(range(1, 13))


class PoisonedEngine(PlainEngine):
    """Gives losses that are not numbers for chosen calls of `loss` while training."""

    poisoned: frozenset[int] = frozenset()
    calls = 0

    def loss(self, batch: Any) -> torch.Tensor:
        loss = super().loss(batch)
        if torch.is_grad_enabled():
            type(self).calls += 1
            return loss * torch.nan if self.calls in self.poisoned else loss
        return loss


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> type[PoisonedEngine]:
    import rayloom.train.engines.plain

    class Engine(PoisonedEngine):
        pass

    monkeypatch.setattr(rayloom.train.engines.plain, "PlainEngine", Engine)
    return Engine


def test_a_bad_step_is_skipped_and_named(tmp_path: Path, poisoned: type[PoisonedEngine]) -> None:
    poisoned.poisoned = frozenset({9})  # the first micro-batch of step 5
    loop.train(small_job(tmp_path), ONE, quiet)
    (bad,) = events(tmp_path, "bad_step")
    assert (bad["step"], bad["decision"], len(bad["rows"])) == (5, "skip", 4)
    assert list(steps(tmp_path)) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert math.isfinite(events(tmp_path, "heldout")[-1]["loss"])
    assert events(tmp_path, "finished")[0]["skipped_steps"] == [5]


def test_bad_steps_in_a_row_lead_back_to_the_checkpoint_and_then_stop(
    tmp_path: Path, poisoned: type[PoisonedEngine]
) -> None:
    poisoned.poisoned = frozenset(range(11, 15))  # steps 6 and 7
    said: list[str] = []
    job = small_job(tmp_path, faults={"max_skipped_steps": 1, "max_rollbacks": 1})
    loop.train(job, ONE, lambda e: said.append(e.get("text", "")))
    assert "continuing from step 4 at 0.5 × the learning rate" in said
    rates = {e["step"]: e["learning_rate"] for e in events(tmp_path, "step")}
    whole = small_job(tmp_path / "whole")
    loop.train(whole, ONE, quiet)
    expected = {e["step"]: e["learning_rate"] for e in events(tmp_path / "whole", "step")}
    assert rates[8] == pytest.approx(expected[8] / 2)

    poisoned.poisoned, poisoned.calls = frozenset(range(1, 100)), 0
    with pytest.raises(QualityError, match=r"2 steps in a row up to step 2 .*source:row"):
        loop.train(small_job(tmp_path / "stopped", faults={"max_skipped_steps": 1}), ONE, quiet)


def test_a_spike_is_not_trained_on_where_the_policy_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainEngine, "calls", 0, raising=False)
    original = PlainEngine.loss

    def spiking(self: Any, batch: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            type(self).calls += 1
        return original(self, batch) * (3.0 if self.calls == 10 else 1.0)

    monkeypatch.setattr(PlainEngine, "loss", spiking)
    loop.train(small_job(tmp_path, faults={"spike_factor": 1.5}), ONE, quiet)
    assert [event["step"] for event in events(tmp_path, "bad_step")] == [5]


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    changes = {
        "num_steps": 200,
        "learning_rate": 0.05,
        "schedule": {"type": "constant"},
        "evaluate_every_steps": 5,
        "early_stopping": {"patience": 2, "threshold": 0.0},
        "checkpoints": {"every_steps": 10, "keep": 1},
    }
    loop.train(small_job(tmp_path, **changes), ONE, quiet)
    measured = {event["step"]: event["loss"] for event in events(tmp_path, "heldout") if event["step"]}
    (finished,) = events(tmp_path, "finished")
    best = min(measured, key=lambda step: measured[step])
    assert finished["best_step"] == best < finished["step"] < 200
    assert finished["step"] == best + 10
    from transformers import AutoModelForCausalLM

    from rayloom.score.perplexity import heldout_loss
    from rayloom.text.packed.shards import TokenShards

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    kept = heldout_loss(model, TokenShards(tmp_path / "data" / "heldout", 16), 4)
    assert kept.mean_nats == pytest.approx(measured[best], abs=1e-5)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    loop.train(small_job(tmp_path, num_steps=11, checkpoints={"every_steps": 2, "keep": 2}), ONE, quiet)
    kept = sorted(folder.name for folder in (tmp_path / "work" / "checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000010"]
    manifest = json.loads((tmp_path / "work" / "checkpoints" / kept[0] / "checkpoint.json").read_text())
    assert {file["path"] for file in manifest["files"]} == {"rank-00000.safetensors", "state.json"}


class FullDisk:
    """Writing fails for the chosen calls, as on a disk without room."""

    def __init__(self, *failing: int) -> None:
        self.calls, self.failing = 0, failing

    def __call__(self, file: Path, fragments: Any) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_fragments(file, fragments)


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "write_fragments", FullDisk(2))
    said: list[str] = []
    loop.train(small_job(tmp_path), ONE, lambda e: said.append(e.get("text", "")))
    assert any("checkpoint of step 8 could not be written" in line and "No space left" in line for line in said)
    kept = sorted(folder.name for folder in (tmp_path / "work" / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000012"]


def test_two_checkpoints_in_a_row_that_cannot_be_written_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "write_fragments", FullDisk(2, 3))
    with pytest.raises(ResourceError, match="No space left on device"):
        loop.train(small_job(tmp_path), ONE, quiet)
    monkeypatch.undo()
    loop.train(small_job(tmp_path), ONE, quiet)
    loop.train(small_job(tmp_path / "whole"), ONE, quiet)
    assert steps(tmp_path) == steps(tmp_path / "whole")


def test_notice_of_a_leaving_machine_is_answered_by_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "ASKING_SECONDS", 0.0)
    seen: list[int] = []

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            seen.append(event["step"])

    job = small_job(tmp_path, checkpoints={"every_steps": 100, "keep": 10})
    loop.train(job, ONE, tell, has_notice=lambda: 5 <= len(seen) < 8)
    kept = [folder.name for folder in (tmp_path / "work" / "checkpoints").iterdir()]
    assert kept == ["step-00000006"]


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    job = small_job(tmp_path, checkpoints={"every_steps": 100, "every_minutes": 1e-6, "keep": 100})
    loop.train(job, ONE, quiet)
    assert len(list((tmp_path / "work" / "checkpoints").iterdir())) == 12
