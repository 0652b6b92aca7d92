"""Pages of rows: the right rows from anywhere in a file, by every reader, with filters, however the file is cut."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayloom.text.packed.shards import ShardWriter, save_first
from rayloom.ui.rows import line_file
from rayloom.ui.rows.documents import BrowsedDocuments
from rayloom.ui.rows.line_file import BrowsedLines
from rayloom.ui.rows.records import BrowsedRecords
from rayloom.ui.rows.row_page import RowFilter, RowPage, RowSource
from rayloom.ui.rows.table_file import BrowsedTable

NUM_ROWS = 5_000


def rows() -> list[dict[str, Any]]:
    made = random.Random(1)
    texts = ["x" * made.randrange(0, 400) for _ in range(NUM_ROWS)]
    return [{"text": f"{texts[n]} Größe {n} end", "label": "odd" if n % 2 else "even"} for n in range(NUM_ROWS)]


ROWS = rows()


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" for number, row in enumerate(ROWS))
    if kind == "jsonl":
        path.write_text(lines, encoding="utf-8")
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=700)
    return path


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowSource:
    """The same rows by each reader; blocks are small, so that there are many."""
    monkeypatch.setattr(line_file, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(line_file, "SEARCHED_BYTES", 1 << 13)
    path = written(tmp_path, request.param)
    if request.param == "parquet":
        return BrowsedTable(path)
    return BrowsedLines(path) if request.param == "jsonl" else BrowsedRecords(path, tmp_path / "copies")


def found(source: RowSource, wanted: RowFilter, count: int = 25) -> list[int]:
    """The numbers of all rows that fit, page by page."""
    numbers, start = list[int](), 0
    for _ in range(10_000):
        page = source.search(wanted, start, count)
        numbers += [row.number for row in page.rows]
        if page.next_row is None:
            return numbers
        assert page.next_row > start
        start = page.next_row
    raise AssertionError("it goes round")


@pytest.mark.parametrize("start", [0, 1, 24, 699, 700, 701, 2_345, NUM_ROWS - 26, NUM_ROWS - 25, NUM_ROWS - 1])
def test_a_page_has_the_rows_from_its_start(source: RowSource, start: int) -> None:
    page = source.page(start, 25)
    assert [row.number for row in page.rows] == list(range(start, min(start + 25, NUM_ROWS)))
    assert [row.values for row in page.rows] == ROWS[start : start + 25]
    assert page.next_row == (start + 25 if start + 25 < NUM_ROWS else None)


def test_behind_the_end_there_is_nothing(source: RowSource) -> None:
    assert source.page(NUM_ROWS + 10, 25).rows == []
    assert source.search(RowFilter("e"), NUM_ROWS + 10, 25).rows == []


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (RowFilter("größe 77 "), lambda n: n == 77),
        (RowFilter("END"), lambda n: True),
        (RowFilter("nowhere"), lambda n: False),
        (RowFilter(field="label", value="odd"), lambda n: n % 2 == 1),
        (RowFilter(" 12", "label", "even"), lambda n: n % 2 == 0 and f" {n}".startswith(" 12")),
        (RowFilter(field="label", value="od"), lambda n: False),
    ],
)
def test_a_filter_finds_every_row_that_fits_once(source: RowSource, wanted: RowFilter, fits: Any) -> None:
    assert found(source, wanted) == [n for n in range(NUM_ROWS) if fits(n)]


LINES = st.lists(st.sampled_from(["", "a", "bc" * 9, "Größe", "x" * 40]), max_size=60)


@given(LINES, st.booleans(), st.integers(0, 70))
def test_lines_are_those_of_the_file_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], is_ended: bool, start: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in lines) + ("" if is_ended else "rest"))
    expected = lines if is_ended else [*lines, "rest"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(line_file, "BLOCK_BYTES", 16)
        page = BrowsedLines(path, is_json=False).page(start, 7)
    assert [row.values for row in page.rows] == expected[start : start + 7]
    assert page.num_rows in (len(expected), None)
    assert page.next_row == (start + 7 if len(expected) > start + 7 else None)


def test_a_file_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 0}\n')
    file = BrowsedLines(path)
    assert file.page(0, 10).num_rows == 1
    with path.open("a") as log:
        log.write('{"n": 1}\n{"n"')
    assert [row.values for row in file.page(0, 10).rows] == [{"n": 0}, {"n": 1}, {"unreadable": '{"n"'}]


def test_a_line_of_many_megabytes_is_cut_and_the_next_row_is_right(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(json.dumps({"text": "y" * 9_000_000}).encode() + b'\n{"n": 1}\n')
    file = BrowsedLines(path)
    assert file.page(1, 1).rows[0].values == {"n": 1}
    assert len(file.page(0, 1).rows[0].values["unreadable"]) == line_file.MOST_ROW_BYTES


def test_a_damaged_file_shows_what_can_be_read_and_why_no_more(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress("".join(f'{{"n": {n}}}\n' for n in range(3000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    page = BrowsedRecords(path, tmp_path / "copies").page(0, 5)
    assert page.rows[0].values == {"n": 0}
    last = BrowsedRecords(path, tmp_path / "copies").page((page.num_rows or 1) - 1, 1).rows[0].values
    assert "cannot be read" in last["unreadable"]


def test_a_large_table_is_read_while_its_copy_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("n,text\n" + "".join(f"{n},{'z' * 60}\n" for n in range(20_000)))
    file = BrowsedRecords(path, tmp_path / "copies")
    assert [row.values["n"] for row in file.page(3, 2).rows] == ["3", "4"]
    assert file._process is not None
    assert file._process.wait(60) == 0
    page: RowPage = file.page(19_990, 25)
    assert (page.num_rows, page.rows[-1].values["n"]) == (20_000, "19999")
    assert BrowsedRecords(path, tmp_path / "copies").page(7, 1).rows[0].values["n"] == "7"


def test_documents_of_shards_are_decoded_with_trained_tokens_marked(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[UNK]", "one", "two", "three", "four"])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    writer = ShardWriter(tmp_path / "train", len(words), "digest", shard_tokens=5)
    writer.add([1, 2, 3], np.array([False, True, True]))
    writer.add([4, 4])
    writer.add([2])
    writer.close()
    file = BrowsedDocuments(tmp_path / "train", tmp_path / "tokenizer.json")
    page = file.page(0, 10)
    assert page.num_rows == 3
    assert [row.values["text"] for row in page.rows] == ["one two three", "four four", "two"]
    assert page.rows[0].values["pieces"] == [(False, "one"), (True, "two three")]
    assert [row.number for row in file.search(RowFilter("two"), 0, 5).rows] == [0, 2]
    for count, texts in (
        (1, ["one two three"]),
        (9, ["one two three", "four four"]),
    ):  # two documents in the first shard
        save_first(tmp_path / "train", tmp_path / f"first-{count}", count)
        first = BrowsedDocuments(tmp_path / f"first-{count}", tmp_path / "tokenizer.json").page(0, 10)
        assert [row.values["text"] for row in first.rows] == texts
        assert first.rows[0].values["pieces"] == [(False, "one"), (True, "two three")]
