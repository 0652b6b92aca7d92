"""Splitting, packing, counting and showing: the parts between judged documents and a finished corpus."""

from __future__ import annotations

import functools
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rayloom.data import audit, row_counts
from rayloom.data.corpus import token_output
from rayloom.data.corpus.encoding import Encoder, encoder_of, fitted
from rayloom.data.corpus.tokenize_pass import save_tokens, split_of
from rayloom.data.row_counts import RowCounts, by_part, later_drops
from rayloom.data.rules.examined_text import Drop
from rayloom.errors import InputError, QualityError
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.output import TokensOutput
from rayloom.text import tokenizer_files
from rayloom.text.packed.shards import ShardWriter, TokenShards, save_index, shard_facts

TEXTS = [f"the quick brown fox number {n} jumps over the lazy dog in the year {1900 + n}" for n in range(200)]


def _spec(**changes: Any) -> CleanSpec:
    sources = [
        {"name": name, "dataset": "artifact:d", "domain": domain, "format": {"type": "jsonl"}}
        for name, domain in (("pages", "web"), ("posts", "web"), ("books", "prose"))
    ]
    job = {
        "kind": "clean",
        "name": "n",
        "sources": sources,
        "output": {"type": "tokens", "tokenizer": {"type": "train"}},
    }
    return CleanSpec.model_validate(job | changes)


# -- split -------------------------------------------------------------------------------------------------------------


def test_the_split_is_a_share_of_all_hashes() -> None:
    assert split_of(0, 0.02) == "heldout" and split_of((1 << 64) - 1, 0.49) == "train"
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 20_000, np.uint64)
    assert Counter(split_of(int(value), 0.1) for value in hashes)["heldout"] == pytest.approx(2000, abs=150)


# -- tokenizer ---------------------------------------------------------------------------------------------------------


def test_a_process_reads_a_tokenizer_once_and_anew_where_it_changed(tmp_path: Path) -> None:
    tokenizer_files.save(tokenizer_files.train(iter(TEXTS), 290), tmp_path)
    first = encoder_of(tmp_path)
    assert encoder_of(tmp_path) is first
    tokenizer_files.save(tokenizer_files.train(iter(TEXTS), 300), tmp_path)
    os.utime(tmp_path / "tokenizer.json", ns=(1, 1))
    assert encoder_of(tmp_path) is not first


def test_training_does_not_depend_on_the_order_of_texts(tmp_path: Path) -> None:
    shuffled = random.Random(3).sample(TEXTS, len(TEXTS))
    first, second = tokenizer_files.train(iter(TEXTS), 290), tokenizer_files.train(iter(shuffled), 290)
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 290 and first.token_to_id(tokenizer_files.END_OF_TEXT) == 0


@functools.cache
def small_tokenizer() -> Tokenizer:
    return tokenizer_files.train(iter(TEXTS[:20]), 300)


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_documents_end_with_the_end_token(tmp_path: Path) -> None:
    tokenizer_files.save(tokenizer_files.train(iter(TEXTS), 400), tmp_path)
    encode = Encoder(tmp_path)
    assert encode.dtype == np.uint16
    (first, second) = encode(["the fox", ""])
    assert first[-1] == 0 and 0 not in first[:-1] and second.tolist() == [0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [[*range(1, 40), 0]]),
        ({"max_document_tokens": 40}, [[*range(1, 40), 0]]),
        ({"max_document_tokens": 39}, Drop("too_many_tokens", 40)),
        ({"min_document_tokens": 41}, Drop("too_few_tokens", 40)),
        ({"max_document_tokens": 21, "when_longer": "truncate"}, [[*range(1, 21), 0]]),
        ({"max_document_tokens": 21, "when_longer": "split"}, [[*range(1, 21), 0], [*range(21, 40), 0]]),
    ],
)
def test_length_in_tokens(settings: dict[str, Any], expected: Any) -> None:
    output = TokensOutput.model_validate({"type": "tokens", "tokenizer": {"type": "train"}} | settings)
    found = fitted(np.asarray([*range(1, 40), 0], np.uint16), output)
    assert found == expected if isinstance(found, Drop) else [piece.tolist() for piece in found] == expected


# -- packing -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=6), st.integers(4, 60))
def test_shards_are_those_of_one_writer_however_the_chunks_were_cut(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]], shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    documents = iter(range(10_000))
    writer = ShardWriter(folder / "expected", 100, "digest", shard_tokens)
    for number, sizes in enumerate(chunks):
        arrays = [np.full(size, next(documents) % 100, np.uint16) for size in sizes]
        save_tokens(folder / f"{number}.train", arrays, np.uint16)
        for array in arrays:
            writer.add(array)
    writer.close()
    target = folder / "found"
    target.mkdir()
    plans = token_output.planned(folder, [str(n) for n in range(len(chunks))], "train", shard_tokens)
    for plan in plans:
        token_output.write_shard(folder, target, plan, np.uint16)
    facts = shard_facts(100, "digest", None)
    save_index(target, facts | {"has_rows": False, "shards": [plan.facts for plan in plans]})
    names = sorted(path.name for path in (folder / "expected").iterdir())
    assert sorted(path.name for path in target.iterdir()) == names
    for name in names:
        assert (target / name).read_bytes() == (folder / "expected" / name).read_bytes()
    TokenShards(target, 4)


# -- counts ------------------------------------------------------------------------------------------------------------


def test_tallies_add_up_and_travel() -> None:
    first = RowCounts(rows_in=Counter(a=3), dropped=Counter({"a/x": 1}))
    first.add(RowCounts(rows_in=Counter(a=1, b=2), dropped=Counter({"a/x": 1, "b/y": 5})))
    assert RowCounts.from_json(json.loads(json.dumps(first.as_json()))) == first
    assert first.rows_in == Counter(a=4, b=2)
    assert by_part(first.dropped, 0) == {"b": 5, "a": 2} and by_part(first.dropped, 1) == {"y": 5, "x": 2}


def test_every_row_is_accounted_for_in_the_metrics() -> None:
    tally = RowCounts(
        rows_in=Counter(pages=10, posts=4, books=2),
        bad_rows=Counter({"pages/null_text": 1}),
        dropped=Counter({"pages/too_few_words": 3, "posts/curly_bracket": 1}),
        kept=Counter(pages=7, posts=3, books=2),
    )
    tokens = Counter(
        {"pages/train/documents": 5, "pages/train/tokens": 50, "posts/train/documents": 3, "posts/train/tokens": 30,
         "books/heldout/documents": 2, "books/heldout/tokens": 20}
    )  # fmt: skip
    numbers = audit.metrics(_spec(), tally, {"exact_duplicates": 1, "near_duplicates": 1}, tokens)
    assert numbers["rows_in"] == numbers["documents_kept"] + numbers["documents_dropped"] == 16
    assert numbers["tokens"] == 100 and numbers["heldout_tokens"] == 20
    assert numbers["domains"]["web"]["tokens"] == 80 and numbers["domains"]["prose"]["tokens"] == 20
    assert numbers["dropped"] == {
        "too_few_words": 3, "curly_bracket": 1, "exact_duplicate": 1, "near_duplicate": 1,
    }  # fmt: skip
    assert numbers["sources"]["pages"]["bad_rows"] == 1
    assert any("too_few_words" in line for line in audit.lines(numbers))


def test_drops_of_later_passes() -> None:
    assert later_drops({"dropped": {"a/not_sampled": 3, "b/not_sampled": 1, "a/too_few_tokens": 2}, "item": 7}) == {
        "not_sampled": 4, "too_few_tokens": 2,
    }  # fmt: skip
    assert later_drops({"exact_duplicates": 2, "near_duplicates": 0, "clusters": 1}) == {"exact_duplicate": 2}


# -- what makes a job fail ---------------------------------------------------------------------------------------------


def test_too_many_unreadable_rows() -> None:
    tally = RowCounts(rows_in=Counter(pages=95), bad_rows=Counter({"pages/null_text": 3, "pages/malformed_json": 2}))
    audit.check_readable(_spec(max_bad_rows_share=0.05), tally, ["a.jsonl row 7: null_text, text is null"])
    with pytest.raises(InputError, match=r"5 of 100 rows cannot be read \(3 null_text, 2 malformed_json\)") as caught:
        audit.check_readable(_spec(), tally, ["a.jsonl row 7: null_text, text is null"])
    assert "a.jsonl row 7" in str(caught.value)


def test_nothing_left() -> None:
    tally = RowCounts(rows_in=Counter(pages=9), dropped=Counter({"pages/too_few_words": 8, "pages/curly_bracket": 1}))
    with pytest.raises(QualityError, match="No document is left of 9: 8 too_few_words, 1 curly_bracket"):
        audit.check_not_empty(tally, 0)
    with pytest.raises(QualityError, match="there were no rows"):
        audit.check_not_empty(RowCounts(), 0)


def test_nothing_held_out() -> None:
    with pytest.raises(QualityError, match="None of the 9 documents fell into the heldout part"):
        audit.check_both_splits(_spec(), {"train": 9, "heldout": 0})


# -- rows to read ------------------------------------------------------------------------------------------------------


def _row(number: int) -> dict[str, Any]:
    return {"source": "s", "file": "f", "row": number, "reason": ("a", "b", "c")[number % 3]}


@given(st.permutations(range(30)), st.integers(1, 29))
def test_samples_do_not_depend_on_order_or_chunks(numbers: list[int], cut: int) -> None:
    whole = row_counts.chosen(map(_row, range(30)), 2)
    parts = [row_counts.chosen(map(_row, part), 2) for part in (numbers[:cut], numbers[cut:])]
    assert row_counts.chosen([row for part in parts for row in part], 2) == whole
    assert [row["reason"] for row in whole] == ["a", "a", "b", "b", "c", "c"]


def test_samples_of_files(tmp_path: Path) -> None:
    for name in ("x", "y"):
        rows = [_row(number) | {"file": name} for number in range(9)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = row_counts.merged([tmp_path / "x", tmp_path / "none", tmp_path / "y"], 3)
    assert Counter(row["reason"] for row in found) == {"a": 3, "b": 3, "c": 3}
    assert row_counts.merged([tmp_path / "x"], 0) == []


def test_gathered_lines_stand_in_the_order_of_the_chunks(tmp_path: Path) -> None:
    (tmp_path / "1.rejects.jsonl").write_text("b\n")
    (tmp_path / "0.rejects.jsonl").write_text("a\n")
    audit.gather(tmp_path, ["0", "1", "2"], "rejects.jsonl", tmp_path / "out" / "all.jsonl")
    assert (tmp_path / "out" / "all.jsonl").read_text() == "a\nb\n"
    audit.gather(tmp_path, ["0"], "quarantine.jsonl", tmp_path / "out" / "none.jsonl")
    assert not (tmp_path / "out" / "none.jsonl").exists()
