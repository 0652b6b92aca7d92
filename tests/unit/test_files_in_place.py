"""Sources read where they lie, on several file systems; a file that changed makes a new result."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from support.passes import cleaned
from support.tokenizers import chatml

from rayloom.errors import InputError, SpecError
from rayloom.reading.files_in_place import files_in_place, stamp_of_files
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.labelled_data import LabelledSource
from rayloom.specs.training.preferences import PreferenceSource
from rayloom.specs.training.training_data import ConversationData, ConversationSource
from rayloom.specs.tune import TuneSpec
from rayloom.text.conversations.block_results import BlockResults
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.rendered_rows import ConversationCounts
from rayloom.text.row_workers import RowProcesses
from rayloom.train.job_rows import source_files

ROWS = [f"page {n} about the harbour and {n * n} boats" for n in range(40)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in ROWS).encode()


@pytest.fixture
def memory() -> Iterator[str]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe(
        {"/bucket/a/one.jsonl": LINES, "/bucket/a/two.jsonl.gz": gzip.compress(LINES), "/bucket/x.txt": b"x"}
    )
    yield "memory://bucket"
    filesystem.rm("/bucket", recursive=True)


def _read(uri: str) -> bytes:
    with closing(SourceStream(uri)) as opened:
        return opened.content.read()


def test_files_below_a_uri_by_pattern(memory: str) -> None:
    found = files_in_place(memory, "**/*.jsonl*")
    assert [(file.name, file.size_bytes) for file in found] == [
        ("a/one.jsonl", len(LINES)), ("a/two.jsonl.gz", len(gzip.compress(LINES, mtime=0))),
    ]  # fmt: skip
    assert [_read(file.uri) for file in found] == [LINES, LINES]
    (single,) = files_in_place(f"{memory}/a/one.jsonl")
    assert single.name == "one.jsonl" and _read(single.uri) == LINES


def test_an_archive_is_a_file_system(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pages.zip", "w") as archive:
        archive.writestr("in/one.jsonl", LINES)
        archive.writestr("other.txt", "x")
    found = files_in_place(f"zip://::file://{tmp_path}/pages.zip", "**/*.jsonl")
    assert [file.name for file in found] == ["in/one.jsonl"] and _read(found[0].uri) == LINES


def test_a_table_is_read_from_the_middle_of_a_remote_file(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    with filesystem.open("/tables/t.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ROWS}), file)
    source = {"name": "s", "uri": "memory://tables", "format": {"type": "parquet"}, "domain": "web"}
    found = cleaned(tmp_path, _job(source))
    assert found.manifest.metrics["documents_kept"] == 40


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "one.jsonl").write_bytes(LINES)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/one.jsonl"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_of_a_web_server(web: str) -> None:
    (file,) = files_in_place(web)
    assert file.name == "one.jsonl" and file.size_bytes == len(LINES) and _read(file.uri) == LINES


def _job(source: dict[str, Any]) -> dict[str, Any]:
    return {"sources": [source], "rules": {"gopher": None}, "output": {"type": "rows"}}


def _source(uri: str, **changes: Any) -> dict[str, Any]:
    return {"name": "s", "uri": uri, "files": "a/one.jsonl", "format": {"type": "jsonl"}, "domain": "web"} | changes


def test_a_job_on_a_uri_and_a_new_result_where_the_file_changed(memory: str, tmp_path: Path) -> None:
    first = cleaned(tmp_path, _job(_source(memory)))
    assert first.manifest.metrics["documents_kept"] == 40
    assert not list(tmp_path.glob("store-*/folder.*")), "nothing was imported"
    assert cleaned(tmp_path, _job(_source(memory))).manifest.version == first.manifest.version
    fsspec.filesystem("memory").pipe("/bucket/a/one.jsonl", LINES + LINES.replace(b"page", b"sheet"))
    second = cleaned(tmp_path, _job(_source(memory)))
    assert second.manifest.version != first.manifest.version and second.manifest.metrics["documents_kept"] == 80


def test_stamps_tell_files_apart(memory: str) -> None:
    before = stamp_of_files(files_in_place(memory))
    assert before == stamp_of_files(files_in_place(memory))
    fsspec.filesystem("memory").rm("/bucket/x.txt")
    assert stamp_of_files(files_in_place(memory)) != before


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("memory://bucket", r"No file fits '\*\.csv'.*There is: a/one.jsonl, a/two.jsonl.gz, x.txt"),
        ("memory://nowhere", "There is: no file at all"),
        ("no-such-protocol://x", "cannot be read: Protocol not known"),
    ],
)
def test_places_that_cannot_be_read(memory: str, uri: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        files_in_place(uri, "*.csv")


def test_a_file_that_is_gone(memory: str) -> None:
    with pytest.raises(InputError, match="A source file cannot be read"):
        SourceStream(f"{memory}/none.jsonl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "./x"}, "needs either a dataset or a uri"),
        ({"uri": "bucket/x"}, "must be a URI such as s3://bucket/folder"),
        ({"uri": None, "dataset": "./x", "licence": "MIT"}, "a data set has its own licence"),
    ],
)
def test_sources_that_cannot_be(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        cleaned(tmp_path, _job(_source("memory://x") | changes))


# -- training ----------------------------------------------------------------------------------------------------------

CHATS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(8)
]


@pytest.fixture
def chats(memory: str) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(CHATS), sink)
    lines = "".join(f"{json.dumps(row)}\n" for row in CHATS)
    files = {
        "/bucket/chats/one.parquet": sink.getvalue().to_pybytes(),
        "/bucket/chats/two.jsonl.gz": gzip.compress(lines.encode()),
    }
    fsspec.filesystem("memory").pipe(files)
    return f"{memory}/chats"


LENGTHS = {"sequence_length_tokens": 64, "micro_batch_sequences": 1, "global_batch_tokens": 64}


def _training(uri: str, **changes: Any) -> dict[str, Any]:
    source = {"uri": uri, "format": "messages", "licence": "MIT"} | changes
    data = {"type": "conversations", "sources": [source], "heldout_rows": 2}
    return {
        "kind": "train",
        "name": "t",
        "base": "artifact:b",
        "data": data,
        "num_epochs": 1,
        "learning_rate": 1e-3,
    } | LENGTHS


def test_rows_to_train_on_are_read_at_a_uri(chats: str, tmp_path: Path) -> None:
    spec = TrainSpec.model_validate(_training(chats))
    assert isinstance(spec.data, ConversationData)
    counts = ConversationCounts()
    files = source_files(spec.data.sources, {})
    with BlockResults(spec.data, files, Renderer(chatml()), 0, tmp_path, RowProcesses(1), lambda *_: None) as results:
        rows = results.read(counts)
    assert [rows.origin(row) for row in range(len(rows.table))] == [
        *(f"one.parquet row {n}" for n in range(1, 9)), *(f"two.jsonl.gz row {n}" for n in range(1, 9)),
    ]  # fmt: skip
    assert counts.rows_read == {f"0 {chats}": 16}
    assert len(set(rows.contents.tolist())) == 8


def test_a_training_job_or_a_search_is_another_one_where_its_files_changed(chats: str) -> None:
    spec = TrainSpec.model_validate(_training(chats, files="*.gz"))
    (outside,) = spec.outside_files()
    assert (outside.path, outside.location, outside.pattern) == ("data.sources.0.uri", chats, "*.gz")
    choices = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
    search = {
        "kind": "tune",
        "name": "s",
        "train": _training(chats) | {"evaluate_every_steps": 1},
        "space": choices,
        "budget": {"num_trials": 2},
    }
    assert [files.path for files in TuneSpec.model_validate(search).outside_files()] == ["train.data.sources.0.uri"]
    corpus = {"data": {"type": "corpus", "corpus": "artifact:c"}}
    assert not [*TrainSpec.model_validate(_training(chats) | corpus).outside_files()]


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        (ConversationSource, {"format": "messages"}),
        (LabelledSource, {"read": {"type": "table"}}),
        (PreferenceSource, {"format": "sharegpt"}),
    ],
)
def test_every_source_of_training_is_in_one_place(kind: type[SourceOfRows], about: dict[str, Any]) -> None:
    for places in ({}, {"dataset": "./x", "uri": "s3://b/x"}):
        with pytest.raises(ValidationError, match="needs either a dataset or a uri"):
            kind.model_validate(places | about)
