"""The check of what a model writes for held-out conversations, against the answers that stand there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rayloom.errors import InputError
from rayloom.evaluate.checks.measured import Measured
from rayloom.evaluate.offline.adapter import check_offline
from rayloom.models.responders.responder import TextResponder
from rayloom.models.responders.subject import Subject
from rayloom.observe.progress import progress, say
from rayloom.score.answers import greedy_answers
from rayloom.score.intervals import of_ratio, ratio
from rayloom.score.text_scores import sentence_chrf, text_scores
from rayloom.specs.evaluate import WrittenCheck
from rayloom.text.packed.preview import documents
from rayloom.text.packed.shards import TokenShards


@dataclass(frozen=True)
class Asked:
    """A conversation up to its first answer, and that answer with its end-of-turn token, in token ids."""

    prompt: list[int]
    answer: list[int]


def first_answers(shards: TokenShards) -> Iterator[Asked]:
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


def check_written_ready(check: WrittenCheck, shards: TokenShards, subject: Subject) -> None:
    """Raises InputError where there is nothing to answer, or the engine cannot load the model."""
    if next(first_answers(shards), None) is None:
        what = "The held-out rows are no conversations: all of their text is trained, and nothing asks for it"
        raise InputError(what, where=f"checks {check.name}", fix="Use a check of type heldout_loss.")
    if check.generation.engine == "vllm":
        check_offline(subject)


def measure_written(check: WrittenCheck, shards: TokenShards, subject: Subject, micro_batch_sequences: int) -> Measured:
    """Runs the check on one model."""
    asked = list(itertools.islice(first_answers(shards), check.limit_rows))
    responder = TextResponder(subject, check.generation)
    expected = [str(responder.answer(one.answer)["answer"]) for one in asked]
    found = _texts(check, asked, responder, micro_batch_sequences)
    values = sentence_chrf(expected, found)
    parts = [(value, 1.0) for value in values]
    decode = subject.renderer.tokenizer.decode
    predictions = [
        {
            "check": check.name,
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


def _texts(check: WrittenCheck, asked: list[Asked], responder: TextResponder, micro_batch_sequences: int) -> list[str]:
    subject, prompts = responder.subject, [one.prompt for one in asked]
    if check.generation.engine == "transformers":
        with progress(f"{check.name}: {subject.artifact_id}", len(prompts), "answers") as bar:
            longest, stops = check.generation.max_new_tokens, subject.renderer.stop_tokens
            answers = greedy_answers(subject.model, prompts, longest, stops, micro_batch_sequences, bar.advance)
        return [str(responder.answer(tokens)["answer"]) for tokens in answers]
    from rayloom.evaluate.offline.engine import EngineUse
    from rayloom.evaluate.offline.engine import answers as written
    from rayloom.observe.ray_session import connect

    connect()
    say(f"{check.name}: {subject.artifact_id} answers {len(prompts)} prompts")
    use = EngineUse(subject, check.generation, micro_batch_sequences, 1, check.cpus_per_worker, check.gpus_per_worker)
    found = written(use, prompts)
    failed = [row["failed"] for row in found if "failed" in row]
    if failed:
        what = f"{len(failed)} of {len(found)} prompts have no answer: {failed[0]}"
        raise InputError(what, where=f"checks {check.name}", fix="Raise generation.max_length_tokens.")
    return [str(row["answer"]) for row in found]
