"""`rayloom predict ARTIFACT --text …`: a model's predictions for a few texts, in this process, without Ray."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rayloom.artifacts.store import Store
from rayloom.commands.artifacts import store_here
from rayloom.commands.output import console, emit_json, plain_table
from rayloom.errors import InputError

BATCH = 16


def predict(options: argparse.Namespace) -> int:
    """Prints labels, entities, or an answer. Returns 3 if a text cannot be answered."""
    rows = _rows(options)
    store = store_here()
    answered = answers(options.artifact, rows, store, options.max_new_tokens)
    failed = [answer for answer in answered if "failed" in answer]
    if options.json:
        emit_json([{"text": row["text"], **answer} for row, answer in zip(rows, answered, strict=True)])
    else:
        for row, answer in zip(rows, answered, strict=True):
            _show(row["text"], answer)
    return InputError.exit_code if failed else 0


def answers(name: str, rows: list[dict[str, Any]], store: Store, max_new_tokens: int) -> list[dict[str, Any]]:
    """The artifact's prediction for each row."""
    from rayloom.models.responders.responder import respond_to_each, responder_for
    from rayloom.models.responders.subject import Subject
    from rayloom.specs.text_generation import Generation

    manifest = store.resolve(name)
    if manifest.content not in ("model", "adapter"):
        what = f"{manifest.id} is a {manifest.content}, and only a model or adapter predicts"
        raise InputError(what, where=name, fix="`rayloom artifacts list` shows what each artifact holds.")
    subject = Subject.of("model", store.open(manifest), store)
    responder = responder_for(subject, Generation(max_new_tokens=max_new_tokens))
    return respond_to_each(responder, rows, BATCH)


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    texts = options.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise InputError("There is no text", fix="Give --text, or lines on standard input.")
    pair = options.pair or options.question
    return [{"text": text, **({"pair": pair} if pair else {})} for text in texts]


def _show(text: str, answer: dict[str, Any]) -> None:
    out = console()
    if "failed" in answer:
        out.print(f"{text}\n  failed: {answer['failed']}", markup=False)
    elif "answer" in answer:
        out.print(answer["answer"], markup=False)
    elif answer.get("spans"):
        out.print(text, markup=False)
        table = plain_table("what", "where it says", "characters")
        for span in answer["spans"]:
            table.add_row(span["label"], span["text"], f"{span['start']} to {span['end']}")
        out.print(table)
    else:
        shares = answer.get("probabilities") or {}
        labels = ", ".join(f"{label} ({shares[label]:.2f})" if label in shares else label for label in answer["labels"])
        out.print(f"{labels or 'nothing'}\t{text}", markup=False)
