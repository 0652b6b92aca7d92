"""A store in S3 that is made bad: a job finishes, or stops in a sentence and goes on later; nothing half looks done."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from support.artifacts import note
from support.bad_store import BadStore, Fault, Request, bad_store

from rayloom.artifacts import lock, s3
from rayloom.artifacts.build import Build, build
from rayloom.artifacts.lineage import damage
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.s3 import Wanted
from rayloom.artifacts.store import Store
from rayloom.artifacts.transfer import download, upload
from rayloom.errors import InputError, RayloomError, ResourceError, unwrapped
from rayloom.specs.base import JobSpec

PART_BYTES = 5 << 20
"""The smallest that S3 takes."""
LARGE_BYTES = 12 << 20
"""Three parts up, and three ranges down."""


@pytest.fixture(scope="module")
def server() -> Iterator[BadStore]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with bad_store(f"http://{host}:{port}") as before:
        yield before
    moto.stop()


@pytest.fixture
def store(server: BadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    server.begin(lambda _: None)
    settings = {
        "AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "RAYLOOM_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(s3, "RANGE_BYTES", PART_BYTES)
    monkeypatch.setattr(s3, "RETRIES", {"max_retries": 5})
    uri = f"s3://bucket/{tmp_path.name}"
    Store(uri).filesystem.clear_instance_cache()
    found = Store(uri)
    if not found.filesystem.exists("bucket"):
        found.filesystem.mkdir("bucket")
    return found


def write_large(spec: JobSpec, given: Build) -> Outcome:
    """A file that goes up in parts, beside many small ones."""
    dice = np.random.default_rng(1)
    (given.directory / "large.bin").write_bytes(dice.bytes(LARGE_BYTES))
    for number in range(20):
        (given.directory / f"{number} ä#+%20?[1]~.txt").write_text(str(number) * 100)
    (given.directory / "empty").touch()
    return Outcome("dataset")


def made_in(store: Store, tmp_path: Path) -> None:
    """The artifact is made, sound in the store, and comes down whole on another node."""
    artifact, _ = build(note(), store, write_large)
    assert damage(store, artifact.manifest) == []
    there = Store(store.uri, cache=tmp_path / "other node")
    assert (there.open(artifact.manifest).path / "large.bin").stat().st_size == LARGE_BYTES


def refusal(store: Store) -> RayloomError:
    with pytest.raises(Exception) as raised:
        build(note(), store, write_large)
    return unwrapped(raised.value)


def finished(server: BadStore, store: Store) -> list[str]:
    """What counts as finished once the store is good again."""
    server.begin(lambda _: None)
    store.filesystem.invalidate_cache()
    return [manifest.id for manifest in store.manifests()]


def test_requests_that_fail_now_and_then_are_made_again(server: BadStore, store: Store, tmp_path: Path) -> None:
    dice = random.Random(3)
    server.begin(lambda _: Fault(status=dice.choice((500, 503))) if dice.random() < 0.05 else None)
    made_in(store, tmp_path)
    assert server.num_faults >= 2


def test_an_upload_that_is_cut_in_its_middle_is_made_again(server: BadStore, store: Store, tmp_path: Path) -> None:
    cut: list[int] = []

    def fault(request: Request) -> Fault | None:
        if request.method == "PUT" and "large.bin" in request.path and len(cut) < 2:
            cut.append(request.number)
            return Fault(is_cut=True)
        return None

    server.begin(fault)
    made_in(store, tmp_path)
    assert len(cut) == 2


def test_a_download_that_is_cut_goes_on_at_the_byte_it_had(server: BadStore, store: Store, tmp_path: Path) -> None:
    asked: list[str] = []

    def fault(request: Request) -> Fault | None:
        if request.method == "GET" and "large.bin" in request.path:
            asked.append(request.range)
            return Fault(is_cut=len(asked) <= 4)
        return None

    artifact, _ = build(note(), store, write_large)
    server.begin(fault)
    there = Store(store.uri, cache=tmp_path / "other node")
    assert (there.open(artifact.manifest).path / "large.bin").stat().st_size == LARGE_BYTES
    begun = {int(first.removeprefix("bytes=").partition("-")[0]) % PART_BYTES for first in asked}
    assert len(asked) >= 7 and len(begun) >= 2, asked


@pytest.mark.full
def test_a_stall_is_waited_for(server: BadStore, store: Store, tmp_path: Path) -> None:
    server.begin(lambda request: Fault(stall_seconds=10) if request.number == 12 else None)
    made_in(store, tmp_path)
    assert server.num_faults == 1


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [(403, InputError, "credentials"), (507, ResourceError, "The object store is full")],
    ids=["credentials run out", "the bucket is full"],
)
@pytest.mark.parametrize("at", ["large.bin", "manifest.json"])
def test_what_cannot_go_on_stops_in_a_sentence_and_later_goes_on(
    server: BadStore, store: Store, tmp_path: Path, at: str, status: int, kind: type[RayloomError], said: str
) -> None:
    server.begin(lambda request: Fault(status=status) if request.method == "PUT" and at in request.path else None)
    error = refusal(store)
    assert isinstance(error, kind), error
    assert said in str(error)
    assert len(str(error).splitlines()) == 1
    assert finished(server, store) == []
    made_in(store, tmp_path)
    assert "Uploads" not in store.filesystem.call_s3("list_multipart_uploads", Bucket="bucket")


@pytest.mark.parametrize("change", [lambda old: old[:-1] + b"!", lambda old: old[: PART_BYTES // 2], lambda _: b""])
def test_a_file_that_changed_in_the_store_is_not_used(
    store: Store, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    manifest = build(note(), store, write_large)[0].manifest
    place = f"{store.location(manifest.name, manifest.version)}/large.bin"
    store.filesystem.pipe_file(place, change(store.filesystem.cat_file(place)))
    there = Store(store.uri, cache=tmp_path / "other node")
    with pytest.raises(InputError, match="came damaged out of the store"):
        there.folder_of(manifest)
    assert not there._copy(manifest).exists()


def test_a_disk_that_fills_while_a_file_comes_down_is_named(store: Store, tmp_path: Path) -> None:
    store.filesystem.pipe_file(f"{store.root}/file", bytes(LARGE_BYTES))
    full = tmp_path / "on a full disk"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        download(store.filesystem, [Wanted(f"{store.root}/file", full, LARGE_BYTES)])
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(full)


def test_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with pytest.raises(InputError, match="There is no bucket elsewhere"):
        upload(store.filesystem, [(file, "elsewhere/file")])
    with pytest.raises(FileNotFoundError):
        download(store.filesystem, [Wanted(f"{store.root}/never/made", file, 10)])
