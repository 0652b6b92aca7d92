"""The check of what a model writes for held-out conversations, against the answers that stand there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Measured, check_goes_on_with_text
from rayloom.evaluate.checks.heldout import check_same_tokenizer, heldout_rows, num_heldout
from rayloom.evaluate.checks.scored import MOST_TEXTS_SHOWN, TEXT_CHARACTERS, ScoreCheck
from rayloom.models.responders.responder import TextResponder
from rayloom.models.vllm_adapter import check_offline
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress, say
from rayloom.observe.report_page import Section, table
from rayloom.score.answers import greedy_answers
from rayloom.score.class_scores import of_ratio, ratio
from rayloom.score.text_scores import sentence_chrf, text_scores
from rayloom.specs.evaluate import WrittenCheck
from rayloom.text.packed.preview import documents
from rayloom.text.packed.shards import TokenShards
from rayloom.text.packed.text_rows import TextRows


@dataclass(frozen=True)
class Asked:
    """A conversation up to its first answer, and that answer with its end-of-turn token, in token ids."""

    prompt: list[int]
    answer: list[int]


def first_answers(shards: TokenShards | TextRows) -> Iterator[Asked]:
    """One for each conversation that begins with something to answer."""
    for row in (shards.row(index) for index in range(len(shards))):
        for part in documents(row):
            trained = row.trained[part]
            begin = int(trained.argmax())
            if begin and trained[begin]:
                following = np.flatnonzero(~trained[begin:])
                end = begin + int(following[0]) if len(following) else len(trained)
                tokens = row.tokens[part].tolist()
                yield Asked(tokens[:begin], tokens[begin:end])


class WrittenScore(ScoreCheck[WrittenCheck]):
    """How near what the model writes comes to the answers that stand in the held-out rows, in chrF."""

    further = ("chrf", "bleu", "rouge1", "rouge2", "rouge_l")

    def ready(self, case: Case[WrittenCheck]) -> None:
        check_goes_on_with_text(case.spec.name, case.subject)
        spec, shards = case.spec, heldout_rows(case.rows, case.subject)
        check_same_tokenizer(shards, case.subject)
        if next(first_answers(shards), None) is None:
            what = "The held-out rows are no conversations: all of their text is trained, and nothing asks for it"
            raise InputError(what, where=f"checks {spec.name}", fix="Use a check of type heldout_loss.")
        if spec.generation.engine == "vllm":
            check_offline(case.subject)

    def plan(self, case: Case[WrittenCheck], sheet: PlanSheet) -> None:
        sheet.add(case.spec.name, num_heldout(case.rows, case.subject))

    def measure(self, case: Case[WrittenCheck]) -> Measured:
        spec, subject = case.spec, case.subject
        asked = list(itertools.islice(first_answers(heldout_rows(case.rows, case.subject)), spec.limit_rows))
        responder = TextResponder(subject, spec.generation)
        expected = [str(responder.answer(one.answer)["answer"]) for one in asked]
        found = _written(spec, asked, responder, case.micro_batch_sequences)
        values = sentence_chrf(expected, found)
        parts = [(value, 1.0) for value in values]
        decode = subject.renderer.tokenizer.decode
        predictions = [
            {
                "check": spec.name,
                "origin": f"held-out conversation {number}",
                "text": str(decode(one.prompt)),
                "expected": [want],
                "found": [got],
                "chrf": round(value, 4),
            }
            for number, (one, want, got, value) in enumerate(zip(asked, expected, found, values, strict=True), 1)
        ]
        scores = {"score": round(ratio(parts), 6), "interval": of_ratio(parts).as_metrics(), "num_rows": len(asked)}
        return Measured({"score_name": "chrF"} | text_scores(expected, found) | scores, predictions, parts)

    @staticmethod
    def texts(predictions: Sequence[Mapping[str, Any]]) -> list[Section]:
        """The first texts that were written, beside those expected."""
        rows = []
        for row in predictions[:MOST_TEXTS_SHOWN]:
            texts = (text[:TEXT_CHARACTERS] for text in (row["text"], *row["expected"], *row["found"]))
            rows.append((row["check"], row["role"], *texts, float(row["chrf"])))
        header = ("check", "by", "prompt", "expected", "written", "chrF")
        return [Section("What was written", table(header, rows))] if rows else []


def _written(spec: WrittenCheck, asked: list[Asked], responder: TextResponder, micro_batch_sequences: int) -> list[str]:
    subject, prompts = responder.subject, [one.prompt for one in asked]
    if spec.generation.engine == "transformers":
        with progress(f"{spec.name}: {subject.artifact_id}", len(prompts), "answers") as bar:
            longest, stops = spec.generation.max_new_tokens, subject.renderer.stop_tokens
            answers = greedy_answers(subject.model, prompts, longest, stops, micro_batch_sequences, bar.advance)
        return [str(responder.answer(tokens)["answer"]) for tokens in answers]
    from rayloom.evaluate.offline.engine import EngineUse
    from rayloom.evaluate.offline.engine import answers as written
    from rayloom.observe.ray_session import connect

    connect()
    say(f"{spec.name}: {subject.artifact_id} answers {len(prompts)} prompts")
    use = EngineUse(subject, spec.generation, micro_batch_sequences, 1, spec.cpus_per_worker, spec.gpus_per_worker)
    found = written(use, prompts)
    failed = [row["failed"] for row in found if "failed" in row]
    if failed:
        what = f"{len(failed)} of {len(found)} prompts have no answer: {failed[0]}"
        raise InputError(what, where=f"checks {spec.name}", fix="Raise generation.max_length_tokens.")
    return [str(row["answer"]) for row in found]
