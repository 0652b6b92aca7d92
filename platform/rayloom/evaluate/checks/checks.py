"""Each kind of check: what it measures on one model, and which of its limits the numbers break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.artifacts.lineage import training_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.evaluate.checks.harness import check_harness_ready, measure_harness
from rayloom.evaluate.checks.measured import Measured
from rayloom.evaluate.checks.task import check_task_ready, measure_task
from rayloom.evaluate.checks.written import check_written_ready, measure_written
from rayloom.models.loading import check_causal
from rayloom.models.responders.subject import Subject
from rayloom.observe.progress import progress
from rayloom.score.answers import greedy_answers
from rayloom.score.perplexity import heldout_loss
from rayloom.specs.evaluate import AnswersCheck, HarnessCheck, HeldoutLoss, TaskCheck, WrittenCheck
from rayloom.text.packed.shards import TokenShards
from rayloom.text.tokenizer_digest import tokenizer_digest

Check = HeldoutLoss | AnswersCheck | WrittenCheck | TaskCheck | HarnessCheck

PREDICTIONS_NAME = "predictions.jsonl"
"""One line for each prompt, model by model, in an evaluation's artifact."""


@dataclass(frozen=True)
class Limit:
    """One limit of the spec and what was found."""

    check: str
    limit: str
    """The field of the spec: `min_share`."""
    wanted: float
    found: float
    is_met: bool
    sentence: str
    """What was found, in words."""


def check_ready(check: Check, rows_of: Artifact | None, subject: Subject) -> None:
    """Raises InputError for whatever would stop the check once the model is loaded."""
    if isinstance(check, TaskCheck):
        check_task_ready(_needed(rows_of), subject)
        return
    _check_goes_on_with_text(check, subject)
    if isinstance(check, HarnessCheck):
        check_harness_ready(check)
    elif isinstance(check, HeldoutLoss | WrittenCheck):
        check_same_tokenizer(heldout_shards(_needed(rows_of)), subject)
        if isinstance(check, WrittenCheck):
            check_written_ready(check, heldout_shards(_needed(rows_of)), subject)
    else:
        prompt_text(check, subject, check.prompts[0])


def rows_of_check(parents: Mapping[str, Artifact], number: int) -> Artifact | None:
    """What the check reads: held-out rows, or task files."""
    return parents.get(f"checks.{number}.rows_of") or parents.get(f"checks.{number}.task_files")


def measure(
    check: Check, rows_of: Artifact | None, subject: Subject, micro_batch_sequences: int, store: Store | None = None
) -> Measured:
    """Runs one check on one model.

    `rows_of`: the artifact whose held-out rows or task files are used. `store`: where the data behind it is looked for.
    """
    if isinstance(check, HeldoutLoss):
        return _heldout_loss(check, _needed(rows_of), subject, micro_batch_sequences)
    if isinstance(check, TaskCheck):
        return measure_task(check, _needed(rows_of), subject, store, micro_batch_sequences)
    if isinstance(check, WrittenCheck):
        return measure_written(check, heldout_shards(_needed(rows_of)), subject, micro_batch_sequences)
    if isinstance(check, HarnessCheck):
        return measure_harness(check, subject, rows_of.path if rows_of else None, micro_batch_sequences)
    return _answers(check, subject, micro_batch_sequences)


def limits(check: Check, found: Measured, baseline: Measured | None) -> list[Limit]:
    """The check's limits, met or not."""
    if isinstance(check, HeldoutLoss):
        return _loss_limits(check, found, baseline)
    if isinstance(check, TaskCheck | HarnessCheck | WrittenCheck):
        return _score_limits(check, found)
    return _share_limits(check, found)


# -- held-out loss -----------------------------------------------------------------------------------------------------


def _needed(rows_of: Artifact | None) -> Artifact:
    if rows_of is None:
        raise ValueError("this check needs the artifact that holds the rows")
    return rows_of


def heldout_shards(rows_of: Artifact) -> TokenShards:
    """The held-out rows of a training artifact. Raises InputError where it has none."""
    directory = rows_of.path / "heldout"
    training = training_of(rows_of.manifest)
    length = training.get("sequence_length_tokens")
    if training.get("task") is not None:
        fix = "Use a check of type task, which measures what it was trained for."
        raise InputError(f"{rows_of.id} was trained for a task, not to go on with text", where="rows_of", fix=fix)
    if training.get("preference") is not None:
        fix = "Name the rows of a run on conversations or on a corpus."
        raise InputError(
            f"The held-out rows of {rows_of.id} are judged answers, good and bad", where="rows_of", fix=fix
        )
    if length is None or not directory.exists():
        fix = "Name the adapter or model that a `train` job made."
        raise InputError(f"{rows_of.id} keeps no held-out rows", where=str(rows_of.path), fix=fix)
    return TokenShards(directory, int(length))


def check_same_tokenizer(shards: TokenShards, subject: Subject) -> None:
    """Raises InputError where the rows' ids mean other text to the model than to the one that they were made for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject.tokenizer_folder)
    if tokenizer_digest(tokenizer) != shards.tokenizer_digest:
        what = f"The held-out rows were made with another tokenizer than that of {subject.artifact_id}"
        fix = "Compare models that share a tokenizer, or name rows of a run on this model."
        raise InputError(what, where=str(shards.directory), fix=fix)


def _heldout_loss(check: HeldoutLoss, rows_of: Artifact, subject: Subject, micro_batch_sequences: int) -> Measured:
    shards = heldout_shards(rows_of)
    check_same_tokenizer(shards, subject)
    with progress(f"{check.name}: {subject.artifact_id}", len(shards)) as bar:
        loss = heldout_loss(subject.model, shards, micro_batch_sequences, bar.advance)
    return Measured(loss.as_metrics())


def _loss_limits(check: HeldoutLoss, found: Measured, baseline: Measured | None) -> list[Limit]:
    if check.max_increase is None or baseline is None:
        return []
    model, before = found.metrics["mean_nats"], baseline.metrics["mean_nats"]
    increase = round(model - before, 6)
    sentence = f"{check.name}: {model:.4f} nats per token against the baseline's {before:.4f}"
    # NaN is never within a limit.
    is_met = increase <= check.max_increase
    return [Limit(check.name, "max_increase", check.max_increase, increase, is_met, sentence)]


# -- answers -----------------------------------------------------------------------------------------------------------


def prompt_text(check: AnswersCheck, subject: Subject, prompt: str) -> str:
    """What the model is asked. Raises InputError where its chat template does not read the check's settings."""
    return subject.renderer.with_kwargs(check.chat_template_kwargs).prompt_text([{"role": "user", "content": prompt}])


def _answers(check: AnswersCheck, subject: Subject, micro_batch_sequences: int) -> Measured:
    renderer = subject.renderer.with_kwargs(check.chat_template_kwargs)
    prompts = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in check.prompts]
    with progress(f"{check.name}: {subject.artifact_id}", len(prompts), "answers") as bar:
        answers = greedy_answers(
            subject.model, prompts, check.max_new_tokens, renderer.stop_tokens, micro_batch_sequences, bar.advance
        )
    texts = [str(renderer.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]
    contains = [check.contains.casefold() in text.casefold() for text in texts]
    predictions = [
        {"check": check.name, "prompt": prompt, "answer": text, "contains": found}
        for prompt, text, found in zip(check.prompts, texts, contains, strict=True)
    ]
    metrics = {"share": round(sum(contains) / len(contains), 6), "count": sum(contains), "num_prompts": len(contains)}
    return Measured(metrics, predictions)


def _share_limits(check: AnswersCheck, found: Measured) -> list[Limit]:
    share, metrics = found.metrics["share"], found.metrics
    sentence = f"{check.name}: {metrics['count']} of {metrics['num_prompts']} answers contain {check.contains!r}"
    wanted: tuple[tuple[str, float | None, Callable[[float], bool]], ...] = (
        ("min_share", check.min_share, lambda limit: share >= limit),
        ("max_share", check.max_share, lambda limit: share <= limit),
    )
    return [
        Limit(check.name, name, limit, share, is_met(limit), sentence)
        for name, limit, is_met in wanted
        if limit is not None
    ]


def _check_goes_on_with_text(check: Check, subject: Subject) -> None:
    if subject.task is not None:
        what = f"{subject.artifact_id} answers with labels, and the check {check.name} wants text"
        raise InputError(what, where=f"checks {check.name}", fix="Use a check of type task.")
    check_causal(subject.base)


def _score_limits(check: TaskCheck | HarnessCheck | WrittenCheck, found: Measured) -> list[Limit]:
    if check.min_score is None:
        return []
    score, name = found.metrics["score"], found.metrics["score_name"]
    sentence = f"{check.name}: {name} {score:.4f} on {found.metrics['num_rows']} texts"
    return [Limit(check.name, "min_score", check.min_score, score, score >= check.min_score, sentence)]


def shown(metrics: Mapping[str, Any]) -> str:
    """A check's result on one model in a few words, for tables."""
    if "score_name" in metrics:
        low, high = metrics["interval"]
        return f"{metrics['score_name']} {metrics['score']:.4f} ({low:.4f} to {high:.4f})"
    if "mean_nats" in metrics:
        return f"{metrics['mean_nats']:.4f} nats, perplexity {metrics['perplexity']:.2f}"
    return f"{metrics['count']} of {metrics['num_prompts']}"
