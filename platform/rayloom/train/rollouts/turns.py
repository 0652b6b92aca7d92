"""What follows a prompt: turns that engines write, and between them what an environment says, which is never trained.

A conversation goes on behind the very ids that the engine wrote. What comes next is taken from the rendering of the
whole conversation by the model's own chat template, which must begin with these ids, or with their text in other ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.reading.files import table_rows
from rayloom.rewards.answer import CannotJudgeError
from rayloom.rewards.function_process import FunctionProcess
from rayloom.rewards.opening import check_opening
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.policies import PromptData
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.prompt_rows import PromptRow
from rayloom.text.conversations.render import Conversation, Renderer
from rayloom.train.job_rows import source_files
from rayloom.train.rollouts.answers import AskedPrompt, Writers, WrittenTokens, seed_of

Message = dict[str, Any]
ROLES = ("tool", "user")
"""Who an environment may speak as."""


@dataclass
class Dialogue:
    """What follows a prompt so far; `PolicyAnswer` says what its fields are."""

    row: PromptRow
    group: int
    seeds: tuple[int, int, int, int] | None
    """Seed, round, prompt and sample; None for the likeliest answers."""
    tokens: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    text: str = ""
    is_cut: bool = False
    num_retokenised: int = 0
    problem: str | None = None
    """Why it could not go on."""

    @property
    def messages(self) -> list[Message]:
        return [*self.row.messages, *self.turns, {"role": "assistant", "content": self.text}]

    @property
    def num_turns(self) -> int:
        """Turns of the model before the one that is asked for."""
        return sum(turn["role"] == "assistant" for turn in self.turns)

    def asked(self) -> AskedPrompt:
        later = (self.num_turns,) if self.turns else ()
        seed = None if self.seeds is None else seed_of(*self.seeds, *later)
        return AskedPrompt([*self.row.tokens, *self.tokens], seed, self.group)

    def say(self, written: WrittenTokens, text: str) -> None:
        self.tokens += written.tokens
        self.log_p += written.log_p
        self.text, self.is_cut = text, written.is_cut

    def hear(self, said: Sequence[Message], ids: Sequence[int]) -> None:
        self.turns = [*self.messages[len(self.row.messages) :], *said]
        self.gaps.append((len(self.tokens), len(self.tokens) + len(ids)))
        self.tokens += ids


@dataclass(frozen=True)
class Environment:
    """Answers the model between its turns."""

    spec: TrainSpec
    process: FunctionProcess
    renderer: Renderer

    def goes_on(self, dialogue: Dialogue) -> bool:
        """Whether the dialogue has another turn; it then has heard what the environment says."""
        rollouts = self.spec.rollouts
        assert rollouts is not None and rollouts.environment is not None
        if dialogue.is_cut or dialogue.num_turns + 1 >= rollouts.environment.max_turns:
            return False
        try:
            said = _messages(self.process.call(dialogue.messages, dialogue.row.row))
            if not said:
                return False
            before = [*dialogue.row.tokens, *dialogue.tokens]
            ids, is_same = following(self.renderer, dialogue.row, before, [*dialogue.messages, *said])
        except CannotJudgeError as error:
            dialogue.problem = f"environment: {error}"
            return False
        dialogue.num_retokenised += not is_same
        if len(before) + len(ids) >= self.spec.sequence_length_tokens:
            dialogue.is_cut = True
            return False
        dialogue.hear(said, ids)
        return True


class PendingDialogues:
    """Dialogues whose first turns are being written."""

    def __init__(
        self,
        dialogues: Sequence[Dialogue],
        writers: Writers,
        decode: Callable[[list[int]], str],
        environment: Environment | None,
    ) -> None:
        self._dialogues, self._writers, self._decode, self._environment = dialogues, writers, decode, environment
        self._first = writers.ask([dialogue.asked() for dialogue in dialogues])

    def result(self) -> tuple[Sequence[Dialogue], float]:
        """The finished dialogues, and the seconds in which engines wrote. Turns after the first are asked now."""
        going, pending, seconds = self._dialogues, self._first, 0.0
        while True:
            written, took = pending.result()
            seconds += took
            for dialogue, one in zip(going, written, strict=True):
                dialogue.say(one, self._decode(one.tokens))
            environment = self._environment
            going = [] if environment is None else [one for one in going if environment.goes_on(one)]
            if not going:
                return self._dialogues, seconds
            pending = self._writers.ask([dialogue.asked() for dialogue in going], goes_on=True)


def following(
    renderer: Renderer, row: PromptRow, before: list[int], messages: Sequence[Message]
) -> tuple[list[int], bool]:
    """The ids that the chat template puts behind `before` (a prompt with the turns that engines wrote), up to where the
    next answer begins; and whether the rendering of all messages has these very ids before them.

    Raises CannotJudgeError where it has another text there, so that the server would show the model something else
    than what it is trained on, and where it leaves out what is said.
    """
    try:
        text = renderer.prompt_text(messages, row.tools, row.template_kwargs)
        whole = renderer.prompt(messages, row.tools, row.template_kwargs)
    except ConversationError as error:
        raise CannotJudgeError("unrenderable", str(error)) from None
    # A turn that was not cut ends in a stop token, which no tokenizer joins with what follows.
    ends = [place + 1 for place, token in enumerate(whole) if token in renderer.stop_tokens]
    number = sum(token in renderer.stop_tokens for token in before)
    same = whole[: ends[number - 1]] if 0 < number <= len(ends) else whole
    decode = renderer.tokenizer.decode
    if same != before and decode(same) != decode(before):
        said = f"the chat template writes {decode(same)[-80:]!r} where {decode(before)[-80:]!r} was written"
        raise CannotJudgeError("template_rewrites", said)
    if any(message["content"].strip() not in text for message in messages[len(row.messages) :]):
        raise CannotJudgeError("not_written", "the chat template does not write what the environment says")
    return whole[len(same) :], same == before


def check_continues(renderer: Renderer, row: PromptRow) -> None:
    """Raises InputError where an answered prompt is never rendered as it was: nothing could follow the answer's ids."""
    problem = ""
    messages: list[Message] = [*row.messages, {"role": "assistant", "content": "Yes."}]
    for role in ROLES:
        try:
            (sample,) = renderer.samples(Conversation(tuple(messages), tuple(row.tools), "", row.template_kwargs))
            following(renderer, row, sample.tokens, [*messages, {"role": role, "content": "Why?"}])
        except (ConversationError, CannotJudgeError) as error:
            problem = str(error)
        else:
            return
    what = f"This model's chat template cannot carry a conversation on behind the ids of an answer: {problem}"
    fix = "Leave rollouts.environment out, or change data.chat_template_kwargs (such as enable_thinking)."
    raise InputError(what, where=renderer.where, fix=fix)


def _messages(said: Any) -> list[Message]:
    """What a function returned, as messages; empty if the conversation is over."""
    if said is None:
        return []
    found = [{"role": "user", "content": said}] if isinstance(said, str) else [said] if isinstance(said, dict) else said
    if not isinstance(found, list) or not all(map(_is_message, found)):
        said = f"it must be None, a text, or messages with role tool or user and a text as content: {said!r:.120}"
        raise CannotJudgeError("no_message", said)
    return found


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") in ROLES and isinstance(message.get("content"), str)


@contextmanager
def opened_environment(spec: TrainSpec, base: Path, job_directory: Path) -> Iterator[Environment | None]:
    """The job's environment, if it has one, with its process, which ends with the block."""
    assert spec.rollouts is not None and isinstance(spec.data, PromptData)
    if spec.rollouts.environment is None:
        yield None
        return
    renderer = Renderer.of_model(base, template_kwargs=spec.data.chat_template_kwargs)
    with FunctionProcess.of(spec.rollouts.environment, job_directory, "json") as process:
        yield Environment(spec, process, renderer)


def check_functions(spec: TrainSpec, parents: Mapping[str, Artifact], job_directory: Path) -> None:
    """Raises InputError or ResourceError if one of a policy's rewards, or its environment, cannot work at all."""
    if spec.rewards is not None and isinstance(spec.data, PromptData):
        firsts = []
        for number, files in enumerate(source_files(spec.data.sources, parents).values()):
            first = islice(table_rows(files, spec.data.sources[number]), 1)
            firsts += [(origin, row) for origin, row in first if isinstance(row, Mapping)]
        check_opening(spec.rewards, "rewards", parents, job_directory, firsts)
    if spec.rollouts is not None and spec.rollouts.environment is not None:
        with FunctionProcess.of(spec.rollouts.environment, job_directory, "json"):
            pass
