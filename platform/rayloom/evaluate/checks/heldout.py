"""The check of held-out rows: the model's mean loss over their trained tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayloom.artifacts.lineage import training_of
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Check, Limit, Measured, check_goes_on_with_text
from rayloom.models.responders.subject import Subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress
from rayloom.reading.sources import row_files
from rayloom.score.perplexity import heldout_loss
from rayloom.specs.evaluate import HeldoutLoss
from rayloom.specs.row_files import RowFiles
from rayloom.text.packed.shards import TokenShards
from rayloom.text.packed.text_rows import TextRows, text_rows
from rayloom.text.tokenizer_files import tokenizer_digest

MAX_DATASET_TOKENS = 65_536
CORPUS_ROW_TOKENS = 512


class Perplexity(Check[HeldoutLoss]):
    """Nats per token and perplexity."""

    is_better_higher = False

    def ready(self, case: Case[HeldoutLoss]) -> None:
        check_goes_on_with_text(case.spec.name, case.subject)
        check_same_tokenizer(heldout_rows(case.rows, case.subject), case.subject)

    def plan(self, case: Case[HeldoutLoss], sheet: PlanSheet) -> None:
        sheet.add(case.spec.name, num_heldout(case.rows, case.subject))

    def measure(self, case: Case[HeldoutLoss]) -> Measured:
        shards, subject = heldout_rows(case.rows, case.subject), case.subject
        check_same_tokenizer(shards, subject)
        with progress(f"{case.spec.name}: {subject.artifact_id}", len(shards)) as bar:
            loss = heldout_loss(subject.model, shards, case.micro_batch_sequences, bar.advance)
        return Measured(loss.as_metrics())

    def limits(self, spec: HeldoutLoss, by_role: Mapping[str, Measured]) -> list[Limit]:
        if spec.max_increase is None or "baseline" not in by_role:
            return []
        counts = {role: measured.metrics["num_tokens"] for role, measured in by_role.items()}
        if len(set(counts.values())) > 1:
            what = f"The losses of {spec.name} are over other tokens: {counts}"
            raise InputError(what, where="max_increase", fix="Compare models that share a tokenizer.")
        model, before = by_role["model"].metrics["mean_nats"], by_role["baseline"].metrics["mean_nats"]
        increase = round(model - before, 6)
        sentence = f"{spec.name}: {model:.4f} nats per token against the baseline's {before:.4f}"
        # NaN is never within a limit.
        is_met = increase <= spec.max_increase
        return [Limit(spec.name, "max_increase", spec.max_increase, increase, is_met, sentence)]

    def shown(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['mean_nats']:.4f} nats, perplexity {metrics['perplexity']:.2f}"

    def figure(self, metrics: Mapping[str, Any]) -> tuple[str, float]:
        return "nats a token", metrics["mean_nats"]


def heldout_rows(rows_of: Artifact, subject: Subject) -> TokenShards | TextRows:
    """The held-out rows of a training artifact or a corpus, or the first rows of a data set in the model's tokens.

    Raises InputError where it has none."""
    if rows_of.manifest.content == "dataset":
        return text_rows(row_files(RowFiles(), rows_of), subject.tokenizer_folder, MAX_DATASET_TOKENS, rows_of.path)
    directory = rows_of.path / "heldout"
    if rows_of.manifest.content == "corpus":
        return TokenShards(directory, CORPUS_ROW_TOKENS)
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


def num_heldout(rows_of: Artifact, subject: Subject) -> str:
    """Tokens and rows, in words."""
    shards = heldout_rows(rows_of, subject)
    return f"{shards.num_tokens:,} held-out tokens of {rows_of.id} in {len(shards):,} rows"


def check_same_tokenizer(shards: TokenShards | TextRows, subject: Subject) -> None:
    """Raises InputError where the rows' ids mean other text to the model than to the one that they were made for."""
    from rayloom.pretrained import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(subject.tokenizer_folder)
    if tokenizer_digest(tokenizer) != shards.tokenizer_digest:
        what = f"The held-out rows were made with another tokenizer than that of {subject.artifact_id}"
        fix = "Compare models that share a tokenizer, or name rows of a run on this model."
        raise InputError(what, where=str(shards.directory), fix=fix)
