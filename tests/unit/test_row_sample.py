"""A plan of many conversations looks at a sample, says so, and comes close to what a look at every row says."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tokenizers import chatml

from rayloom.reading import files as reading
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations import row_sample
from rayloom.text.conversations.dataset import prepare
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.row_sample import RowSample, estimated
from rayloom.text.row_workers import RowProcesses


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    """4,000 rows of JSON lines in three files, 3,000 in one Parquet file, and 40 that are repeated."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4000)
    rows = [{"prompt": f"Tell me {n}", "completion": "one " * (1 + n % 7)} for n in range(7000)]
    parts = {"a.jsonl": rows[:1000], "b.jsonl": rows[1000:1500], "c.jsonl": rows[1500:4000], "few.jsonl": rows[:40]}
    for name, part in parts.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    pq.write_table(pa.Table.from_pylist(rows[4000:]), tmp_path / "d.parquet")
    by_source = (("a.jsonl", "b.jsonl", "c.jsonl"), ("d.parquet",), ("few.jsonl",))
    return {f"data.sources.{n}.dataset": [tmp_path / name for name in names] for n, names in enumerate(by_source)}


def data(**changes: object) -> ConversationData:
    sources = [{"dataset": f"./{n}", "format": "prompt_completion"} | changes for n in range(3)]
    sources[2]["repeat"] = 3
    return ConversationData.model_validate({"type": "conversations", "sources": sources, "heldout_rows": 40})


@pytest.mark.parametrize("limit_rows", [None, 1500])
def test_estimates_come_close(
    files: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_rows: int | None
) -> None:
    spec, renderer, workers = data(limit_rows=limit_rows), Renderer(chatml()), RowProcesses(1)
    whole = prepare(spec, files, renderer, 64, 0, tmp_path / "whole", workers=workers).as_json()
    monkeypatch.setattr(row_sample, "SAMPLE_BYTES", 40_000)
    sample = RowSample.of([*files.values()])
    assert sample is not None
    part = prepare(spec, files, renderer, 64, 0, tmp_path / "part", workers=workers, sample=sample).as_json()
    assert part["train"]["rows"] < whole["train"]["rows"] / 5
    about = estimated(part, sample.share, spec.heldout_rows)
    for name in ("rows", "tokens", "trained_tokens", "packed_rows"):
        assert about["train"][name] == pytest.approx(whole["train"][name], rel=0.1), name
    assert about["heldout"]["rows"] == 40
    for source, num_rows in whole["rows_read"].items():
        assert about["rows_read"][source] == pytest.approx(num_rows, rel=0.1)


def test_a_row_can_be_held_out_of_a_source_of_which_hardly_any_is_looked_at(
    files: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = data()
    repeated = [source.model_copy(update={"repeat": 1 if n == 2 else 2}) for n, source in enumerate(spec.sources)]
    spec = spec.model_copy(update={"sources": tuple(repeated), "heldout_rows": 10})
    monkeypatch.setattr(row_sample, "SAMPLE_BYTES", 8000)
    sample = RowSample.of([*files.values()])
    counts = prepare(spec, files, Renderer(chatml()), 64, 0, tmp_path / "out", workers=RowProcesses(1), sample=sample)
    assert counts.heldout.rows == 1


def test_small_data_and_data_of_unknown_size_are_looked_at_as_a_whole(files: dict[str, list[Path]]) -> None:
    assert RowSample.of([*files.values()]) is None
    empty = files["data.sources.0.dataset"][0].with_name("empty.jsonl")
    empty.touch()
    assert RowSample.of([[empty], *files.values()]) is None
