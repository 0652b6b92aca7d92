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
from support.passes import cleaned

from rayloom.errors import InputError, SpecError
from rayloom.reading.files_in_place import files_in_place, stamp_of_files
from rayloom.reading.source_stream import SourceStream

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
        ({"uri": None, "dataset": "./x", "licence": "MIT"}, "a data set brings its own licence"),
    ],
)
def test_sources_that_cannot_be(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        cleaned(tmp_path, _job(_source("memory://x") | changes))
