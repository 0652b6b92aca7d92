"""What the lines of `rayloom chat` do, and what it says where nothing answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rayloom.cli import main
from rayloom.commands.endpoint.chat import ChatSession


def conversation(**changes: str) -> ChatSession:
    return ChatSession("one", ["one", "two"], **changes)


def test_what_is_said_and_answered_is_kept_after_the_system_message() -> None:
    talk = conversation(system="Be brief.")
    assert talk.take("  Hello ").is_question
    talk.answered("Hi.")
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant"]
    assert talk.messages[1]["content"] == "Hello"


def test_an_unanswered_question_is_taken_back() -> None:
    talk = conversation()
    talk.take("Hello")
    talk.take_back()
    talk.take_back()
    assert talk.messages == []


def test_commands_change_model_and_system_message() -> None:
    talk = conversation()
    assert talk.take("/model two").note == "talking to two"
    assert "one, two" in talk.take("/model three").note
    assert talk.model == "two"
    talk.take("/system Speak French.")
    assert talk.system == "Speak French."
    talk.take("/system")
    assert talk.system is None


def test_clearing_forgets_and_quitting_ends() -> None:
    talk = conversation()
    talk.take("Hello")
    talk.take("/clear")
    assert talk.messages == []
    assert talk.take("/quit").is_end
    assert not talk.take("").is_question
    assert "/save" in talk.take("/what").note


def test_a_transcript_is_saved_as_messages(tmp_path: Path) -> None:
    talk = conversation()
    talk.take("Hällo")
    talk.answered("Hi.")
    assert talk.take(f"/save {tmp_path / 'talk.json'}").note.startswith("saved")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved == {"model": "one", "messages": talk.messages}
    assert talk.take(f"/save {tmp_path / 'no' / 'talk.json'}").note.startswith("not saved")


def test_a_line_that_is_no_address_and_an_address_where_nothing_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert main(["chat", "localhost:8000"]) == 3
    assert main(["chat", "http://127.0.0.1:9"]) == 4
    said = capsys.readouterr().err.splitlines()
    assert "not the address of an endpoint" in said[0]
    assert "Nothing answers" in said[1]
    assert "rayloom run" in said[1]
