"""Conversations as token ids and a mask of what is trained, exactly as the vLLM server computes its prompts.

At each assistant turn the server sees the ids of the prompt, rendered with its generation prompt, and the model answers
with ids up to a stop token. So that is what is trained on: prompt ids, then answer ids with the end-of-turn token.
Tokenising the whole conversation at once gives other ids wherever a token spans the seam.

A turn's prompt usually begins with exactly the ids of the turn before and its answer; all turns are then one sample.
Where it does not (a template that drops earlier reasoning, a tokenizer that splits the seam otherwise), the turn begins
a new sample, in which earlier answers are context only. Every answer is trained once, in the context that it will have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rayloom.errors import InputError
from rayloom.text.conversations.chat_template import ChatTemplates
from rayloom.text.conversations.messages import ConversationError, Message, as_served, check_turns
from rayloom.text.conversations.samples import JoinedTurns, Sample, numbers_of, packed_id, place_of
from rayloom.text.conversations.segments import ID_BYTES, SegmentedTokenizer
from rayloom.text.conversations.unwritten import WrittenFields
from rayloom.text.tokenizer_files import stop_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

P = ParamSpec("P")
T = TypeVar("T")
_QUESTION = {"role": "user", "content": "Hello"}
_PROBES: tuple[tuple[Message, ...], ...] = (
    (_QUESTION, {"role": "assistant", "content": "Good morning"}),
    (_QUESTION, {"role": "assistant", "content": "Good morning", "reasoning_content": "It is nine."}),
)
"""A template that opens every answer with reasoning writes only answers that have some."""


@dataclass(frozen=True)
class Conversation:
    """Messages in the form of the chat API; an assistant message with `train: false` is context only."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    origin: str = ""
    """Where it was read, for messages to people: `file.json row 7`."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the chat template for this conversation, such as `enable_thinking`; they go before the job's."""
    unknown_keys: tuple[str, ...] = ()
    """Keys of the row and of its messages that have no meaning."""


class Renderer:
    """One model's tokenizer, chat template and stop tokens.

    Raises InputError where there is no template, or where it cannot render an answer that ends in a stop token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_tokens: Collection[int] = (),
        where: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """`stop_tokens`: ids at which the server stops, beside the tokenizer's own end-of-sequence token.

        `template_kwargs`: settings of the chat template for all conversations.
        """
        self.tokenizer, self.where = tokenizer, where
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.stop_tokens = frozenset([*own, *stop_tokens])
        # A generation_config.json may name tokens that this tokenizer does not have.
        texts = tokenizer.convert_ids_to_tokens(sorted(self.stop_tokens))
        self._stop_texts = tuple(str(text) for text in texts if text is not None)
        self.templates = ChatTemplates(tokenizer, where, template_kwargs)
        self._written = WrittenFields(self.templates)
        self._tokens = SegmentedTokenizer(tokenizer)
        self._stop_ids = [packed_id(token) for token in sorted(self.stop_tokens)]
        self._backend, self._begin = tokenizer.backend_tokenizer, tokenizer.bos_token
        begin = tokenizer.bos_token_id
        self._two_beginnings = None if begin is None else 2 * packed_id(begin)
        self._probe()

    @classmethod
    def of_model(
        cls,
        directory: Path,
        generation_config: Path | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Renderer:
        """The renderer of a model folder; stop tokens are those of its generation_config.json, as in the server.

        `generation_config`: that file, where it stands elsewhere (beside an adapter's base).
        """
        from rayloom.pretrained import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory)
        stop_tokens = stop_tokens_of(generation_config or directory / "generation_config.json")
        return cls(tokenizer, stop_tokens, str(directory), template_kwargs)

    def with_kwargs(self, template_kwargs: Mapping[str, Any]) -> Renderer:
        """The same with other settings of the chat template. Raises InputError where it does not read one of them."""
        return Renderer(self.tokenizer, self.stop_tokens, self.where, template_kwargs) if template_kwargs else self

    def __getstate__(self) -> dict[str, Any]:
        # transformers' tokenizer brings torch with it: 6 CPU seconds and 500 MB in each process that only renders.
        return {name: value for name, value in self.__dict__.items() if name != "tokenizer"}

    # -- prompts ---------------------------------------------------------------------------------------------------

    def prompt_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the server renders for these messages, up to where the answer begins."""
        return self.templates.text(messages, tools, template_kwargs, open_answer=True)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The ids that the server computes for these messages."""
        ((ids,),) = self._tokens.ids([[self.prompt_text(messages, tools, template_kwargs)]])
        return numbers_of(ids)

    # -- samples to train on ---------------------------------------------------------------------------------------

    def samples(self, conversation: Conversation) -> list[Sample]:
        """What to train on: one sample, or several where a later prompt does not continue an earlier one.

        Raises ConversationError naming what is wrong with the conversation.
        """
        (found,) = self.samples_of_each([conversation])
        if isinstance(found, ConversationError):
            raise found
        return found

    def samples_of_each(self, conversations: Sequence[Conversation]) -> list[list[Sample] | ConversationError]:
        """The samples of each conversation, or what is wrong with it: all are tokenised at once."""
        turns = [_kept_error(self._turns, conversation) for conversation in conversations]
        ids = self._tokens.ids([_texts_of(found) for found in turns if not isinstance(found, ConversationError)])
        return [
            found if isinstance(found, ConversationError) else _kept_error(self._joined, conversation, found, next(ids))
            for conversation, found in zip(conversations, turns, strict=True)
        ]

    def _turns(self, conversation: Conversation) -> list[tuple[str, str]]:
        """The prompt before each answer, and the text of its turn."""
        messages, tools, kwargs = conversation.messages, conversation.tools, conversation.template_kwargs
        check_turns(messages)
        self._check_answers(messages)
        template = self.templates.chosen(tools)
        self.templates.check_kwargs(kwargs, template)
        # Of the roles that the server edits across messages, check_turns lets one stand, at the beginning.
        served, answers = as_served(messages, template), _answers_in(conversation)
        pairs = [self._prompt_and_turn(served[: index + 1], tools, kwargs, template) for index in answers]
        self._written.check(messages, tools, kwargs, answers, pairs)
        return pairs

    def _joined(
        self, conversation: Conversation, turns: Sequence[tuple[str, str]], ids: Sequence[bytes]
    ) -> list[Sample]:
        """`ids`: those of each prompt, and of that prompt with its turn."""
        joined = JoinedTurns()
        for number, (index, (_, turn)) in enumerate(zip(_answers_in(conversation), turns, strict=True)):
            prompt, whole = ids[2 * number : 2 * number + 2]
            is_trained = bool(conversation.messages[index].get("train", True))
            joined.add(prompt, self._answer(prompt, whole, turn), is_trained)
        samples = [sample for sample in joined.finished() if sample.spans]
        if not samples:
            said = "no token is trained: every answer is marked as not to be trained (weight: 0, train: false)"
            raise ConversationError("no_trained_token", said)
        if self._two_beginnings is not None and samples[0].ids.startswith(self._two_beginnings):
            raise ConversationError("unrenderable", f"the text begins with {self._begin} twice")
        return samples

    def _prompt_and_turn(
        self,
        served: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
        template: str,
    ) -> tuple[str, str]:
        """The prompt before the last message, and the text that the template adds for that message."""
        prompt = self.templates.rendered(served[:-1], tools, kwargs, True, template)
        whole = self.templates.rendered(served, tools, kwargs, False, template)
        if not whole.startswith(prompt):
            opening = _differing(prompt, whole)
            raise ConversationError(
                "unrenderable",
                f"message {len(served)}: the chat template opens the answer with {opening!r} in a prompt, but writes "
                "the finished turn otherwise, so that the server would never see what is trained here",
            )
        return prompt, whole[len(prompt) :]

    def _answer(self, prompt: bytes, whole: bytes, turn: str) -> bytes:
        """The answer's ids up to its stop token."""
        # In context where the prompt's ids stay as they are (a tokenizer may put a space before a text that begins),
        # by itself where a token would span the seam: the server's prompt ends at the seam whatever follows.
        is_seam_kept = whole.startswith(prompt)
        rest = whole[len(prompt) :] if is_seam_kept else next(self._tokens.ids([[turn]]))[0]
        ends = [place for stop in self._stop_ids if (place := place_of(stop, rest)) >= 0]
        if not ends:
            said = f"the chat template ends the turn without a stop token ({self._named_stops()})"
            raise ConversationError("unrenderable", said)
        if not is_seam_kept and self._decoded(prompt + rest) != self._decoded(whole):
            raise ConversationError("unrenderable", "the tokenizer cannot split the text between prompt and answer")
        return rest[: min(ends) + ID_BYTES]

    def _decoded(self, ids: bytes) -> str:
        return str(self._backend.decode(numbers_of(ids), skip_special_tokens=False))

    def _check_answers(self, messages: Sequence[Mapping[str, Any]]) -> None:
        for number, message in enumerate(messages, 1):
            if message["role"] != "assistant":
                continue
            answer = message.get("content")
            if not isinstance(answer, str) or message.get("tool_calls"):
                answer = json.dumps([message.get(key) for key in ("content", "tool_calls")], ensure_ascii=False)
            for text in self._stop_texts:
                if text in answer:
                    said = f"message {number}: the answer contains the stop token {text}"
                    raise ConversationError("stop_token_in_answer", said)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        problems = [problem for messages in _PROBES if (problem := self._problem_of(messages)) is not None]
        if len(problems) == len(_PROBES):
            known = ", ".join(self.templates.settings)
            settings = f"; or try its settings (chat_template_kwargs: {known})" if known else ""
            fix = f"Correct the template, or eos_token_id in generation_config.json{settings}."
            what = f"This model's chat template cannot be trained on: {problems[0]}"
            raise InputError(what, where=self.where, fix=fix)

    def _problem_of(self, messages: Sequence[Message]) -> ConversationError | None:
        try:
            template = self.templates.chosen(())
            prompt, turn = self._prompt_and_turn(as_served(messages, template), (), None, template)
            ((before, whole),) = self._tokens.ids([[prompt, prompt + turn]])
            self._answer(before, whole, turn)
        except ConversationError as error:
            return error
        return None

    def _named_stops(self) -> str:
        return ", ".join(self._stop_texts) or "this model has none"


def _answers_in(conversation: Conversation) -> list[int]:
    return [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]


def _texts_of(turns: Sequence[tuple[str, str]]) -> list[str]:
    return [text for prompt, turn in turns for text in (prompt, prompt + turn)]


def _kept_error(made: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | ConversationError:
    try:
        return made(*args, **kwargs)
    except ConversationError as error:
        return error


def _differing(prompt: str, whole: str) -> str:
    same = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return prompt[same : same + 40]
