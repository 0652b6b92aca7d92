"""A teacher in the loss: numbers worked by hand, gradients against autograd, students of fewer layers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from support.models import tiny_llama
from support.tasks import without_weights, write_encoder
from support.training_jobs import ONE, small_job, small_spec, write_teacher
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, Gemma2Config, Qwen3Config

from rayloom.errors import InputError
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import save_task
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.distillation import DistilledLabelLoss, DistilledTaskLoss, divergence, recorded_divergence
from rayloom.score.label_loss import LabelLoss
from rayloom.score.task_batches import TaskBatch
from rayloom.score.task_loss import TaskLoss, task_logits
from rayloom.specs.training.tasks import Task
from rayloom.specs.training.teacher import Teacher
from rayloom.train.loop import loop
from rayloom.train.loop.run_log import read_log
from rayloom.train.objectives.recorded import records_of
from rayloom.train.sizes.estimates import flops_per_token, memory_per_device
from rayloom.train.sizes.model_size import size_of_job
from rayloom.train.weights.fewer_layers import chosen, keep_layers
from rayloom.train.weights.teacher import check_teacher

FORMS: dict[str, dict[str, Any]] = {
    "forward": {"type": "forward_kl"},
    "reverse": {"type": "reverse_kl"},
    "jensen-shannon": {"type": "jensen_shannon", "teacher_share": 0.3},
}


def teacher(form: str = "forward", **changes: Any) -> Teacher:
    return Teacher.model_validate({"model": "artifact:big", "divergence": FORMS[form]} | changes)


def by_hand(p: list[float], q: list[float], form: str) -> float:
    def kl(one: list[float], other: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    mixed = [0.3 * a + 0.7 * b for a, b in zip(p, q, strict=True)]
    both = {"forward": kl(p, q), "reverse": kl(q, p), "jensen-shannon": 0.3 * kl(p, mixed) + 0.7 * kl(q, mixed)}
    return both[form]


@pytest.mark.parametrize("form", FORMS)
def test_the_divergence_is_the_papers(form: str) -> None:
    """Logits of 2 log p at temperature 2 are the distribution p, and T² is 4."""
    p, q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]
    student, big = (torch.tensor([one, one]).log() * 2 for one in (q, p))
    total, _ = divergence(student, big, teacher(form, temperature=2.0))
    assert float(total) == pytest.approx(2 * 4 * by_hand(p, q, form), rel=1e-5)
    assert float(divergence(big, big, teacher(form))[0]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_autograds(form: str, temperature: float) -> None:
    torch.manual_seed(0)
    student, big = torch.randn(5, 11, requires_grad=True), torch.randn(5, 11)
    total, gradient = divergence(student, big, teacher(form, temperature=temperature))
    (expected,) = torch.autograd.grad(total, student)
    assert torch.allclose(gradient, expected, atol=1e-5)


def lm_batch(vocabulary: int) -> Batch:
    torch.manual_seed(1)
    tokens = torch.randint(3, vocabulary, (2, 12))
    labels = tokens.roll(-1, 1)
    labels[:, -1] = labels[0, :5] = NO_LABEL
    return Batch(tokens, torch.arange(12).expand(2, -1).contiguous(), labels, 24)


def plainly(student: nn.Module, big: nn.Module, batch: Batch, spec: Teacher) -> Tensor:
    """The loss as its description says it, with whole logits."""
    asked, total = batch.labels != NO_LABEL, torch.zeros(())
    inputs: dict[str, Any] = {"input_ids": batch.tokens, "position_ids": batch.positions, "use_cache": False}
    logits, soft = student(**inputs).logits[asked], big(**inputs).logits[asked].detach()
    shared = min(logits.shape[-1], soft.shape[-1])
    log_q = (logits[:, :shared] / spec.temperature).log_softmax(-1)
    p = (soft[:, :shared] / spec.temperature).softmax(-1)
    total = functional.kl_div(log_q, p, reduction="sum") * spec.temperature**2 * spec.weight
    return total + functional.cross_entropy(logits, batch.labels[asked], reduction="sum") * (1 - spec.weight)


GEMMA2 = Gemma2Config(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
    num_key_value_heads=2, sliding_window=4, query_pre_attn_scalar=8, initializer_range=0.1, pad_token_id=0,
)  # fmt: skip


def pair_of(name: str) -> tuple[nn.Module, nn.Module]:
    """A student and a teacher of another width; `padded`: of another vocabulary size; gemma2: with capped logits."""
    if name == "gemma2":
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(GEMMA2), tiny_llama(1, vocab_size=61)
    sizes = (64, 80) if name == "padded" else (64, 64)
    return tiny_llama(0, vocab_size=sizes[0], hidden_size=32), tiny_llama(1, vocab_size=sizes[1])


@pytest.mark.parametrize("weight", [0.4, 1.0])
@pytest.mark.parametrize("name", ["llama", "padded", "gemma2"])
def test_labels_and_teacher_are_learned_together(name: str, weight: float) -> None:
    student, big = pair_of(name)
    spec, batch = teacher(temperature=1.5, weight=weight), lm_batch(61)
    loss = DistilledLabelLoss(student.train(), big, spec)
    assert [id(p) for p in loss.parameters()] == [id(p) for p in student.parameters()]  # the teacher's are not trained
    found = loss(batch)
    found.backward()
    gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    expected = plainly(student, big, batch, spec)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert len(gradients) == len(list(student.parameters()))
    for one, parameter in zip(gradients, student.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(one, parameter.grad, atol=2e-4 * float(parameter.grad.abs().max()) + 1e-6)


def test_layers_are_compared_with_those_of_the_teacher_that_they_were() -> None:
    """Of four layers the first and the third are kept; the last one learns what the teacher's last one does."""
    big = tiny_llama(1, num_hidden_layers=4)
    student = keep_layers(tiny_llama(0, num_hidden_layers=4), (0, 2)).train()
    spec, batch = teacher(hidden_states_weight=0.5), lm_batch(61)
    found, plain = DistilledLabelLoss(student, big, spec, (0, 2))(batch), DistilledLabelLoss(student, big, spec)(batch)
    inputs: dict[str, Any] = {"input_ids": batch.tokens, "position_ids": batch.positions, "use_cache": False}
    with torch.no_grad():
        one, other = (model(**inputs, output_hidden_states=True).hidden_states for model in (student, big))
    expected = 0.0
    for states, learned in ((one[1], other[1]), (one[2], other[4])):
        for row, place in (batch.labels != NO_LABEL).nonzero().tolist():
            s, t = states[row, place].double(), learned[row, place].double()
            expected += 0.5 / 2 * float((s - t).square().sum() / t.square().sum())
    assert found.item() - plain.item() == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())


def test_a_copy_of_the_teacher_has_no_distance_from_it() -> None:
    big, copy = tiny_llama(1), tiny_llama(1).train()
    batch = lm_batch(61)
    losses = [DistilledLabelLoss(copy, big, teacher(hidden_states_weight=3.0), kept)(batch) for kept in ((0, 1), ())]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    empty = DistilledLabelLoss(copy, big, teacher(hidden_states_weight=3.0), (0, 1))(batch.without_labels())
    empty.backward()
    assert empty.item() == 0


def test_rows_without_labels_teach_nothing_and_held_out_losses_are_plain() -> None:
    student, big = pair_of("llama")
    loss = DistilledLabelLoss(student.train(), big, teacher())
    empty = loss(lm_batch(61).without_labels())
    empty.backward()
    assert empty.item() == 0
    assert all(not p.grad.any() for p in student.parameters() if p.grad is not None)
    student.eval()
    assert torch.equal(loss(lm_batch(61)), LabelLoss(student)(lm_batch(61)))


def heads(target: str) -> tuple[nn.Module, nn.Module, TaskBatch]:
    from transformers import BertForSequenceClassification, BertForTokenClassification

    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            num_labels=3, initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        made.append((BertForTokenClassification if target == "tags" else BertForSequenceClassification)(config))
    tokens, mask = torch.randint(3, 40, (2, 4)), torch.ones(2, 4, dtype=torch.long)
    targets = {
        "label": torch.tensor([2, NO_LABEL]),
        "labels": torch.tensor([[0, 1, 1], [1, 0, NO_LABEL]]),
        "tags": torch.tensor([[NO_LABEL, 0, 1, NO_LABEL], [NO_LABEL, 2, 2, 0]]),
    }
    return made[0].train(), made[1].eval(), TaskBatch(tokens, mask, torch.zeros_like(tokens), targets[target], 8)


@pytest.mark.parametrize("target", ["label", "labels", "tags"])
def test_soft_labels_of_a_head(target: Any) -> None:
    student, big, batch = heads(target)
    found = DistilledTaskLoss(TaskLoss(student, target), big, teacher(weight=0.25, temperature=2.0))(batch).item()
    logits, soft = (task_logits(model, batch, target).detach().double() / 2 for model in (student, big))
    expected = 0.0
    for place in (batch.targets != NO_LABEL).nonzero().tolist():
        one, other = logits[tuple(place)], soft[tuple(place)]
        if target == "labels":
            q, p = torch.sigmoid(one), torch.sigmoid(other)
            expected += float(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
        else:
            expected += by_hand(other.softmax(-1).tolist(), one.softmax(-1).tolist(), "forward")
    plain = TaskLoss(student, target)(batch).item()
    assert found == pytest.approx(0.75 * plain + 0.25 * 4 * expected, rel=1e-5)


# A teacher that was recorded.


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_recorded_counts_as_one_token_more(form: str) -> None:
    """Teacher .7 .2 and .1 for the two others; student .4 .3 and .3 for them; and the gradient is autograd's."""
    student = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log().requires_grad_()
    tokens, log_p = torch.tensor([[0, 2]]), torch.tensor([[0.7, 0.2]]).log()
    total, gradient = recorded_divergence(student, tokens, log_p, teacher(form))
    assert total.item() == pytest.approx(by_hand([0.7, 0.2, 0.1], [0.4, 0.3, 0.3], form), rel=1e-4)
    (expected,) = torch.autograd.grad(total, student)
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_all_tokens_recorded_are_the_whole_divergence() -> None:
    torch.manual_seed(0)
    student, big = torch.randn(5, 11), torch.randn(5, 11)
    found = big.log_softmax(-1).topk(10)
    total, gradient = recorded_divergence(student, found.indices, found.values, teacher())
    whole, by_logits = divergence(student, big, teacher())
    assert float(total) == pytest.approx(float(whole), rel=1e-4)
    assert torch.allclose(gradient, by_logits, atol=1e-4)


def test_a_recorded_teacher_teaches_as_one_beside_the_student(tmp_path: Path) -> None:
    """All but one token are kept, so losses are equal up to fp16; the second job finds the record of the first."""
    found, said = {}, []
    for name, recorded in (("beside", None), ("recorded", {"top_k": 66}), ("again", {"top_k": 66})):
        job = small_job(tmp_path / name, teacher={"model": "artifact:big", "weight": 0.6, "recorded": recorded})
        if recorded:
            big = Subject("teacher", "big", tmp_path / "beside/data/teacher")
            job = replace(job, teacher=big, records=records_of(job.spec, big, job.train))
            assert size_of_job(job).of_teacher is None
        loop.train(job, ONE, lambda event: said.append(event.get("text", "")))
        found[name] = [e["loss"] for e in read_log(job.log) if e["event"] in ("step", "heldout")]
    assert found["recorded"] == pytest.approx(found["beside"], abs=2e-3)
    assert found["again"] == found["recorded"]
    assert said.count("computing what the teacher thinks of all rows before training") == 1


def test_a_record_is_of_its_rows_and_its_teacher(tmp_path: Path) -> None:
    job = small_job(tmp_path, teacher={"model": "artifact:big", "recorded": {"top_k": 4}})
    assert job.teacher is not None
    (first,) = records_of(job.spec, job.teacher, job.train).values()
    (other,) = records_of(job.spec, job.teacher, (job.heldout["heldout"],)).values()
    longer = small_spec(teacher={"model": "artifact:big", "recorded": {"top_k": 5}})
    (wider,) = records_of(longer, job.teacher, job.train).values()
    assert len({first, other, wider}) == 3
    assert records_of(small_spec(teacher={"model": "artifact:big"}), job.teacher, job.train) == {}


# In a training job.

TAUGHT = {"teacher": {"model": "artifact:big", "weight": 1.0}, "learning_rate": 0.03, "num_steps": 30}


def test_a_student_comes_closer_to_its_teacher_than_labels_alone_bring_it(tmp_path: Path) -> None:
    """The teacher is random, so that nothing but its own distributions leads there."""
    apart = {}
    big = AutoModelForCausalLM.from_pretrained(write_teacher(tmp_path / "big")).eval()
    for name, changes in {"alone": TAUGHT | {"teacher": None}, "taught": TAUGHT}.items():
        loop.train(small_job(tmp_path / name, **changes), ONE, lambda event: None)
        student = AutoModelForCausalLM.from_pretrained(tmp_path / name / "out").eval()
        batch = lm_batch(61)
        with torch.no_grad():
            logits = [model(input_ids=batch.tokens).logits.flatten(0, 1) for model in (student, big)]
        apart[name] = divergence(*logits, teacher())[0].item() / batch.tokens.numel()
    assert apart["taught"] < 0.7 * apart["alone"]


def test_the_plan_counts_the_teacher(tmp_path: Path) -> None:
    job = small_job(tmp_path, **TAUGHT)
    alone, size = small_job(tmp_path, **TAUGHT | {"teacher": None}), size_of_job(job)
    held = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tmp_path / "data/teacher").parameters())
    assert memory_per_device(job.spec, size).reference == 4 * held
    assert memory_per_device(alone.spec, size_of_job(alone)).reference == 0
    assert flops_per_token(size, 16) > flops_per_token(size_of_job(alone), 16)


def test_a_teacher_of_another_tokenizer_is_refused_with_what_works(tmp_path: Path) -> None:
    job = small_job(tmp_path, **TAUGHT)
    assert job.teacher is not None
    check_teacher(job.spec, job.teacher, job.tokenizer)
    with pytest.raises(InputError, match=r"has another tokenizer") as refused:
        check_teacher(job.spec, job.teacher, write_encoder(tmp_path / "another"))
    assert "let it answer your prompts in a `generate` job" in str(refused.value)


def test_a_teacher_without_a_head_over_words_is_refused(tmp_path: Path) -> None:
    spec = small_spec(
        architecture=None, base="artifact:b", objective={"type": "masked"}, teacher={"model": "artifact:big"}
    )
    folder = write_encoder(tmp_path)
    check_teacher(spec, Subject("teacher", "big", folder), folder)
    headless = Subject("teacher", "big", without_weights(folder, "cls."))
    with pytest.raises(InputError, match=r"predicts no masked words: its head is missing \(cls\.predictions"):
        check_teacher(spec, headless, folder)


def test_a_teacher_of_other_labels_is_refused(tmp_path: Path) -> None:
    task: dict[str, Any] = {"type": "text_classification", "labels": ["no", "yes"]}
    data = {"type": "labelled", "sources": [{"dataset": "artifact:rows", "read": {"type": "table"}}]}
    changes = {"architecture": None, "base": "artifact:b", "task": task, "data": data}
    spec = small_spec(**changes, teacher={"model": "artifact:big"})
    folder = write_teacher(tmp_path)
    big = Subject("teacher", "big", folder)
    with pytest.raises(InputError, match="not trained for this task with these labels, in this order"):
        check_teacher(spec, big, folder)
    save_task(TypeAdapter(Task).validate_python(task | {"labels": ["yes", "no"]}), 16, folder)
    with pytest.raises(InputError, match="not trained for this task with these labels, in this order"):
        check_teacher(spec, Subject("teacher", "big", folder), folder)
    save_task(TypeAdapter(Task).validate_python(task), 16, folder)
    check_teacher(spec, Subject("teacher", "big", folder), folder)
    with pytest.raises(InputError, match="answers with labels, and the student learns language"):
        check_teacher(small_spec(teacher={"model": "artifact:big"}), Subject("teacher", "big", folder), folder)


def test_hidden_states_of_another_width_are_refused(tmp_path: Path) -> None:
    spec = small_spec(architecture=None, base="artifact:b", keep_layers=1, teacher=STATES)
    folder, big = write_teacher(tmp_path / "base"), Subject("teacher", "big", write_teacher(tmp_path / "big"))
    check_teacher(spec, big, folder, folder)
    config = json.loads((big.base / "config.json").read_text())
    (big.base / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises(InputError, match=r"hidden states of .* numbers, and big of"):
        check_teacher(spec, big, folder, folder)


def test_a_teacher_with_fewer_layers_than_the_base_is_refused_where_layers_are_compared(tmp_path: Path) -> None:
    spec = small_spec(architecture=None, base="artifact:b", keep_layers=1, teacher=STATES)
    folder, big = write_teacher(tmp_path / "base"), Subject("teacher", "big", write_teacher(tmp_path / "big"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match="hidden states of 2 layers of 32 numbers, and big of 1 layers of 32"):
        check_teacher(spec, big, folder, folder)


@pytest.mark.parametrize("changes", [{"activation_checkpointing": True}, {"sharding": {"zero_stage": 3}}])
def test_recomputed_and_sharded_layers_are_compared_alike(tmp_path: Path, changes: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"architecture": None, "base": "./teacher", "keep_layers": 1, "num_steps": 4}
    asked |= {"teacher": STATES | {"weight": 0.5, "hidden_states_weight": 5.0}, "learning_rate": 0.03}
    losses = {}
    for name, more in {"plain": {}, "changed": changes}.items():
        job = small_job(tmp_path / name, **(asked | more))
        loop.train(job, ONE, lambda event: None)
        losses[name] = [event["loss"] for event in read_log(job.log) if event["event"] == "step"]
    assert losses["changed"] == pytest.approx(losses["plain"], rel=1e-4)


def test_layers_of_an_encoder_are_compared() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=61, num_hidden_layers=3, **sizes, hidden_dropout_prob=0.0)
        made.append(BertForMaskedLM(config))
    student, big = keep_layers(made[0], (0, 2)).train(), made[1].eval()
    spec, batch = teacher(hidden_states_weight=2.0), lm_batch(61)
    apart, plain = (DistilledLabelLoss(student, big, spec, kept)(batch) for kept in ((0, 2), ()))
    assert apart.item() > plain.item() + 0.1
    apart.backward()
    own = [p for name, p in student.named_parameters() if "layer." in name]
    assert own and all(p.grad is not None for p in own)


STATES = {"model": "artifact:big", "hidden_states_weight": 1.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_layers": None}, "give both"),
        ({"compile": True}, "compile is not proven"),
        ({"teacher": STATES | {"recorded": {"top_k": 5}}}, "keeps no hidden states"),
        ({"teacher": STATES | {"hidden_states_weight": 0}}, "greater than 0"),
    ],
)
def test_where_hidden_states_cannot_be_compared_check_says_so(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**{"architecture": None, "base": "artifact:b", "keep_layers": 1, "teacher": STATES} | changes)


# A student that begins with some of its base's layers.


def test_layers_are_spread_evenly_or_named() -> None:
    assert chosen(4, 10) == (0, 3, 6, 9)
    assert chosen(1, 10) == (0,)
    assert chosen((2, 5), 6) == (2, 5)
    for wanted in (7, (0, 6)):
        with pytest.raises(InputError, match="The base has 6 layers, 0 to 5"):
            chosen(wanted, 6)


@pytest.mark.parametrize("name", ["llama", "qwen3", "bert"])
def test_a_student_of_fewer_layers_is_a_model_of_its_own(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    qwen = Qwen3Config(**sizes, num_hidden_layers=4, num_key_value_heads=2, head_dim=8)
    model: Any = {
        "llama": lambda: tiny_llama(0, num_hidden_layers=4),
        "qwen3": lambda: AutoModelForCausalLM.from_config(qwen),
        "bert": lambda: BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=4)),
    }[name]()
    last = model.state_dict()[next(n for n in model.state_dict() if ".3." in n)].clone()
    keep_layers(model, (0, 3)).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 2
    assert torch.equal(again.state_dict()[next(n for n in again.state_dict() if ".1." in n)], last)
    tokens = torch.tensor(np.arange(3, 11)[None])
    expected = model.eval()(input_ids=tokens).logits
    assert torch.allclose(again(input_ids=tokens).logits, expected, atol=1e-5)
    if name != "bert":  # its cache has as many layers, too
        answer = again.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(answer[:, 8], expected[:, -1].argmax(-1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_layers": 2}, "keep_layers makes a smaller whole model of a base: give base"),
        ({"base": "artifact:b", "architecture": None, "keep_layers": 2, "adapter": {"type": "lora"}}, "leave adapter"),
        ({"base": "artifact:b", "architecture": None, "keep_layers": [3, 1]}, "layers in rising order"),
        ({"teacher": {"model": "artifact:big", "weight": 0}}, "greater than 0"),
        ({"teacher": {"model": "artifact:big", "temperature": 0}}, "greater than 0"),
        ({"teacher": {"model": "artifact:big", "temperature": 2, "recorded": {}}}, "leave temperature out"),
        (
            {
                "teacher": {"model": "artifact:big"},
                "architecture": {"type": "encoder-decoder", "num_layers": 2, "hidden_size": 16},
            },
            "not for span: let it answer your prompts in a `generate` job",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**changes)
