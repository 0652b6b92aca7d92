"""A store in a bucket of a real S3 server on loopback: artifacts go there and come back, and what is wrong is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from support.artifacts import note, write_note
from support.service import free_port

from rayloom.artifacts import lock, node_cache
from rayloom.artifacts.build import build
from rayloom.artifacts.lineage import damage
from rayloom.artifacts.store import Store
from rayloom.artifacts.transfer import read_all

SECRET = "a-secret-that-no-file-may-hold"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def settings(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAYLOOM_STORE": "s3://bucket/team/store",
        "RAYLOOM_CACHE": str(tmp_path / "cache"),
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    return found


@pytest.fixture
def store(settings: dict[str, str], tmp_path: Path) -> Store:
    found = Store(settings["RAYLOOM_STORE"])
    found.filesystem.clear_instance_cache()
    found = Store(settings["RAYLOOM_STORE"])
    if not found.filesystem.exists("bucket"):
        found.filesystem.mkdir("bucket")
    return found


def rayloom(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if environment.get(name) != ""}
    kept |= {name: value for name, value in environment.items() if value}
    command = [sys.executable, "-m", "rayloom", *arguments]
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)


def test_an_artifact_goes_up_and_comes_down_on_another_node(
    store: Store, tmp_path: Path, settings: dict[str, str]
) -> None:
    made, is_new = build(note(text="over S3"), store, write_note)
    assert is_new
    assert build(note(text="over S3"), store, write_note)[1] is False
    assert damage(store, made.manifest) == []
    there = Store(store.uri, cache=tmp_path / "other")
    opened = there.open(there.resolve("note"))
    assert (opened.path / "texts" / "note.txt").read_text() == "over S3"
    listed = rayloom(tmp_path, "artifacts", "list")
    assert listed.returncode == 0, listed.stderr
    assert "note" in listed.stdout
    held = [store.filesystem.cat_file(path) for path in store.filesystem.find("bucket")]
    held += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not [text for text in held if SECRET.encode() in text]


def test_what_another_process_has_published_meanwhile_is_seen(store: Store) -> None:
    """s3fs remembers the listing of a folder, in which it is not."""
    folder = f"{store.root}/made"
    store.filesystem.pipe_file(f"{folder}/first.json", b"{}")
    assert store.filesystem.find(folder) == [f"{folder}/first.json"]
    other = S3FileSystem(skip_instance_cache=True)
    other.pipe_file(f"{folder}/current.json", b'{"version": "0123"}')
    assert store.current_version("made") == "0123"


def test_many_small_files_are_read_at_once_and_one_that_is_missing_stops_no_other(store: Store) -> None:
    paths = [f"{store.root}/many/{number}.json" for number in range(300)]
    store.filesystem.pipe({path: path.encode() for path in paths})
    found = read_all(store.filesystem, [*paths, f"{store.root}/many/missing.json"])
    assert isinstance(found.pop(f"{store.root}/many/missing.json"), FileNotFoundError)
    assert found == {path: path.encode() for path in paths}


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"RAYLOOM_STORE": "s3://no-such-bucket/x"}, 3, "error: There is no bucket no-such-bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:{free}"}, 4, "error: The object store does not answer"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 3, "error: The object store asks for credentials"),
    ],
    ids=["bucket", "endpoint", "credentials"],
)
def test_what_is_wrong_with_a_store_is_one_sentence(
    store: Store, tmp_path: Path, environment: dict[str, str], code: int, message: str
) -> None:
    given = {name: value.format(free=free_port()) for name, value in environment.items()}
    ended = rayloom(tmp_path, "artifacts", "list", HOME=str(tmp_path), **given)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1


def test_copies_stay_within_the_limit_and_those_in_use_stay_always(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["one" * 400, "two" * 400, "three" * 400]
    made = [build(note(text, name=f"n{n}"), store, write_note)[0].manifest for n, text in enumerate(texts)]
    folder = tmp_path / "node"
    monkeypatch.setenv("RAYLOOM_CACHE_BYTES", "4000")
    open_elsewhere = (
        "import sys; from pathlib import Path; from rayloom.artifacts.store import Store\n"
        "store = Store(sys.argv[1], cache=Path(sys.argv[2])); store.folder_of(store.resolve('n0'))\n"
    )
    subprocess.run([sys.executable, "-c", open_elsewhere, store.uri, str(folder)], check=True)
    here = Store(store.uri, cache=folder)
    used = here.folder_of(made[1])
    here.folder_of(made[2])
    copies = {path.parent.name for path in (folder / "artifacts").glob("*/manifest.json")}
    assert copies == {made[1].digest, made[2].digest}, "the one that no process uses went"
    assert (used / "texts" / "note.txt").read_text() == texts[1]
    assert here.folder_of(made[0]).exists(), "past the limit: all others are in use"
    node_cache.make_room(folder / "artifacts", 1 << 30)
    assert used.exists()
