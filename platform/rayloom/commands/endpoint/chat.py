"""`rayloom chat URL`: a chat with an OpenAI-compatible endpoint, on a terminal or from a pipe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rayloom.errors import InputError, RayloomError, ResourceError

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

KEY_VARIABLE = "RAYLOOM_API_KEY"


def chat(options: argparse.Namespace) -> int:
    """Reads messages from standard input, and prints answers to standard output as they arrive."""
    client = open_client(options.url)
    models = served_models(client, options.url)
    model = options.model or models[0]
    if model not in models:
        raise InputError(f"There is no model {model} at this address", where=options.url, fix=_known(models))
    conversation = ChatSession(model, models, system=options.system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _show(f"{options.url}: {', '.join(models)}; talking to {model}. {HELP}\n")
    try:
        _talk(conversation, client, options, is_terminal)
    finally:
        if options.save is not None and conversation.messages:
            conversation.save(options.save)
    return 0


def _talk(conversation: ChatSession, client: OpenAI, options: argparse.Namespace, is_terminal: bool) -> None:
    for line in _lines(is_terminal):
        turn = conversation.take(line)
        if turn.is_end:
            return
        if turn.note:
            _show(turn.note + "\n")
        if turn.is_question:
            try:
                _answer(conversation, client, options)
            except RayloomError as error:
                conversation.take_back()
                if not is_terminal:
                    raise
                _show(f"error: {error}\n")


def _lines(is_terminal: bool) -> Iterator[str]:
    if is_terminal:
        import readline  # noqa: F401 (gives `input` its arrow keys and history)
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            _show("\n")
            return
        if not is_terminal and not line:
            return
        yield line.rstrip("\n")


def _answer(conversation: ChatSession, client: OpenAI, options: argparse.Namespace) -> None:
    """Prints the answer as it arrives. Ctrl-C stops it; the part that arrived is kept."""
    pieces_shown: list[str] = []
    try:
        with closing(_pieces(client, conversation, options)) as pieces:
            for piece in pieces:
                pieces_shown.append(piece)
                _show(piece)
    except KeyboardInterrupt:
        pieces_shown.append(" …")
    _show("\n")
    conversation.answered("".join(pieces_shown))


def _pieces(client: OpenAI, conversation: ChatSession, options: argparse.Namespace) -> Generator[str, None, None]:
    import openai

    try:
        stream = client.chat.completions.create(
            model=conversation.model,
            messages=cast("list[ChatCompletionMessageParam]", conversation.messages),
            stream=True,
            max_tokens=openai.omit if options.max_new_tokens is None else options.max_new_tokens,
            temperature=openai.omit if options.temperature is None else options.temperature,
        )
        with stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
    except openai.APIConnectionError as error:
        raise _no_answer(options.url, error) from None
    except openai.APIError as error:
        raise RayloomError(f"The endpoint refused: {error.message}", where=options.url) from None


def open_client(url: str) -> OpenAI:
    import openai

    if not url.startswith(("http://", "https://")):
        raise InputError("This is not the address of an endpoint", where=url, fix="Give http://HOST:PORT.")
    base = url.rstrip("/").removesuffix("/v1")
    return openai.OpenAI(base_url=f"{base}/v1", api_key=os.environ.get(KEY_VARIABLE, "none"), max_retries=0)


def served_models(client: OpenAI, url: str) -> list[str]:
    """The served models that can chat: the endpoint gives a `path` for each model that cannot."""
    import openai

    try:
        models = [model.id for model in client.models.list().data if "path" not in (model.model_extra or {})]
    except openai.APIConnectionError as error:
        raise _no_answer(url, error) from None
    except openai.AuthenticationError:
        fix = f"Put a key that `rayloom keys create` printed into {KEY_VARIABLE}."
        raise InputError("The endpoint asks for an API key", where=url, fix=fix) from None
    except (openai.APIError, AttributeError, TypeError, ValueError) as error:
        what = f"The server there is not an OpenAI-compatible endpoint ({error})"
        raise ResourceError(what, where=url, fix="Check the address.") from None
    if not models:
        raise ResourceError(
            "The endpoint serves no language model", where=url, fix="Name one under `models` in the job file."
        )
    return models


def _no_answer(url: str, error: Exception) -> ResourceError:
    reason = error.__cause__ or error
    fix = "Start a service with `rayloom run` on a serve job, or check the address."
    return ResourceError(f"Nothing answers ({reason})", where=url, fix=fix)


def _known(models: list[str]) -> str:
    return f"There are: {', '.join(models)}."


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


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
