"""Judged answers: rows, losses against hand-worked numbers, a reference that is computed once, and learning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from support.models import write_model
from support.preferences import BAD, GOOD, LENGTH, judged, pairs, spec_of, write
from support.tokenizers import chatml
from transformers import AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.score.batches import causal_batch
from rayloom.score.preference_loss import Answers, PreferenceLoss, losses_of
from rayloom.specs.training.preferences import Preference, PreferenceData
from rayloom.text import row_workers
from rayloom.text.conversations import preference_rows
from rayloom.text.conversations.preference_rows import PreferenceRows, prepare_preferences
from rayloom.text.conversations.render import Renderer
from rayloom.text.packed.preview import documents
from rayloom.text.row_workers import RowProcesses


def data(form: str = "prompt_chosen_rejected", **changes: Any) -> PreferenceData:
    values = {"type": "preferences", "sources": [{"dataset": "./x", "format": form}], "heldout_rows": 2}
    return PreferenceData.model_validate(values | changes)


def prepared(
    rows: list[dict[str, Any]],
    folder: Path,
    spec: PreferenceData,
    is_paired: bool = True,
    workers: RowProcesses | None = None,
) -> PreferenceRows:
    files = {"data.sources.0.dataset": [write(rows, folder) / "x.json"]}
    out = folder / "out"
    prepare_preferences(spec, files, Renderer(chatml()), LENGTH, 0, out, is_paired=is_paired, workers=workers)
    return PreferenceRows(folder / "out/train", LENGTH)


def preference(**values: Any) -> Any:
    return TypeAdapter(Preference).validate_python(values)


def test_a_pair_is_two_documents_of_which_only_the_answers_are_judged(tmp_path: Path) -> None:
    row = prepared(pairs(8), tmp_path, data()).row(0)
    tokenizer = chatml()
    parts = list(documents(row.row))
    said = [tokenizer.decode(row.row.tokens[part][row.row.trained[part]]) for part in parts]
    assert said == [f"{GOOD}<|im_end|>", f"{BAD}<|im_end|>"]
    prompts = [row.row.tokens[part][: int(row.row.trained[part].argmax())].tolist() for part in parts]
    assert prompts[0] == prompts[1]
    assert np.isnan(row.reference).all()


def test_earlier_answers_of_a_conversation_are_context_only(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hello there."},
        {"from": "human", "value": "joke"},
    ]
    rows = [
        {"conversations": turns, "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
    ] * 6
    rows = [{**row, "conversations": [{"from": "human", "value": f"{n}"}, *turns[1:]]} for n, row in enumerate(rows)]
    row = prepared(rows, tmp_path, data("sharegpt")).row(0).row
    first = next(documents(row))
    assert chatml().decode(row.tokens[first][row.trained[first]]) == f"{GOOD}<|im_end|>"


def test_kto_rows_have_another_rows_answer_behind_their_own(tmp_path: Path) -> None:
    rows = prepared(judged(10), tmp_path, data("messages_label"), is_paired=False)
    assert sorted(set(rows.is_good.tolist())) == [False, True]
    row = rows.row(0)
    own = next(documents(row.row))
    said = chatml().decode(row.row.tokens[own][row.row.trained[own]])
    assert said == f"{GOOD if row.is_good else BAD}<|im_end|>"


def test_other_processes_render_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference_rows, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(row_workers, "ITEMS_ALONE", 1)
    rows, files = judged(40), list[bytes]()
    rows[7]["messages"] = [*rows[7]["messages"][:-1], {"role": "assistant", "content": "no <|im_end|>"}]
    spec = data("messages_label", leave_out=["stop_token_in_answer"])
    for workers in (RowProcesses(1), RowProcesses(2)):
        folder = tmp_path / str(workers.num_processes)
        folder.mkdir()
        prepared(rows, folder, spec, is_paired=False, workers=workers)
        files.append(b"".join(file.read_bytes() for file in sorted((folder / "out").rglob("*.np*"))))
    assert files[0] == files[1]


def test_bad_rows_are_named_together(tmp_path: Path) -> None:
    rows = [*pairs(6), {"prompt": "x", "chosen": "a", "rejected": "a"}, {"prompt": "x", "chosen": "a"}]
    with pytest.raises(InputError) as raised:
        prepared(rows, tmp_path, data())
    assert "row 7 (same_answers)" in str(raised.value)
    assert "row 8 (missing_column): has no column rejected" in str(raised.value)
    with pytest.raises(InputError, match="longer than sequence_length_tokens"):
        prepared([{**row, "chosen": "very long " * 60} for row in pairs(6)], tmp_path / "long", data())


LOG_P = Answers(torch.tensor([[-4.0, -6.0]]), torch.tensor([[2.0, 4.0]]))
REFERENCE = torch.tensor([[-5.0, -5.0]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "dpo", "beta": 0.5}, -math.log(1 / (1 + math.exp(-0.5 * (1 - -1))))),
        ({"type": "simpo", "beta": 2.0, "margin": 0.5}, math.log(1 + math.exp(-(2 * (-2 + 1.5) - 0.5)))),
        (
            {"type": "orpo", "weight": 0.5},
            2.0
            + 0.5 * math.log(1 + math.exp(-((-2 - math.log1p(-math.exp(-2))) - (-1.5 - math.log1p(-math.exp(-1.5)))))),
        ),
        # The other answer became less likely: its mean is below zero, so the point of reference is 0.
        ({"type": "kto", "beta": 0.5}, 1 - 1 / (1 + math.exp(-0.5 * 1))),
    ],
)
def test_losses_are_those_of_the_papers(values: dict[str, Any], expected: float) -> None:
    losses, _ = losses_of(preference(**values), LOG_P, REFERENCE, torch.tensor([True]))
    assert losses.tolist() == pytest.approx([expected], rel=1e-5)


def test_a_bad_answer_is_unlearned_by_kto() -> None:
    spec = preference(type="kto", beta=0.5, bad_weight=3.0)
    losses, margins = losses_of(spec, LOG_P, REFERENCE, torch.tensor([False]))
    assert losses.item() == pytest.approx(3 * (1 - 1 / (1 + math.exp(0.5))))
    assert margins.item() < 0


def test_log_probabilities_are_those_of_each_answer_alone(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    rows = prepared(pairs(8), tmp_path, data())
    found = PreferenceLoss(model, preference(type="dpo")).answers(
        causal_batch([rows.row(n).row for n in range(2)], padding_token=0)
    )
    for number in range(2):
        row = rows.row(number).row
        for place, part in enumerate(documents(row)):
            ids = torch.from_numpy(row.tokens[part])[None]
            log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            labels = torch.from_numpy(row.trained[part][1:])
            assert found.log_p[number, place].item() == pytest.approx(log_p[labels].sum().item(), abs=1e-3)
            assert found.num_tokens[number, place] == labels.sum()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preference": None}, "such data needs one of them"),
        (
            {"data": {"type": "corpus", "corpus": "artifact:x"}},
            "or task reward needs data of type preferences",
        ),
        ({"adapter": {"type": "prefix"}}, "a pair has two"),
        ({"preference": {"type": "kto"}, "micro_batch_sequences": 1}, "of 2 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of({"type": "dpo"}, **changes)
