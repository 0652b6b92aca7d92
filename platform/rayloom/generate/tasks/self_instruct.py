"""Self-Instruct (Wang et al. 2022, section 2): new instructions, classification or not, inputs and outputs."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rayloom.generate.asks import Ask, Found, ModelAnswer, Steps
from rayloom.generate.diversity import verb_and_noun
from rayloom.generate.filters.filter import Candidate, DropReason
from rayloom.generate.given import Seed
from rayloom.generate.tasks.task import Maker, Task, conversation_of, failure
from rayloom.specs.generation.tasks import Quotas, SelfInstructTask

NUM_BEFORE_QUOTAS = 50
"""Shares of fewer rows say nothing."""
NUM_INSTANCE_EXAMPLES = 4
_NUMBERED = re.compile(r"(?:^|\n)\s*(?:Task\s*)?\d+\s*[:.)]\s*")
_NO_INPUT = re.compile(r"<?\s*no\s?input\s*>?\.?|n/?a|none", re.IGNORECASE)
_LABEL = re.compile(r"(?:^|\n)\s*Class label:")
_MARKS = re.compile(r"(?:^|\n)\s*(Input|Output):")
_END = re.compile(r"\n\s*(?:Task|Example)\b[^\n]*:")


class SelfInstruct(Task):
    """Rounds of prompts, each with some seeds and some of what was written before."""

    prompt_names = ("new_instructions", "is_classification", "input_first", "output_first")

    def __init__(self, maker: Maker, task: SelfInstructTask, seeds: Sequence[Seed]) -> None:
        super().__init__(maker)
        self._task, self._seeds = task, seeds
        self._pool: list[dict[str, Any]] = []
        self._quotas = QuotaCount(task.quotas)
        self._num_rows = 0

    def round(self, number: int) -> Steps | None:
        return self._steps(number) if self._num_rows < self._task.num_rows else None

    def restore(self, found: Found) -> None:
        super().restore(found)
        for one in found.accepted:
            self._accept(one)
        self._num_rows += len(found.rows)

    def _accept(self, one: dict[str, Any]) -> None:
        if not one.get("is_over_quota"):
            self._pool.append(one)
            self._quotas.add(one)

    def _steps(self, number: int) -> Steps:
        found = Found()
        shown = [self._examples(number, place) for place in range(self.maker.spec.round_rows)]
        prompt = self.maker.prompts.text
        asks = [
            self._ask(number, place, "new_instructions", prompt("new_instructions", instructions=[t for _, t in one]))
            for place, one in enumerate(shown)
        ]
        answers = yield asks
        new = list(self._new_instructions(found, answers, [[origin for origin, _ in one] for one in shown]))
        asks = [
            Ask(f"{number}/is_classification/{place}", prompt("is_classification", instruction=one["instruction"]),
                "is_classification", is_sampled=False, max_new_tokens=8)
            for place, one in enumerate(new)
        ]  # fmt: skip
        kinds = yield asks
        new = list(self._balanced(found, new, kinds))
        names = ["output_first" if one["is_classification"] else "input_first" for one in new]
        asks = [
            self._ask(number, place, name, self._instance_prompt(name, one["instruction"], f"{number}/{place}"))
            for place, (one, name) in enumerate(zip(new, names, strict=True))
        ]
        instances = yield asks
        for one, name, answer in zip(new, names, instances, strict=True):
            self._add_instances(found, one, name, answer)
        self._num_rows += len(found.rows)
        return found

    def _ask(self, number: int, place: int, name: str, text: str) -> Ask:
        return Ask(f"{number}/{name}/{place}", text, name, stop=("\n\n\n",))

    def _examples(self, number: int, place: int) -> list[tuple[str, str]]:
        """Origins and instructions of a prompt's examples, in an order of its own."""
        dice = random.Random(f"{self.maker.sampling.seed}/{number}/{place}")
        seeds = dice.sample(self._seeds, min(self._task.num_seed_examples, len(self._seeds)))
        written = dice.sample(self._pool, min(self._task.num_generated_examples, len(self._pool)))
        examples = [(seed.origin, seed.instruction) for seed in seeds]
        examples += [(one["request"], one["instruction"]) for one in written]
        dice.shuffle(examples)
        return examples

    def _instance_prompt(self, name: str, instruction: str, place: str) -> str:
        """The prompt for an instance, with seeds of the kind that is wanted as examples."""
        fitting = [seed for seed in self._seeds if seed.is_classification == (name == "output_first")]
        dice = random.Random(f"{self.maker.sampling.seed}/{place}/{name}")
        examples = dice.sample(fitting, min(NUM_INSTANCE_EXAMPLES, len(fitting)))
        return self.maker.prompts.text(name, instruction=instruction, examples=examples)

    def _new_instructions(
        self, found: Found, answers: Sequence[ModelAnswer], origins: Sequence[Sequence[str]]
    ) -> Iterator[dict[str, Any]]:
        filters = self.maker.filters
        for answer, of_one in zip(answers, origins, strict=True):
            texts = instructions_in(answer.text, answer.is_cut)
            if answer.failed is not None or not texts:
                found.drop("no_instruction" if answer.failed is None else "failed", answer.failed or answer.text)
            for text in texts:
                drop = filters.of_instruction(text)
                if drop is not None:
                    found.drop(drop.reason, text, seen=drop.seen)
                    continue
                filters.keep_instruction(text)
                yield {"instruction": text, "from": list(of_one), "request": answer.key}

    def _balanced(
        self, found: Found, new: Sequence[dict[str, Any]], kinds: Sequence[ModelAnswer]
    ) -> Iterator[dict[str, Any]]:
        for one, kind in zip(new, kinds, strict=True):
            known = one | {"is_classification": kind.text.strip().casefold().startswith("yes")}
            drop = failure(kind) or self._quotas.exceeded(known)
            found.accepted.append(known)
            if drop is not None:
                # It stays in the ROUGE-L index, so that it is not written again, but not among the examples.
                found.accepted[-1] = known | {"is_over_quota": True}
                found.drop(drop.reason, one["instruction"], seen=drop.seen)
                continue
            self._accept(known)
            yield known

    def _add_instances(self, found: Found, one: dict[str, Any], name: str, answer: ModelAnswer) -> None:
        instances = classified(answer.text) if name == "output_first" else answered(answer.text)
        instruction = one["instruction"]
        if answer.failed is not None or not instances:
            reason = "wrong_form" if answer.failed is None else "failed"
            found.drop(reason, answer.failed or answer.text, prompt=instruction)
            return
        made = self.maker.made_by({name: answer}, one["from"], answer)
        made["prompts"] = ["new_instructions", "is_classification", name]
        made["requests"] = [one["request"], answer.key]
        for place, (given, output) in enumerate(instances):
            prompt = f"{instruction}\n{given}" if given else instruction
            is_cut = answer.is_cut and place == len(instances) - 1
            fields = conversation_of(prompt, output) | {"made_by": made}
            self.maker.keep(found, Candidate(prompt, output, is_cut, is_new=True), fields)


class QuotaCount:
    """How many instructions of each kind were accepted."""

    def __init__(self, spec: Quotas) -> None:
        self._spec = spec
        self._verbs: Counter[str] = Counter()
        self._num_classification = self._total = 0

    def add(self, one: dict[str, Any]) -> None:
        self._total += 1
        self._num_classification += one["is_classification"]
        self._verbs[verb_and_noun(one["instruction"])[0]] += 1

    def exceeded(self, one: dict[str, Any]) -> DropReason | None:
        """Why an instruction would be one too many of its kind."""
        if self._total < NUM_BEFORE_QUOTAS:
            return None
        if one["is_classification"] and self._num_classification >= self._spec.max_classification_share * self._total:
            return DropReason("classification_quota")
        verb = verb_and_noun(one["instruction"])[0]
        return DropReason("verb_quota", verb) if self._verbs[verb] >= self._spec.max_verb_share * self._total else None


# What stands in the answers.


def instructions_in(text: str, is_cut: bool) -> list[str]:
    """The new instructions of an answer, which goes on with a numbered list; without the last one if it was cut off."""
    parts = [" ".join(part.split()) for part in _NUMBERED.split(text)]
    if is_cut:
        parts = parts[:-1]
    if len(parts) > 1 and parts[0].endswith(":"):
        parts = parts[1:]  # such as `Here are more tasks:`
    return [part for part in parts if part]


def answered(text: str) -> list[tuple[str, str]]:
    """Input and output of an answer that goes on behind `Input:`; empty if it has another form."""
    text = _END.split(f"\n{text}")[0]
    parts = _MARKS.split(text)
    # Text before the first mark is the input itself, unless the model says `Input:` again.
    found = {"Input": parts[0].strip()} if parts[0].strip() else {}
    for mark, content in zip(parts[1::2], parts[2::2], strict=True):
        if mark in found:
            break
        found[mark] = content.strip()
    if not found.get("Output"):
        return []
    given = found.get("Input", "")
    return [("" if _NO_INPUT.fullmatch(given) else given, found["Output"])]


def classified(text: str) -> list[tuple[str, str]]:
    """Inputs and labels of an answer that goes on behind `Class label:`; empty if it has another form."""
    found = []
    for part in _LABEL.split(_END.split(f"\n{text}")[0]):
        label, _, given = part.partition("\nInput:")
        if label.strip() and given.strip():
            found.append((given.strip(), " ".join(label.split())))
    return found
