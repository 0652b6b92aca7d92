"""The state of `rayloom chat`: messages, commands that begin with `/`, and the saved transcript."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

HELP = "/model NAME, /system TEXT, /clear, /save FILE, /quit"


@dataclass(frozen=True)
class Turn:
    """What to do after an input line."""

    is_question: bool = False
    is_end: bool = False
    note: str = ""
    """Text to print at once."""


@dataclass
class ChatSession:
    """Messages in OpenAI's form, and the model that answers."""

    model: str
    models: list[str]
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """All turns, after the system message if there is one."""
        before = [{"role": "system", "content": self.system}] if self.system and self.turns else []
        return before + self.turns

    def take(self, line: str) -> Turn:
        """Handles a typed line: a command or a message."""
        text = line.strip()
        if not text:
            return Turn()
        if text.startswith("/"):
            command, _, rest = text.partition(" ")
            return self._command(command, rest.strip())
        self.turns.append({"role": "user", "content": text})
        return Turn(is_question=True)

    def answered(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Removes a question that got no answer."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def save(self, path: Path) -> None:
        """One JSON object: model and messages, in the form that a training job reads."""
        whole = {"model": self.model, "messages": self.messages}
        path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _command(self, command: str, rest: str) -> Turn:
        if command in ("/quit", "/exit"):
            return Turn(is_end=True)
        if command == "/clear":
            self.turns.clear()
            return Turn(note="forgotten")
        if command == "/system":
            self.system = rest or None
            return Turn(note=f"system: {self.system}" if self.system else "no system message")
        if command == "/model":
            return self._switch(rest)
        if command == "/save" and rest:
            return self._save(rest)
        return Turn(note=HELP)

    def _switch(self, name: str) -> Turn:
        if name in self.models:
            self.model = name
            return Turn(note=f"talking to {name}")
        return Turn(note=f"the models are {', '.join(self.models)}")

    def _save(self, name: str) -> Turn:
        try:
            self.save(Path(name).expanduser())
        except OSError as error:
            return Turn(note=f"not saved: {error.strerror} ({name})")
        return Turn(note=f"saved in {name}")
