"""A running service and its store: changes come through it, and a store that fails does not end the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.serve import control_records
from rayloom.serve.control_records import FOLDER, ChangeRequest, ControlChannel, ServiceState, post, state_of
from rayloom.serve.rollout import attempt

STATE = ServiceState("s", "http://127.0.0.1:1", 1.0, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_each_request_is_taken_up_once_and_an_old_one_never(store: Store) -> None:
    post(store, ChangeRequest("s", "promote"))
    channel = ControlChannel(store, "s")
    assert channel.next_request() is None
    asked = ChangeRequest("s", "rollback")
    post(store, asked)
    assert channel.next_request() == asked
    assert channel.next_request() is None


@pytest.mark.parametrize("broken", ["the folder", "the record"])
def test_a_service_goes_on_without_its_store_and_with_it_again(
    store: Store, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = ControlChannel(store, "s")
    channel.write(STATE)
    folder = Path(store.root) / FOLDER
    if broken == "the folder":
        folder.rename(folder.with_name("away"))
        folder.write_text("")
    else:
        (folder / "s.request.json").write_text("{broken")
    for _ in range(3):
        assert channel.next_request() is None
        if broken == "the folder":
            channel.write(STATE)
    folder.unlink() if broken == "the folder" else (folder / "s.request.json").unlink()
    if broken == "the folder":
        folder.with_name("away").rename(folder)
    asked = ChangeRequest("s", "promote")
    post(store, asked)
    assert channel.next_request() == asked
    assert state_of(store, "s") == STATE
    said = capsys.readouterr().err
    assert said.count("the store cannot be used") == 1
    assert said.count("the store can be used again") == 1


@pytest.mark.parametrize("error", [ResourceError("no room"), OSError("no room"), TypeError("no room")])
def test_a_change_that_fails_in_any_way_is_told_and_ends_nothing(error: Exception) -> None:
    def change() -> str:
        raise error

    is_done, message = attempt(change)
    assert not is_done
    assert "no room" in message
    assert attempt(lambda: "done") == (True, "done")


def test_a_service_that_said_nothing_for_long_is_gone() -> None:
    assert not control_records.is_up(STATE)
