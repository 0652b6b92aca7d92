"""The store, on a local folder and on a remote filesystem: finding, opening, damage, removal."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from support.artifacts import note, write_note

from rayloom.artifacts import lock
from rayloom.artifacts.build import Build, build
from rayloom.artifacts.lineage import damage
from rayloom.artifacts.manifest import FileEntry, Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.specs.base import JobSpec

TESTS = Path(__file__).parents[1]


def _store(kind: str, tmp_path: Path) -> Store:
    (tmp_path / "remote").mkdir()
    uris = {
        "local": str(tmp_path / "store"),
        "memory": f"memory://{uuid.uuid4().hex}/store",
        "dir": f"dir::file://{tmp_path / 'remote'}",
    }
    return Store(uris[kind], cache=tmp_path / "cache")


@pytest.fixture(params=["local", "memory", "dir"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A local folder, an object store in memory, and one that several processes see, which fsspec calls not local."""
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    return _store(request.param, tmp_path)


@pytest.fixture(params=["memory", "dir"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.0)
    return _store(request.param, tmp_path)


def other_machine(store: Store, tmp_path: Path) -> Store:
    """The same store as a machine sees it that has fetched nothing yet."""
    return Store(store.uri, cache=tmp_path / "other-cache")


def made(store: Store, text: str = "hello", name: str = "note") -> Artifact:
    return build(note(text, name), store, write_note)[0]


def place(store: Store, artifact: Artifact, file: str) -> str:
    return f"{store.location(artifact.manifest.name, artifact.manifest.version)}/{file}"


def test_an_artifact_is_found_by_name_version_and_beginning(store: Store) -> None:
    artifact = made(store)
    version = artifact.manifest.version
    for reference in ("note", "artifact:note", f"note@{version}", f"artifact:note@{version[:6]}"):
        assert store.resolve(reference) == artifact.manifest
    assert store.names() == ["note"]
    assert list(store.manifests()) == [artifact.manifest]


@pytest.mark.parametrize("reference", ["other", "note@ffffff", "NOTE", "../note", "note/../note", ""])
def test_what_is_not_there_is_said_with_what_is(store: Store, reference: str) -> None:
    made(store)
    with pytest.raises(InputError, match=r"There is no artifact .*holds: note"):
        store.resolve(reference)


def test_a_beginning_that_fits_several_versions_is_refused(store: Store) -> None:
    first = made(store)
    twin = first.manifest.model_copy(update={"version": f"{first.manifest.version[:6]}ffffff"})
    folder = store.location("note", twin.version)
    store.filesystem.makedirs(folder)
    store.filesystem.pipe_file(f"{folder}/manifest.json", twin.model_dump_json().encode())
    beginning = twin.version[:6]
    with pytest.raises(InputError, match=r"could be any of note@.* Write more of the version"):
        store.resolve(f"note@{beginning}")


def test_another_machine_reads_the_same_files(store: Store, tmp_path: Path) -> None:
    artifact = made(store)
    other = other_machine(store, tmp_path)
    opened = other.open(other.resolve("note"))
    assert (opened.path / "texts" / "note.txt").read_text() == "hello"
    assert opened.manifest == artifact.manifest
    assert (opened.path == artifact.path) == store.is_local


def test_what_was_made_here_is_not_fetched_back(remote: Store) -> None:
    artifact = made(remote)
    remote.filesystem.rm_file(place(remote, artifact, "length.txt"))
    assert (remote.open(artifact.manifest).path / "length.txt").read_text() == "5"


def test_an_interrupted_fetch_continues_and_damage_is_noticed(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote)
    other = other_machine(remote, tmp_path)
    target = tmp_path / "other-cache" / "artifacts" / artifact.manifest.digest
    target.mkdir(parents=True)
    (target / "length.txt").write_text("part of a fi")
    assert (other.open(artifact.manifest).path / "length.txt").read_text() == "5"
    remote.filesystem.pipe_file(place(remote, artifact, "length.txt"), b"6")
    third = Store(remote.uri, cache=tmp_path / "third-cache")
    for _ in range(2):
        with pytest.raises(InputError, match="came damaged out of the store"):
            third.folder_of(artifact.manifest)


def test_what_others_may_read_they_can_read(store: Store) -> None:
    def write_private(spec: JobSpec, given: Build) -> Outcome:
        outcome = write_note(spec, given)
        (given.directory / "weights").touch(mode=0o600)
        return outcome

    artifact = build(note("private"), store, write_private)[0]
    assert (artifact.path / "weights").stat().st_mode & 0o044 == 0o044


def test_verification_names_what_changed_is_missing_or_foreign(store: Store) -> None:
    artifact = made(store)
    assert damage(store, artifact.manifest) == []
    store.filesystem.pipe_file(place(store, artifact, "length.txt"), b"6")
    store.filesystem.rm_file(place(store, artifact, "texts/note.txt"))
    store.filesystem.pipe_file(place(store, artifact, "stranger.txt"), b"x")
    read: list[int] = []
    said = damage(store, artifact.manifest, read.append)
    assert [line.split(":")[0] for line in said] == [
        "length.txt has changed",
        "texts/note.txt is missing",
        "stranger.txt does not belong to it",
    ]
    assert sum(read) == 1


def test_a_damaged_manifest_is_an_error_with_its_way_out(store: Store) -> None:
    artifact = made(store)
    for text in (b"{", b"{}", artifact.manifest.model_dump_json().replace('"name":"note"', '"name":"other"').encode()):
        store.filesystem.pipe_file(place(store, artifact, "manifest.json"), text)
        with pytest.raises(InputError, match=r"manifest of note@\w+ is damaged.*artifacts gc note@"):
            store.resolve("note")


def test_one_damaged_version_does_not_hide_the_current_one(store: Store) -> None:
    old, new = made(store, "old"), made(store, "new")
    store.filesystem.pipe_file(place(store, old, "manifest.json"), b"{")
    assert store.resolve("note") == new.manifest


def test_a_damaged_pointer_is_an_error_and_the_next_run_mends_it(store: Store) -> None:
    artifact = made(store)
    pointer = f"{store.root}/note/current.json"
    for text in (b"", b"{}", b"[]"):
        store.filesystem.pipe_file(pointer, text)
        with pytest.raises(InputError, match="pointer to the current note is damaged"):
            store.resolve("note")
    made(store)
    assert store.resolve("note") == artifact.manifest
    store.filesystem.rm_file(pointer)
    assert store.resolve("note") == artifact.manifest


def test_a_removed_version_is_gone_and_its_name_means_what_is_left(store: Store) -> None:
    old, new = made(store, "old"), made(store, "new")
    store.remove("note", new.manifest.version)
    assert store.resolve("note") == old.manifest
    assert store.manifest("note", new.manifest.version) is None
    store.remove("note", "0123456789ab")


def test_a_version_without_a_manifest_is_no_artifact(store: Store) -> None:
    artifact = made(store)
    store.filesystem.rm_file(place(store, artifact, "manifest.json"))
    assert store.versions("note") == []
    assert store.folders("note") == [artifact.manifest.version]
    with pytest.raises(InputError, match="holds: nothing yet"):
        store.resolve("note")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\..\\x"])
def test_a_manifest_cannot_name_files_outside_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside the artifact"):
        FileEntry(path=path, size_bytes=0, sha256="0" * 64)


def test_the_store_is_the_named_one_else_the_nearest_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYLOOM_STORE", raising=False)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert Store.beside(deep).root == str(deep / ".rayloom")
    (tmp_path / "a" / ".rayloom").mkdir()
    assert Store.beside(deep).root == str(tmp_path / "a" / ".rayloom")
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "named"))
    assert Store.beside(deep).root == str(tmp_path / "named")


@pytest.mark.parametrize(
    ("uri", "message"),
    [("zzz://a", "no place for a store"), ("gs://bucket/prefix", "needs a package that is not installed.*gcsfs")],
)
def test_a_place_that_cannot_hold_a_store_is_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store(uri)


def test_two_processes_on_a_remote_store_build_one_after_the_other(tmp_path: Path) -> None:
    """With separate caches they share no kernel lock, as two machines do not; only the lease is between them."""
    (tmp_path / "remote").mkdir()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from support.artifacts import note, write_note\n"
        "from rayloom.artifacts.build import build\n"
        "from rayloom.artifacts.store import Store\n"
        "def slow(spec, build):\n"
        "    time.sleep(0.5); return write_note(spec, build)\n"
        "print(build(note(), Store(sys.argv[1], Path(sys.argv[2])), slow)[1])\n"
    )
    uri = f"dir::file://{tmp_path / 'remote'}"
    commands = [[sys.executable, "-c", code, uri, str(tmp_path / cache)] for cache in ("one", "two")]
    builders = [subprocess.Popen(c, cwd=TESTS, stdout=subprocess.PIPE, text=True, env=os.environ) for c in commands]
    said = sorted(builder.communicate(timeout=60)[0] for builder in builders)
    assert said == ["False\n", "True\n"]
    (manifest,) = Store(uri).manifests()
    assert damage(Store(uri), manifest) == []


def test_a_manifest_is_plain_json_with_every_file(store: Store) -> None:
    artifact = made(store)
    facts = json.loads(store.filesystem.cat_file(place(store, artifact, "manifest.json")))
    assert {file["path"] for file in facts["files"]} == {"length.txt", "texts/note.txt"}
    assert facts["packages"]["numpy"]


def test_an_artifact_that_travels_has_the_files_of_the_node_it_comes_to(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = made(remote)
    assert artifact.path.is_dir()
    sent = pickle.dumps(artifact)
    assert str(remote.cache).encode() not in sent
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path / "node"))
    there = pickle.loads(sent)  # noqa: S301 - made here
    assert there == artifact
    assert there.path.is_relative_to(tmp_path / "node")
    assert (there.path / "length.txt").read_bytes() == (artifact.path / "length.txt").read_bytes()
