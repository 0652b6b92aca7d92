"""The index of a store: what is read again, what is kept, and what is said about damage and a store that vanishes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from support.ui_store import family, published, trained

from rayloom.artifacts.manifest import MANIFEST_NAME
from rayloom.artifacts.store import Store
from rayloom.artifacts.transfer import read_all
from rayloom.ui import store_index, store_scan
from rayloom.ui.store_index import StoreIndex


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    family(store)
    return store


def test_it_knows_every_artifact_its_children_and_the_current_versions(store: Store) -> None:
    view = StoreIndex(store).read_now()
    assert view.is_whole
    assert len(view.entries) == 6
    assert view.entries[0].created_at == max(entry.created_at for entry in view.entries)
    assert set(view.children["corpus@cccc00000001"]) == {"adapter@dddd00000001", "adapter@dddd00000002"}
    assert "adapter@dddd00000002" in view.current
    assert "adapter@dddd00000001" not in view.current


def test_words_are_looked_for_in_names_kinds_and_results(store: Store) -> None:
    view = StoreIndex(store).read_now()
    assert [entry.name for entry in view.matching("310 kept")] == ["corpus"]
    assert {entry.kind for entry in view.matching(kind="train")} == {"train"}
    assert len(view.matching("adapter", only_current=True)) == 1
    assert view.matching("adapter nowhere") == []


def test_only_what_changed_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    index, opened = StoreIndex(store), list[str]()
    index.read_now()

    def counted(filesystem: AbstractFileSystem, paths: Sequence[str]) -> dict[str, bytes | Exception]:
        opened.extend(Path(path).relative_to(store.root).parts[0] for path in paths)
        return read_all(filesystem, paths)

    monkeypatch.setattr(store_scan, "read_all", counted)
    index.read_now()
    assert opened == []
    published(store, "rows", "aaaa00000002")
    assert "rows@aaaa00000002" in index.read_now().by_id
    assert set(opened) == {"rows"}


def test_a_version_that_is_being_built_appears_when_its_manifest_does(store: Store) -> None:
    index = StoreIndex(store)
    folder = Path(store.location("slow", "1234"))
    folder.mkdir(parents=True)
    assert index.read_now().unfinished == (("slow", "1234"),)
    published(store, "slow", "1234")
    view = index.read_now()
    assert view.unfinished == ()
    assert "slow@1234" in view.by_id


def test_what_was_removed_is_gone(store: Store) -> None:
    index = StoreIndex(store)
    index.read_now()
    store.remove("adapter", "dddd00000002")
    shutil.rmtree(Path(store.root) / "merged")
    view = index.read_now()
    assert {entry.name for entry in view.entries} == {"rows", "corpus", "base", "adapter"}
    assert "adapter@dddd00000001" in view.current


def test_a_damaged_manifest_is_named_and_hides_nothing_else(store: Store) -> None:
    (Path(store.location("base", "bbbb00000001")) / MANIFEST_NAME).write_text("{")
    view = StoreIndex(store).read_now()
    assert "damaged" in view.damaged["base@bbbb00000001"]
    assert len(view.entries) == 5


def test_a_store_that_vanishes_is_said_and_its_artifacts_stay_listed(store: Store) -> None:
    index = StoreIndex(store)
    index.read_now()
    root = Path(store.root)
    root.rename(root.with_name("away"))
    view = index.read_now()
    assert "There is no store here" in view.problem
    assert len(view.entries) == 6
    root.with_name("away").rename(root)
    assert index.read_now().problem == ""


def test_the_next_server_begins_with_what_was_read(store: Store) -> None:
    first = StoreIndex(store).read_now()
    Path(store.root).rename(Path(store.root).with_name("away"))
    kept = StoreIndex(store)
    assert kept.view().entries == first.entries


def test_a_cache_of_another_format_is_not_used(store: Store) -> None:
    StoreIndex(store).read_now()
    for file in (store.cache / "ui").glob("*.json"):
        file.write_text(json.dumps({"format": 0, "uri": store.uri, "names": {"x": [[], []]}}))
    assert len(StoreIndex(store).read_now().entries) == 6


def test_a_store_that_takes_long_to_read_is_read_less_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket with 100,000 objects would be listed all the time."""
    monkeypatch.setattr(store_index, "LOCAL_SECONDS", 0.0)
    readings = []

    def slow(*arguments: Any) -> Iterator[Any]:
        readings.append(time.monotonic())
        time.sleep(0.3)
        return store_scan.changed_names(*arguments)

    monkeypatch.setattr(store_index, "changed_names", slow)
    index = StoreIndex(store)
    index.read_now()
    index.view(wait_seconds=5)
    assert len(readings) == 2, "the first may be long, as everything is new"
    end = time.monotonic() + 0.9
    while time.monotonic() < end:
        index.view()
        time.sleep(0.05)
    assert len(readings) == 2


def test_a_store_in_an_object_store_is_read_too(tmp_path: Path) -> None:
    local = Store(str(tmp_path / "store"))
    family(local)
    remote = Store("memory://ui-index", cache=tmp_path / "cache")
    remote.filesystem.put(local.root, "/ui-index", recursive=True)
    index = StoreIndex(remote)
    assert set(index.read_now().by_id) == set(StoreIndex(local).read_now().by_id)
    trained(local, "late", "ffff00000001", [])
    remote.filesystem.put(local.location("late", "ffff00000001"), "/ui-index/late/ffff00000001", recursive=True)
    assert "late@ffff00000001" in index.read_now().by_id
    remote.filesystem.rm("/ui-index", recursive=True)
