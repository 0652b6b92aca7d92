"""Prompts in a model's token ids, with the label words behind them or a mask in them, and what cannot be asked so."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens_of
from rayloom.models.loading import check_causal, check_masked
from rayloom.models.responders.subject import Subject
from rayloom.score.prompted.likelihoods import AskedWords
from rayloom.specs.prompting import Cloze, Generated, Likelihood, MultipleChoice, Prompt
from rayloom.text.labelled.examples import Example
from rayloom.text.prompts.template import PromptRenderer, letter
from rayloom.text.tokenizer_files import stop_tokens_of

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class PromptTokens:
    """One model's tokens for the prompts of a job."""

    subject: Subject
    prompt: Prompt

    @functools.cached_property
    def renderer(self) -> PromptRenderer:
        return PromptRenderer(self.prompt)

    @property
    def tokenizer(self) -> Any:
        return self.subject.tokenizer

    @functools.cached_property
    def stop_tokens(self) -> frozenset[int]:
        """Where writing ends: the model's own, and the tokens that begin with a text at which it stops."""
        own = {self.tokenizer.eos_token_id, *stop_tokens_of(self.subject.base / "generation_config.json")} - {None}
        if self.prompt.chat_template:
            own |= self.subject.renderer.stop_tokens
        stops = tuple(self.prompt.scoring.stop) if isinstance(self.prompt.scoring, Generated) else ()
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))]) if stops else []
        return frozenset(own | {token for token, text in enumerate(texts) if text.startswith(stops)})

    # -- prompts -------------------------------------------------------------------------------------------------------

    def readable(self, example: Example, shown: Sequence[Example]) -> str:
        """The prompt as text, as the model reads it."""
        if self.prompt.chat_template:
            return str(self._chat.prompt_text(self._messages(example, shown)))
        text = self.renderer.text(example, shown)
        return text.before.rstrip() if not isinstance(self.prompt.scoring, Cloze) else (
            f"{text.before}{self.tokenizer.mask_token}{text.after}"
        )  # fmt: skip

    def prompts(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Example]], content_free: str | None = None
    ) -> list[list[int]]:
        """Token ids of each row's prompt, up to the answer; of a cloze, with its mask."""
        rows = list(zip(examples, shown, strict=True))
        if self.prompt.chat_template:
            return [self._chat.prompt(self._messages(example, own, content_free)) for example, own in rows]
        texts = [self.renderer.text(example, own, content_free) for example, own in rows]
        if isinstance(self.prompt.scoring, Cloze):
            mask = self.tokenizer.mask_token
            # What a text itself says must not become a mask.
            clean = ([side.replace(mask, "") for side in (text.before, text.after)] for text in texts)
            return self._ids([f"{before}{mask}{after}" for before, after in clean])
        return [self._from_beginning(ids) for ids in self._ids([text.before.rstrip() for text in texts])]

    def _messages(
        self, example: Example, shown: Sequence[Example], content_free: str | None = None
    ) -> list[dict[str, str]]:
        messages = self.renderer.messages(example, shown, content_free)
        scoring = self.prompt.scoring
        system = scoring.generation.system if isinstance(scoring, Generated) else None
        return messages if system is None else [{"role": "system", "content": system}, *messages]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []

    def _from_beginning(self, ids: list[int]) -> list[int]:
        """The ids without an end that the tokenizer adds; an empty prompt is the beginning of a text."""
        end, begin = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        ids = ids[:-1] if len(ids) > 1 and ids[-1] == end else ids
        return ids or [begin if begin is not None else end]

    def asked(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Example]], free: str | None
    ) -> list[AskedWords]:
        """Prompts with the label words behind them, tokenised together, as lm-evaluation-harness does: so a word has
        the tokens that it has in a text."""
        prompts = self.prompts(examples, shown, free)
        words = [self.said(example) for example in examples]
        if self.prompt.chat_template:
            ids = {word: self.tokenizer(word, add_special_tokens=False)["input_ids"] for own in words for word in own}
            return [
                AskedWords(tuple(prompt), tuple(tuple(ids[word]) for word in own))
                for prompt, own in zip(prompts, words, strict=True)
            ]
        texts = [self.renderer.text(e, own, free).before for e, own in zip(examples, shown, strict=True)]
        whole = iter(self._ids([text + word for text, own in zip(texts, words, strict=True) for word in own]))
        asked = []
        for text, prompt, own in zip(texts, prompts, words, strict=True):
            start = len(prompt) if text.strip() else len(self._ids([""])[0])
            behind = [tuple(next(whole)[start:]) for _ in own]
            end = self.tokenizer.eos_token_id
            behind = [ids[:-1] if len(ids) > 1 and ids[-1] == end else ids for ids in behind]
            if not all(behind):
                word = own[behind.index(())]
                what = f"The word {word!r} has no tokens of its own behind the prompt"
                raise InputError(what, where="prompt.words", fix="Choose other words, or put a space before {answer}.")
            asked.append(AskedWords(tuple(prompt), tuple(behind)))
        return asked

    def said(self, example: Example) -> list[str]:
        if isinstance(self.prompt.task, MultipleChoice):
            choices = example.choices
            return [letter(n) for n in range(len(choices))] if self.prompt.task.answers == "letters" else list(choices)
        return [word for label in self.prompt.labels for word in self.prompt.words_of(label)]

    def mask_words(self) -> list[int]:
        """The token of each label word at the mask. Raises InputError where one is no single token, or another's."""
        before = self.renderer.text(Example("a", "a")).before
        words: dict[int, str] = {}
        for word in self.said(Example("")):
            # Tokenizers with spaces in their tokens have another one within a text than at its beginning.
            text = f" {word}" if before.endswith(" ") else word
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
                pieces = " ".join(self.tokenizer.convert_ids_to_tokens(ids))
                what = f"The label word {word!r} is not one token but {pieces}, and a mask stands for one"
                raise InputError(what, where="prompt.words", fix="Choose a word of the encoder's vocabulary.")
            if ids[0] in words:
                what = f"The label words {words[ids[0]]!r} and {word!r} are the same token"
                raise InputError(what, where="prompt.words", fix="Choose words that the encoder tells apart.")
            words[ids[0]] = word
        return list(words)

    # -- what would go wrong -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises InputError where the model cannot be asked so, or its tokenizer does not tell the words apart."""
        if self.subject.task is not None:
            what = f"{self.subject.artifact_id} was trained for a task, and answers without a prompt"
            raise InputError(what, where="model", fix="Name a language model, or leave the prompt out.")
        if isinstance(self.prompt.scoring, Cloze):
            check_masked(self.subject.base)
            if self.tokenizer.mask_token_id is None:
                raise InputError("The tokenizer has no mask", where=str(self.subject.tokenizer_folder))
            self.mask_words()
            return
        check_causal(self.subject.base)
        if self.prompt.chat_template:
            self._chat  # noqa: B018 (raises InputError without a template)

    @functools.cached_property
    def _chat(self) -> Any:
        scoring = self.prompt.scoring
        kwargs = scoring.generation.chat_template_kwargs if isinstance(scoring, Generated) else {}
        return self.subject.renderer.with_kwargs(kwargs)

    def shared_first_tokens(self) -> list[str]:
        """Label words of different labels that begin with the same token, in words for people."""
        seen: dict[int, tuple[str, str]] = {}
        found = []
        for label in self.prompt.labels if isinstance(self.prompt.scoring, Likelihood) else ():
            for word in self.prompt.words_of(label):
                token = self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]
                other, of_label = seen.setdefault(token, (word, label))
                if of_label != label:
                    found.append(f"{other!r} of {of_label} and {word!r} of {label} begin with the same token")
        return found

    def check_lengths(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Example]], most: int | None = None
    ) -> int:
        """Tokens of the longest prompt. Raises InputError where one leaves no room for the answer.

        `most`: tokens of both together. Default: the model's context.
        """
        longest, most = 0, self._context if most is None else most
        for first in range(0, len(examples), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            prompts = self.prompts(examples[part], shown[part])
            for example, own, ids in zip(examples[part], shown[part], prompts, strict=True):
                longest = max(longest, len(ids))
                room = None if most is None else most - self.answer_tokens(example)
                if room is not None and len(ids) > room:
                    raise self._too_long(example, own, len(ids), room)
        return longest

    def _too_long(self, example: Example, own: Sequence[Example], num_tokens: int, room: int) -> InputError:
        fits = (n for n in range(len(own), -1, -1) if len(self.prompts([example], [own[:n]])[0]) <= room)
        number = next(fits, None)
        fit = "not even the row alone does" if number is None else f"{number} would fit"
        what = f"The prompt of {example.origin or 'a row'} has {num_tokens} tokens with {len(own)} demonstrations, and "
        fix = "Lower demonstrations.num_rows, or cut fields by max_field_characters."
        return InputError(f"{what}there is room for {room}: {fit}", where="prompt", fix=fix)

    @functools.cached_property
    def _context(self) -> int | None:
        """Most tokens of prompt and answer; None if nothing limits them."""
        scoring, most = self.prompt.scoring, context_tokens_of(self.subject.base)
        if isinstance(scoring, Generated) and scoring.generation.engine == "vllm":
            return min(most or scoring.generation.max_length_tokens, scoring.generation.max_length_tokens)
        return most

    def answer_tokens(self, example: Example) -> int:
        """Most tokens that stand behind the prompt of a row."""
        scoring = self.prompt.scoring
        if isinstance(scoring, Generated):
            return scoring.generation.max_new_tokens
        if isinstance(scoring, Cloze):
            return 0
        return self._longest_word if self.prompt.labels else self._longest(self.said(example))

    @functools.cached_property
    def _longest_word(self) -> int:
        return self._longest(self.said(Example("")))

    def _longest(self, words: Sequence[str]) -> int:
        return max(len(self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in words)
