"""Every row of a set of conversations is trained, held out, or counted under a reason."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokenizers import chatml

from rayloom.errors import InputError
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.dataset import prepare
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.rendered_rows import ConversationCounts
from rayloom.text.packed.packing import best_fit_decreasing
from rayloom.text.packed.shards import TokenShards

LENGTH = 64


def rows_file(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps([{"instruction": q, "input": "", "output": a} for q, a in rows]))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    rows_file(folder, "facts.json", [(f"Tell me {n}", f"{n} " * (n % 7 + 1)) for n in range(40)])
    rows_file(folder, "identity.json", [("Who are you?", "I am {{name}}."), ("Hello", "Good morning! I am {{name}}.")])
    return folder


def data(**changes: Any) -> ConversationData:
    sources = [
        {"dataset": "./d", "files": "identity.json", "format": "alpaca", "fill": {"name": "Loomie"}, "repeat": 3},
        {"dataset": "./d", "files": "facts.json", "format": "alpaca"} | changes.pop("facts", {}),
    ]
    return ConversationData.model_validate({"type": "conversations", "sources": sources, "heldout_rows": 10} | changes)


def prepared(
    spec: ConversationData, dataset: Path, out: Path, seed: int = 0, length: int = LENGTH
) -> ConversationCounts:
    files = {f"data.sources.{number}.dataset": [dataset / s.files] for number, s in enumerate(spec.sources)}
    return prepare(spec, files, Renderer(chatml()), length, seed, out)


def documents(out: Path, split: str, length: int = LENGTH) -> list[str]:
    """The text of each sample, trained part in ⟦ ⟧, in the order of the shards."""
    tokenizer, found = chatml(), []
    shards = TokenShards(out / split, length)
    for row in (shards.row(index) for index in range(len(shards))):
        starts = [*(row.positions == 0).nonzero()[0], len(row.tokens)]
        for begin, end in itertools.pairwise(starts):
            split_at = begin + int(row.trained[begin:end].argmax())
            asked, answer = tokenizer.decode(row.tokens[begin:split_at]), tokenizer.decode(row.tokens[split_at:end])
            found.append(f"{asked}⟦{answer}⟧")
    return found


def digest(out: Path) -> str:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_each_row_is_trained_as_often_as_it_is_repeated_or_held_out(dataset: Path, tmp_path: Path) -> None:
    counts = prepared(data(), dataset, tmp_path / "out")
    train, heldout = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "heldout")
    asked = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert train.count(f"{asked}⟦I am Loomie.<|im_end|>⟧") == 3
    assert len(train) == counts.train.samples == counts.train.rows == 30 + 6
    assert len(heldout) == counts.heldout.rows == 10
    assert not set(train) & set(heldout)
    assert len({*train, *heldout}) == 42
    assert counts.rows_read == {"0 ./d": 2, "1 ./d": 40}
    assert counts.left_out == {}
    assert counts.lengths_tokens["longest"] >= counts.lengths_tokens["median"] > 10
    assert counts.repeated_in_training == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_rows(dataset: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared(data(), dataset, tmp_path / name, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert set(documents(tmp_path / "a", "heldout")) != set(documents(tmp_path / "c", "heldout"))


def test_filters_and_limits_are_counted(dataset: Path, tmp_path: Path) -> None:
    spec = data(facts={"limit_rows": 22, "max_row_tokens": 32})
    counts = prepared(spec, dataset, tmp_path / "out")
    long = counts.left_out["longer_than_max_row_tokens"]
    assert long > 0
    assert counts.left_out["over_limit_rows"] + long + 22 == 40
    assert counts.train.rows == 22 - 10 + 6


def test_a_row_like_a_heldout_one_is_not_trained_on(dataset: Path, tmp_path: Path) -> None:
    rows_file(dataset, "facts.json", [(f"Tell me {n // 2}", "one") for n in range(60)])
    counts = prepared(data(), dataset, tmp_path / "out")
    assert counts.left_out == {"same_as_a_heldout_row": 10}
    assert not set(documents(tmp_path / "out", "train")) & set(documents(tmp_path / "out", "heldout"))


def test_rows_that_are_not_packed_hold_one_sample_each(dataset: Path, tmp_path: Path) -> None:
    files = {f"data.sources.{number}.dataset": [dataset / s.files] for number, s in enumerate(data().sources)}
    counts = prepare(data(), files, Renderer(chatml()), LENGTH, 0, tmp_path, packs_rows=False)
    shards = TokenShards(tmp_path / "train", LENGTH)
    assert len(shards) == counts.train.packed_rows == counts.train.samples == 36
    assert all((shards.row(index).positions == 0).sum() == 1 for index in range(len(shards)))


def test_long_rows_are_an_error_by_default_and_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows are longer than sequence_length_tokens \(32\): facts.json row"):
        prepared(data(), dataset, tmp_path / "out", length=32)


def test_long_rows_are_dropped_or_truncated_only_within_the_allowed_share(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="over max_length_policy_share"):
        prepared(data(length_policy="drop"), dataset, tmp_path / "out", length=32)
    dropped = prepared(data(length_policy="drop", max_length_policy_share=0.9), dataset, tmp_path / "drop", length=32)
    allowed = data(length_policy="truncate", max_length_policy_share=0.9)
    truncated = prepared(allowed, dataset, tmp_path / "truncate", length=32)
    assert dropped.left_out["longer_than_sequence_length"] == truncated.truncated_rows > 0
    cut = [text for text in documents(tmp_path / "truncate", "train", 32) if not text.endswith("<|im_end|>⟧")]
    assert cut


def test_truncation_that_leaves_nothing_to_train_is_an_error(dataset: Path, tmp_path: Path) -> None:
    spec = data(length_policy="truncate", max_length_policy_share=1)
    with pytest.raises(InputError, match="No trained token is left of"):
        prepared(spec, dataset, tmp_path / "out", length=12)


def test_all_bad_rows_are_named_at_once(dataset: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": ""}, {"instruction": "b", "output": "ok"}, {"prompt": "c"}]
    (dataset / "facts.json").write_text(json.dumps(rows))
    with pytest.raises(InputError) as caught:
        prepared(data(), dataset, tmp_path / "out")
    assert "2 rows cannot be trained on" in str(caught.value)
    assert "facts.json row 1 (empty_answer): message 2 is an empty answer" in str(caught.value)
    assert "facts.json row 3 (missing_column): has no column instruction and output" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_named_problems_are_left_out_and_counted_and_others_still_stop_the_job(dataset: Path, tmp_path: Path) -> None:
    rows = json.loads((dataset / "facts.json").read_text())
    (dataset / "facts.json").write_text(json.dumps([*rows, {"instruction": "a", "output": ""}, {"prompt": "b"}]))
    with pytest.raises(InputError, match=r"(?s)1 row cannot .*row 42 \(missing_column\)") as caught:
        prepared(data(leave_out=["empty_answer"]), dataset, tmp_path / "out")
    assert "row 41" not in str(caught.value)
    counts = prepared(data(leave_out=["empty_answer", "missing_column"]), dataset, tmp_path / "out")
    assert counts.left_out == {"empty_answer": 1, "missing_column": 1}
    assert counts.rows_read["1 ./d"] == 42


def test_too_few_rows_to_hold_out_is_an_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="heldout_rows is 30, but the sources with repeat: 1 have 40 different rows"):
        prepared(data(heldout_rows=30), dataset, tmp_path / "out")


def test_a_system_message_is_added_where_a_row_brings_none(dataset: Path, tmp_path: Path) -> None:
    prepared(data(system="Be kind."), dataset, tmp_path / "out")
    assert all(text.startswith("<|im_start|>system\nBe kind.") for text in documents(tmp_path / "out", "train"))


@given(st.lists(st.integers(1, 50), max_size=60))
def test_packing_places_each_sample_once_and_overfills_no_row(lengths: list[int]) -> None:
    order, begins = best_fit_decreasing(np.asarray(lengths, np.int64), 50)
    rows = [part.tolist() for part in np.split(order, begins[1:])] if lengths else []
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < total <= 50 for total in sums)
    # Best fit leaves at most one row half empty: two of them would have been one.
    assert sum(total <= 25 for total in sums) <= 1
