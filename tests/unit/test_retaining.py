"""What keeps a base from forgetting: penalties and Fisher information against numbers worked by hand, and in a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.training_jobs import ONE, small_job, small_spec
from torch import nn
from transformers import AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.models.loading import load
from rayloom.models.lora_sequence import check_earlier, check_start, overlap, put_over, start_from
from rayloom.models.responders.subject import Subject
from rayloom.score.perplexity import heldout_loss
from rayloom.score.retained_loss import HeldWeights, RetainedLoss
from rayloom.specs.base import references
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.text.packed.shards import TokenShards
from rayloom.train.job import TrainJob
from rayloom.train.loop import loop
from rayloom.train.loop.run_log import read_log
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_job
from rayloom.train.weights.model import build_model
from rayloom.train.weights.retention import FISHER_FILE, check_retention, fisher_diagonal, write_fisher

EWC, L2_SP, OLD = {"type": "ewc", "strength": 50.0}, {"type": "l2_sp", "strength": 3.0}, {"type": "old_model"}


class Counted(nn.Module):
    """Σ labels × (a · b), so that its gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 1)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.model.weight.sum() * batch.num_labels


class Labels:
    num_labels = 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_penalty_is_the_papers(dtype: torch.dtype) -> None:
    """½ Σ F (θ − θ₀)² for one parameter and ½ α ‖θ − θ₀‖² for the other, once for each label."""
    loss = Counted().to(dtype)
    loss.model.weight.data = torch.tensor([[1.0, 2.0]], dtype=dtype)
    loss.model.bias.data.zero_()
    held = HeldWeights(loss.model, {"weight": torch.tensor([[4.0, 0.0]]), "bias": 2.0})
    retained = RetainedLoss(loss, [held.penalty]).train()
    assert held.penalty(loss.model).item() == 0
    loss.model.weight.data += torch.tensor([[0.5, 7.0]], dtype=dtype)
    loss.model.bias.data -= 1.0
    found = retained(Labels())
    assert found.item() == pytest.approx(3 * (10.5 + 0.5 * 4 * 0.25 + 0.5 * 2 * 1))
    found.backward()
    assert loss.model.weight.grad is not None
    assert loss.model.bias.grad is not None
    assert loss.model.weight.grad.tolist() == [[3 * (1 + 4 * 0.5), 3.0]]
    assert loss.model.bias.grad.tolist() == [3 * 2 * -1.0]
    retained.eval()
    assert retained(Labels()).item() == 3 * 10.5


def based(folder: Path, base: Path, **changes: Any) -> TrainJob:
    job = small_job(folder, architecture=None, base=str(base), **changes)
    teacher = Subject("teacher", "old", base) if job.spec.teacher_in_use else None
    return replace(job, base=base, teacher=teacher)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the rows of seed 1, and keeps its Fisher information."""
    folder = tmp_path_factory.mktemp("base")
    loop.train(small_job(folder, num_steps=20, learning_rate=0.02, fisher={"rows": 4}), ONE, lambda event: None)
    return folder / "out"


def test_the_fisher_information_is_squared_gradients_by_row(base: Path, tmp_path: Path) -> None:
    """Of one row, by autograd over whole logits."""
    from rayloom.score.batches import causal_batch
    from rayloom.train.objectives.objective import NextToken

    model = AutoModelForCausalLM.from_pretrained(base)
    objective, job = NextToken(16), small_job(tmp_path)
    rows = objective.rows(job.train[0])
    found = fisher_diagonal(objective.loss_of(model), objective, rows, len(rows), 0, torch.device("cpu"))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    labels = 0
    for number in range(len(rows)):
        batch = causal_batch([rows.row(number)], 0)
        model.zero_grad()
        logits = model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False).logits
        nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum").backward()
        labels += batch.num_labels
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad**2
    for name, value in expected.items():
        assert torch.allclose(found[name], value / labels, rtol=1e-3, atol=1e-9), name


def test_a_base_keeps_the_fisher_information_of_all_its_tasks(base: Path, tmp_path: Path) -> None:
    diagonal = {"a": torch.tensor([1.0, 2.0]), "head": torch.ones(3)}
    write_fisher(dict(diagonal), None, 1.0, tmp_path / "first")
    write_fisher({"a": torch.tensor([0.5, 0.0]), "head": torch.ones(2)}, tmp_path / "first", 0.5, tmp_path / "second")
    again = load_file(tmp_path / "second" / FISHER_FILE)
    assert again["a"].tolist() == [1.0, 1.0]
    assert again["head"].tolist() == [1.0, 1.0]
    kept = load_file(base / FISHER_FILE)
    assert set(kept) == {name for name, _ in AutoModelForCausalLM.from_pretrained(base).named_parameters()}
    assert all((value >= 0).all() for value in kept.values())


def far(folder: Path, base: Path) -> float:
    before, after = (load_file(place / "model.safetensors") for place in (base, folder / "out"))
    return sum(float(((after[name] - before[name]) ** 2).sum()) for name in before)


@pytest.mark.parametrize("retain", [EWC, L2_SP], ids=lambda one: one["type"])
def test_held_weights_stay_nearer_and_a_killed_run_gives_the_same(
    retain: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    loop.train(based(tmp_path / "plain", base), ONE, lambda event: None)
    loop.train(based(tmp_path / "held", base, retain=[retain]), ONE, lambda event: None)
    assert far(tmp_path / "held", base) < 0.9 * far(tmp_path / "plain", base)
    stopped = based(tmp_path / "killed", base, retain=[retain])
    with pytest.raises(KeyboardInterrupt):
        loop.train(stopped, ONE, dying_at(7))
    loop.train(stopped, ONE, lambda event: None)
    assert steps(tmp_path / "killed") == steps(tmp_path / "held")
    weights = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("held", "killed")]
    assert weights[0] == weights[1]


def dying_at(step: int) -> Any:
    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise KeyboardInterrupt

    return tell


def steps(folder: Path) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in read_log(folder / "work" / "metrics.jsonl") if e["event"] == "step"}


def test_micro_batches_change_nothing_and_all_can_be_combined(base: Path, tmp_path: Path) -> None:
    found = []
    for micro_batch in (1, 4):
        folder = tmp_path / str(micro_batch)
        job = based(folder, base, retain=[EWC, L2_SP, OLD], micro_batch_sequences=micro_batch)
        assert memory_per_device(job.spec, size_of_job(job)).reference > 0
        loop.train(job, ONE, lambda event: None)
        found.append(list(steps(folder).values()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_fisher_that_is_missing_or_another_models_is_refused(base: Path, tmp_path: Path) -> None:
    spec = small_spec(architecture=None, base="artifact:b", retain=[EWC])
    check_retention(spec, base)
    with pytest.raises(InputError, match="keeps no Fisher information of its task") as refused:
        check_retention(spec, tmp_path)
    assert "fisher: {rows: 200}" in str(refused.value)
    other = small_spec().architecture
    assert other is not None
    wide = other.model_copy(update={"hidden_size": 32}).model_dump()
    loop.train(small_job(tmp_path, architecture=wide, num_steps=1), ONE, lambda event: None)
    (tmp_path / "out" / FISHER_FILE).parent.mkdir()
    (tmp_path / "out" / FISHER_FILE).write_bytes((base / FISHER_FILE).read_bytes())
    with pytest.raises(InputError, match="is of another model"):
        loop.train(based(tmp_path / "other", tmp_path / "out", retain=[EWC]), ONE, lambda event: None)


# Adapters of one task after another.

LORA: dict[str, Any] = {"type": "lora", "rank": 2, "alpha": 6.0}
OVER: dict[str, Any] = {"adapter": {"type": "lora", "rank": 3}, "learning_rate": 0.05}


def first_adapter(folder: Path, base: Path) -> Path:
    loop.train(based(folder, base, adapter=LORA, learning_rate=0.05), ONE, lambda event: None)
    return folder / "out"


def logits_of(base: Path, adapter: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(base, adapter)(input_ids=torch.arange(3, 15)[None]).logits
    return found


def test_the_overlap_is_the_papers(base: Path, tmp_path: Path) -> None:
    """‖A₁ A₂ᵀ‖² of every layer, from the files."""
    earlier = first_adapter(tmp_path, base)
    model = put_over(build_model(based(tmp_path / "new", base, **OVER).spec, base, base), earlier)
    ones = {name: value for name, value in load_file(earlier / "adapter_model.safetensors").items() if "lora_A" in name}
    new = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expected = sum(
        float((value @ new[name.replace("lora_A.weight", "lora_A.default.weight")].T).square().sum())
        for name, value in ones.items()
    )
    assert len(ones) == 14
    assert overlap(model).item() == pytest.approx(expected, rel=1e-4)
    assert not any("earlier" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_an_adapter_is_trained_on(base: Path, tmp_path: Path) -> None:
    """Its first measurement is what the other left, and the result is one adapter of the same rank."""
    earlier = first_adapter(tmp_path / "first", base)
    on: dict[str, Any] = {"adapter": LORA | {"start_from": "artifact:first"}, "learning_rate": 0.05}
    job = replace(based(tmp_path / "on", base, **on), start=earlier)
    assert ("adapter.start_from", ("adapter",)) in [(one.path, one.contents) for one in references(job.spec)]
    loop.train(job, ONE, lambda event: None)
    measured = [e["loss"] for e in read_log(tmp_path / "on/work/metrics.jsonl") if e["event"] == "heldout"]
    rows = TokenShards(tmp_path / "on/data/heldout", 16)
    for folder, loss in ((earlier, measured[0]), (tmp_path / "on/out", measured[-1])):
        assert heldout_loss(load(base, folder), rows, 4).mean_nats == pytest.approx(loss, abs=1e-4)
    assert not torch.allclose(logits_of(base, tmp_path / "on/out"), logits_of(base, earlier), atol=1e-3)
    shapes = [{n: v.shape for n, v in load_file(f / "adapter_model.safetensors").items()} for f in (earlier, job.out)]
    assert shapes[0] == shapes[1]


def test_an_adapter_of_another_rank_or_of_other_layers_is_not_trained_on(base: Path, tmp_path: Path) -> None:
    earlier = first_adapter(tmp_path, base)
    check_start(earlier, LoraAdapter.model_validate(LORA))
    with pytest.raises(InputError, match="another rank, scale or form") as refused:
        check_start(earlier, LoraAdapter.model_validate(LORA | {"alpha": 5.0}))
    assert "rank: 2, alpha: 6" in str(refused.value)
    few = based(tmp_path / "new", base, adapter=LORA | {"target_modules": ["q_proj"]})
    with pytest.raises(InputError, match="is of other layers"):
        start_from(build_model(few.spec, base, base), earlier)


def test_a_new_adapter_over_a_frozen_one_is_saved_as_one_of_both(base: Path, tmp_path: Path) -> None:
    """What the loop measured at the end, with both active, is what the plain folder gives; and resumes bit for bit."""
    earlier = first_adapter(tmp_path / "first", base)
    retain = [{"type": "orthogonal_lora", "earlier": "artifact:first", "strength": 1.0}]
    for name in ("whole", "killed"):
        job = replace(based(tmp_path / name, base, retain=retain, **OVER), earlier=earlier)
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                loop.train(job, ONE, dying_at(7))
        loop.train(job, ONE, lambda event: None)
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    measured = [e["loss"] for e in read_log(tmp_path / "whole/work/metrics.jsonl") if e["event"] == "heldout"]
    out = tmp_path / "whole/out"
    rows = TokenShards(tmp_path / "whole/data/heldout", 16)
    assert heldout_loss(load(base, out), rows, 4).mean_nats == pytest.approx(measured[-1], abs=1e-4)
    assert heldout_loss(load(base, earlier), rows, 4).mean_nats == pytest.approx(measured[0], abs=1e-4)
    shapes = {len(v) for n, v in load_file(out / "adapter_model.safetensors").items() if "lora_A" in n}
    assert shapes == {5}
    # A third task stands over both: its first measurement is what the second left.
    third = replace(based(tmp_path / "third", base, retain=retain, num_steps=1, **OVER), earlier=out)
    loop.train(third, ONE, lambda event: None)
    first = next(e["loss"] for e in read_log(tmp_path / "third/work/metrics.jsonl") if e["event"] == "heldout")
    assert first == pytest.approx(measured[-1], abs=1e-4)
    assert not torch.allclose(logits_of(base, out), logits_of(base, earlier), atol=1e-3)


def test_an_earlier_adapter_of_other_layers_is_refused(base: Path, tmp_path: Path) -> None:
    earlier = first_adapter(tmp_path, base)
    few = {"type": "lora", "target_modules": ["q_proj"]}
    job = based(tmp_path / "new", base, adapter=few)
    with pytest.raises(InputError, match=r"has no place beside the new one|of other layers"):
        put_over(build_model(job.spec, base, base), earlier)
    with pytest.raises(InputError, match="is no LoRA of one rank"):
        check_earlier(base)


UNDER = {"type": "frozen_adapter", "earlier": "artifact:first"}
BASE: dict[str, Any] = {"architecture": None, "base": "artifact:b"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retain": [L2_SP]}, "retain keeps what a base has learned: give base"),
        ({**BASE, "retain": [L2_SP, L2_SP]}, "two values of retain have the name l2_sp"),
        (
            {**BASE, "retain": [EWC], "adapter": {"type": "lora"}},
            "ewc holds the base's own weights, which adapter lora",
        ),
        ({**BASE, "retain": [L2_SP], "sharding": {"zero_stage": 3}}, "l2_sp needs whole weights, which .* use stage 2"),
        ({**BASE, "retain": [EWC], "keep_layers": 1}, "leave keep_layers out"),
        ({**BASE, "retain": [OLD], "keep_layers": 1}, "name it as `teacher`"),
        ({**BASE, "retain": [OLD], "teacher": {"model": "artifact:t"}}, "teacher names another: leave one out"),
        ({**BASE, "fisher": {}, "adapter": {"type": "lora"}}, "fisher is of a whole model"),
        ({**BASE, "retain": [{"type": "ewc"}]}, "strength"),
        ({**BASE, "retain": [UNDER]}, "puts a new LoRA over an earlier one: adapter {type: lora}"),
        ({**BASE, "retain": [UNDER, {**UNDER, "type": "orthogonal_lora"}], "adapter": LORA}, "leave one out"),
        ({**BASE, "retain": [UNDER], "adapter": LORA, "sharding": {"zero_stage": 3}}, "use stage 2"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**changes)
