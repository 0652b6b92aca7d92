"""Splitting, packing, counting and showing: the parts between judged documents and a finished corpus."""

from __future__ import annotations

import functools
import itertools
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
from support.passes import work_files
from support.tasks import wordpiece
from tokenizers import Tokenizer

from rayloom.data import audit, reject_files, row_counts
from rayloom.data.corpus import token_output
from rayloom.data.corpus.encoding import Encoder, encoder_of, fitted
from rayloom.data.corpus.token_output import PackingPass, copy_tokenizer
from rayloom.data.corpus.tokenize_pass import TokenisingPass, split_of, tokens_of
from rayloom.data.exchange.result_files import ResultFiles
from rayloom.data.kept_documents import JudgedCorpus
from rayloom.data.reject_files import line_files
from rayloom.data.row_counts import RowCounts, by_part, later_drops
from rayloom.data.rules.examined_text import Drop
from rayloom.data.sources.chunk_table import CHUNK, ChunkTable
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


def test_documents_in_the_tokens_of_an_encoder_end_as_its_texts_do(tmp_path: Path) -> None:
    """Such a tokenizer has a token between texts, and none that ends one."""
    tokenizer = wordpiece()
    tokenizer.save_pretrained(tmp_path / "encoder")
    copy_tokenizer(tmp_path / "encoder", tmp_path / "corpus")
    words = "good bad"
    (document,) = Encoder(tmp_path / "corpus")([words])
    assert document.tolist() == tokenizer(words)["input_ids"]
    assert document.tolist().count(tokenizer.sep_token_id) == 1 and document[-1] == tokenizer.sep_token_id
    file = tmp_path / "encoder/tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sep_token": None, "eos_token": None}))
    with pytest.raises(InputError, match="no end-of-text token"):
        copy_tokenizer(tmp_path / "encoder", tmp_path / "neither")


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
    work, table = work_files(folder / "store"), ChunkTable(np.zeros(len(chunks), CHUNK))
    table.chunks["number"] = np.arange(len(chunks))
    for number, sizes in enumerate(chunks):
        arrays = [np.full(size, next(documents) % 100, np.uint16) for size in sizes]
        work.write_parts(f"tokens/{table.name(number)}", tokens_of("train", arrays, np.uint16))
        for array in arrays:
            writer.add(array)
    writer.close()
    judged = JudgedCorpus(_spec(), (), work, table, 1, RowCounts())
    packing = PackingPass(TokenisingPass(judged), "tokens", "train", np.uint16, ResultFiles(work.copy))
    bounds = token_output.shard_bounds([sum(sizes) for sizes in chunks], packing.sizes, shard_tokens)
    shards = [
        token_output.write_shard(packing, number, *places)["shards"][0]
        for number, places in enumerate(itertools.pairwise(bounds))
    ]
    target = work.copy.folder.parent / "train"
    target.mkdir(parents=True, exist_ok=True)
    save_index(target, shard_facts(100, "digest", None) | {"has_rows": False, "shards": shards})
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


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=5), max_size=30), st.randoms())
def test_files_of_lines_are_cut_by_their_lines_whatever_the_groups(lines: list[str], dice: random.Random) -> None:
    """Each part has the whole lines that begin in its bytes; joined, the parts are the file."""
    groups = [[line for line in lines if dice.random() < 0.5] for _ in range(4)]
    contents = ["".join(f"{line}\n" for line in group).encode() for group in groups]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reject_files, "PART_BYTES", 7)
        files = line_files({"judged": {"rejects": [len(content) for content in contents]}})
        parts: dict[int, bytes] = {}
        for number, content in enumerate(contents):
            for file in files:
                for part, found in reject_files._parts_of(content, file, number):
                    parts[part] = parts.get(part, b"") + found.tobytes()
    whole, begin = b"".join(contents), 0
    assert b"".join(parts[part] for part in sorted(parts)) == whole
    expected: dict[int, bytes] = {}
    for line in whole.splitlines(keepends=True) if not set(whole) & set(b"\r") else []:
        expected[begin // 7] = expected.get(begin // 7, b"") + line
        begin += len(line)
    assert parts == expected or b"\r" in whole
