"""Making an artifact once: reuse, one builder, and nothing half-written after a kill or a full disk."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.artifacts import NoteSpec, note, write_note

from rayloom.artifacts.build import Build, build, check_content
from rayloom.artifacts.manifest import Manifest, Outcome, file_entries, stamp_of_path
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError, ResourceError
from rayloom.specs.base import ArtifactReference, JobSpec

TESTS = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def never(spec: JobSpec, build: Build) -> Outcome:
    raise AssertionError("a finished artifact must not be made again")


def test_a_result_is_made_once_and_then_found(store: Store) -> None:
    made, was_made = build(note(), store, write_note)
    found, was_made_again = build(note(), store, never)
    assert (was_made, was_made_again) == (True, False)
    assert found == made
    assert (made.path / "texts" / "note.txt").read_text() == "hello"
    assert [file.path for file in made.manifest.files] == ["length.txt", "texts/note.txt"]
    assert made.manifest.metrics == {"characters": 5}
    assert made.manifest.headline == "written"
    assert made.manifest.spec["text"] == "hello"
    assert not (made.path / ".work").exists()


def test_what_names_a_result(store: Store) -> None:
    """Spec, parents' digests, stage version and what lies outside; not the parents' names or versions."""
    one, _ = build(note("same", name="one"), store, write_note)
    same, _ = build(note("same", name="two"), store, write_note)
    other, _ = build(note("other", name="one"), store, write_note)
    assert one.manifest.digest == same.manifest.digest
    versions = [
        note().version,
        note("changed").version,
        note(stage_version=2).version,
        note(parents={"base": one}).version,
        note(parents={"base": other}).version,
        note(parents={"second": one}).version,
        note(outside={"path": "abc"}).version,
    ]
    assert len(set(versions)) == len(versions)
    assert note(parents={"base": one}).version == note(parents={"base": same}).version


def test_parents_and_their_licences_are_recorded(store: Store) -> None:
    base, _ = build(note(name="base"), store, write_note)

    def unlicensed(spec: JobSpec, build: Build) -> Outcome:
        return Outcome("report", licences=("Apache-2.0",))

    child, _ = build(note(name="child", parents={"base": base}), store, unlicensed)
    (parent,) = child.manifest.parents
    assert (parent.field, parent.name, parent.digest) == ("base", "base", base.manifest.digest)
    assert child.manifest.licences == ("Apache-2.0", "MIT")


def test_a_stage_that_fails_publishes_nothing_and_keeps_its_work(store: Store) -> None:
    def fails(spec: JobSpec, build: Build) -> Outcome:
        (build.directory / "half.txt").write_text("half")
        (build.work / "checkpoint").write_text("step 3")
        raise QualityError("Not good enough")

    def resumes(spec: JobSpec, build: Build) -> Outcome:
        assert (build.work / "checkpoint").read_text() == "step 3"
        assert not (build.directory / "half.txt").exists()
        return write_note(spec, build)

    with pytest.raises(QualityError):
        build(note(), store, fails)
    assert list(store.manifests()) == []
    with pytest.raises(InputError, match="no artifact"):
        store.resolve("artifact:note")
    artifact, was_made = build(note(), store, resumes)
    assert was_made
    assert [file.path for file in artifact.manifest.files] == ["length.txt", "texts/note.txt"]


def test_a_full_disk_is_said_plainly(store: Store) -> None:
    def fills(spec: JobSpec, build: Build) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device", str(build.directory / "weights"))

    with pytest.raises(ResourceError, match=r"The disk is full; nothing was published .*weights.*artifacts gc"):
        build(note(), store, fills)


def test_another_error_of_the_system_is_left_as_it_is(store: Store) -> None:
    def breaks(spec: JobSpec, build: Build) -> Outcome:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        build(note(), store, breaks)


def test_a_disk_that_is_really_full_is_said_plainly(store: Store) -> None:
    def fills(spec: JobSpec, build: Build) -> Outcome:
        Path("/dev/full").write_text("x")
        return Outcome("report")

    with pytest.raises(ResourceError, match="The disk is full"):
        build(note(), store, fills)


def test_a_store_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match=r"cannot be written to: .*RAYLOOM_STORE"):
        build(note(), Store(str(tmp_path / "file")), write_note)


_KILLED = """
import os, signal, sys
from pathlib import Path
from support.artifacts import note, write_note
from rayloom.artifacts import store as stores
from rayloom.artifacts.build import build
from rayloom.artifacts.store import Store

class Dies:
    def __fspath__(self): os.kill(os.getpid(), signal.SIGKILL)

def stage(spec, build):
    (build.work / "checkpoint").write_text("step 3")
    outcome = write_note(spec, build)
    if sys.argv[2] == "in the stage":
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome

class Store(Store):
    def publish(self, directory, manifest, check_lease, stored_in):
        if sys.argv[2] == "while publishing":
            check_lease = lambda: os.kill(os.getpid(), signal.SIGKILL)
            (directory / "manifest.json.part").write_text(manifest.model_dump_json()[:100])
            check_lease()
        super().publish(directory, manifest, check_lease, stored_in)

build(note(), Store(sys.argv[1]), stage)
"""


@pytest.mark.parametrize("moment", ["in the stage", "while publishing"])
def test_a_killed_builder_leaves_no_artifact_and_the_next_continues(store: Store, moment: str) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, store.uri, moment], cwd=TESTS, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(store.manifests()) == []
    seen = []

    def resumes(spec: JobSpec, build: Build) -> Outcome:
        seen.append((build.work / "checkpoint").read_text())
        assert [path.name for path in build.directory.iterdir()] == [".work"]
        return write_note(spec, build)

    artifact, was_made = build(note(), store, resumes)
    assert (was_made, seen) == (True, ["step 3"])
    assert file_entries(artifact.path) == artifact.manifest.files


def test_one_builder_works_while_others_wait_and_use_its_result(store: Store) -> None:
    started, waiting, finish = threading.Event(), threading.Event(), threading.Event()
    results: list[tuple[Artifact, bool]] = []

    def slow(spec: JobSpec, build: Build) -> Outcome:
        started.set()
        assert finish.wait(10)
        return write_note(spec, build)

    first = threading.Thread(target=lambda: results.append(build(note(), store, slow)))
    first.start()
    assert started.wait(10)
    second = threading.Thread(target=lambda: results.append(build(note(), store, never, waiting.set)))
    second.start()
    assert waiting.wait(10)
    finish.set()
    first.join(10)
    second.join(10)
    assert sorted(was_made for _, was_made in results) == [False, True]


def test_a_waiting_process_gets_the_result_of_the_one_that_works(store: Store) -> None:
    code = (
        "import sys, time\n"
        "from support.artifacts import note, write_note\n"
        "from rayloom.artifacts.build import build\n"
        "from rayloom.artifacts.store import Store\n"
        "def slow(spec, build):\n"
        "    print('started', flush=True); sys.stdin.readline(); return write_note(spec, build)\n"
        "print(build(note(), Store(sys.argv[1]), slow)[1])\n"
    )
    command = [sys.executable, "-c", code, store.uri]
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "started\n"

        def let_it_finish() -> None:
            assert other.stdin is not None
            time.sleep(0.05)
            other.stdin.write("\n")
            other.stdin.flush()

        _, was_made = build(note(), store, never, let_it_finish)
        assert other.stdout.readline() == "True\n"
    assert not was_made


def test_going_back_to_an_older_spec_makes_its_result_current_again(store: Store) -> None:
    old, _ = build(note("old"), store, write_note)
    new, _ = build(note("new"), store, write_note)
    assert store.resolve("artifact:note") == new.manifest
    build(note("old"), store, never)
    assert store.resolve("artifact:note") == old.manifest
    assert store.resolve(f"artifact:{new.id}") == new.manifest


def test_a_reference_to_the_wrong_content_is_refused(store: Store) -> None:
    artifact, _ = build(note(), store, write_note)
    with pytest.raises(InputError, match=r"base needs a model or adapter, but note@\w+ is a report"):
        check_content(ArtifactReference("base", "artifact:note", ("model", "adapter")), artifact.manifest)
    check_content(ArtifactReference("base", "artifact:note", ("report",)), artifact.manifest)


def test_the_stamp_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("one")
    before = stamp_of_path(tmp_path / "a")
    assert stamp_of_path(tmp_path / "a") == before
    (tmp_path / "a" / "y.txt").write_text("two")
    after = stamp_of_path(tmp_path / "a")
    (tmp_path / "a" / "y.txt").write_text("2")
    assert len({before, after, stamp_of_path(tmp_path / "a")}) == 3
    file = tmp_path / "a" / "x.txt"
    assert stamp_of_path(file) != before


def test_a_manifest_comes_back_as_it_was(store: Store) -> None:
    artifact, _ = build(note(), store, write_note)
    assert Manifest.model_validate_json((artifact.path / "manifest.json").read_text()) == artifact.manifest
    assert isinstance(NoteSpec.model_validate(artifact.manifest.spec), NoteSpec)
