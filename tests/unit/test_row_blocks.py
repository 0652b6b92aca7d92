"""Rows rendered block by block: by other processes, after a kill, up to a limit; always the same rows."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tokenizers import chatml

from rayloom.reading import files as reading
from rayloom.reading.files import table_blocks, table_rows
from rayloom.specs.row_files import RowFiles
from rayloom.specs.training.training_data import ConversationData
from rayloom.text import row_workers
from rayloom.text.conversations.dataset import prepare
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.rendered_rows import BlockRenderer, RowsToRender
from rayloom.text.packed import sample_file
from rayloom.text.packed.shards import TokenShards
from rayloom.text.row_workers import RowProcesses

LENGTH = 96


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of 60 rows each, of which every third is long, in blocks of a few rows."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 700)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Tell {n}"},
                {"role": "assistant", "content": "one " * (1 + n % 3 * 8)},
            ]
        }
        for n in range(120)
    ]
    for name, part in (("a.jsonl", rows[:60]), ("b.jsonl", rows[60:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return tmp_path


def data(**source: Any) -> ConversationData:
    named = {"dataset": "./d", "format": "messages"} | source
    return ConversationData.model_validate({"type": "conversations", "sources": [named], "heldout_rows": 5})


def prepared(dataset: Path, out: str, spec: ConversationData, workers: Any = None) -> str:
    """A digest of all files and counts. By default no other process is started, which takes seconds."""
    files = {"data.sources.0.dataset": sorted(dataset.glob("*.jsonl"))}
    counts = prepare(spec, files, Renderer(chatml()), LENGTH, 0, dataset / out, workers=workers or RowProcesses(1))
    content = [file.read_bytes() for file in sorted((dataset / out).rglob("*")) if file.is_file()]
    return hashlib.sha256(json.dumps(counts.as_json()).encode() + b"".join(content)).hexdigest()


class Killed(BaseException):
    """The end of a process."""


class EndsAfter:
    """Workers of which only so many results arrive."""

    def __init__(self, num_results: int) -> None:
        self.num_results, self.given = num_results, 0

    def results(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self.given == self.num_results:
                raise Killed
            self.given += 1
            yield work(item)

    def close(self) -> None:
        pass


def test_blocks_hold_the_rows_of_their_files(dataset: Path) -> None:
    files = sorted(dataset.glob("*.jsonl"))
    blocks = [copy.deepcopy(block) for block in table_blocks(files, RowFiles())]
    assert len(blocks) > 10
    assert [row for block in blocks for row in block.named()] == list(table_rows(files, RowFiles()))
    assert sum(block.bytes_read for block in blocks) == sum(file.stat().st_size for file in files)


def test_other_processes_make_the_same_rows(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_workers, "ITEMS_ALONE", 2)
    spec = data(max_row_tokens=80)
    assert prepared(dataset, "two", spec, RowProcesses(2)) == prepared(dataset, "one", spec, RowProcesses(1))


LIGHT = """
import pickle, sys
render, asked = pickle.load(sys.stdin.buffer)
print(len(render(asked).arrays["rows"]), *sorted({"torch", "sklearn", "ray"} & set(sys.modules)))
"""


def test_other_processes_render_without_loading_torch(dataset: Path) -> None:
    spec = data()
    block = next(table_blocks([dataset / "a.jsonl"], spec.sources[0]))
    given = pickle.dumps((BlockRenderer(spec, Renderer(chatml())), RowsToRender(0, 0, block)))
    said = subprocess.run([sys.executable, "-c", LIGHT], input=given, capture_output=True, check=True).stdout
    assert said.decode().split() == [str(len(block.rows))]


@pytest.mark.parametrize("source", [{}, {"limit_rows": 50}, {"limit_rows": 50, "max_row_tokens": 20}])
def test_a_killed_preparation_goes_on_and_gives_the_same_rows(dataset: Path, source: dict[str, Any]) -> None:
    whole = prepared(dataset, "whole", data(**source))
    for num_results in (3, 3, 40):
        try:
            assert prepared(dataset, "killed", data(**source), EndsAfter(num_results)) == whole
            break
        except Killed:
            assert not (dataset / "killed").exists()
    assert prepared(dataset, "killed", data(**source)) == whole
    assert [path for path in dataset.iterdir() if path.name.startswith(".")] == []


def test_a_block_that_was_half_written_is_rendered_again(dataset: Path) -> None:
    whole = prepared(dataset, "whole", data())
    with pytest.raises(Killed):
        prepared(dataset, "killed", data(), EndsAfter(6))
    for name in ("tokens", "rows"):
        with (dataset / ".killed.parts" / name).open("r+b") as file:
            file.seek(-5, 2)
            file.write(b"12345")
    again = EndsAfter(1000)
    assert prepared(dataset, "killed", data(), again) == whole
    num_blocks = len(list(table_blocks(sorted(dataset.glob("*.jsonl")), RowFiles())))
    assert again.given == num_blocks - 5


def test_shards_of_many_documents_end_where_a_writers_do(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(dataset, "one", data())
    monkeypatch.setattr(sample_file, "SHARD_TOKENS", 100)
    prepared(dataset, "many", data())
    one, many = TokenShards(dataset / "one" / "train", LENGTH), TokenShards(dataset / "many" / "train", LENGTH)
    sizes = [shard["num_tokens"] for shard in json.loads((dataset / "many/train/index.json").read_text())["shards"]]
    assert len(sizes) > 5
    assert all(100 <= size < 100 + LENGTH for size in sizes[:-1])
    assert [one.row(n).tokens.tolist() for n in range(len(one))] == [
        many.row(n).tokens.tolist() for n in range(len(many))
    ]
    assert [one.row(n).trained.tolist() for n in range(len(one))] == [
        many.row(n).trained.tolist() for n in range(len(one))
    ]
