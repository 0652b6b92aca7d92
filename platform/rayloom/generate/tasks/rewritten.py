"""Tasks that rewrite given texts: Evol-Instruct, paraphrase and back-translation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rayloom.generate.asks import Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate, DropReason
from rayloom.generate.given import Given
from rayloom.generate.tasks.task import Maker, OfGivenRows, conversation_of, failure
from rayloom.specs.generation.tasks import EvolveTask, ParaphraseTask
from rayloom.text.language import identified

LANGUAGE_CHARACTERS = 1500


class Evolve(OfGivenRows):
    """Instructions rewritten step by step, and answered."""

    def __init__(self, maker: Maker, rows: Iterator[Given], task: EvolveTask) -> None:
        super().__init__(maker, rows)
        self._task = task
        self.prompt_names = ("answer", *(f"evolve_{name}" for name in task.operations))

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        for row in rows:
            self._accept(found, row.text)
        now, evolved = [row.text for row in rows], []
        for turn in range(self._task.num_rounds):
            dice = random.Random(f"{self.maker.sampling.seed}/{number}/{turn}")
            names = [f"evolve_{dice.choice(self._task.operations)}" for _ in rows]
            texts = [self.maker.prompts.text(name, instruction=text) for name, text in zip(names, now, strict=True)]
            asks = [
                ask
                for place, (name, text) in enumerate(zip(names, texts, strict=True))
                for ask in self.asks(number, name, [text], f"{turn}-{place}")
            ]
            rewritten = yield asks
            for place, answer in enumerate(rewritten):
                text = answer.text.strip()
                if self._is_new(found, answer, now[place]):
                    self._accept(found, text)
                    now[place] = text
                    evolved.append((rows[place], names[place], answer))
        prompts = [self.maker.prompts.text("answer", prompt=one.text.strip()) for _, _, one in evolved]
        answers = yield self.asks(number, "answer", prompts)
        for (row, name, rewriting), answer in zip(evolved, answers, strict=True):
            prompt, text = rewriting.text.strip(), answer.text.strip()
            made = self.maker.made_by({name: rewriting, "answer": answer}, [row.origin], answer)
            fields = conversation_of(prompt, text) | dict(row.kept) | {"made_by": made}
            self.maker.keep(found, Candidate(prompt, text, answer.is_cut, is_new=True), fields, failure(answer))
        return found

    def _accept(self, found: Found, instruction: str) -> None:
        self.maker.filters.keep_instruction(instruction)
        found.accepted.append({"instruction": instruction})

    def _is_new(self, found: Found, answer: ModelAnswer, before: str) -> bool:
        text = answer.text.strip()
        drop = failure(answer) or (DropReason("cut_off") if answer.is_cut else self.maker.filters.of_instruction(text))
        if drop is not None:
            found.drop(drop.reason, text, prompt=before, seen=drop.seen)
        return drop is None


class Paraphrase(OfGivenRows):
    """Texts in other words, directly or by way of another language."""

    def __init__(self, maker: Maker, rows: Iterator[Given], task: ParaphraseTask) -> None:
        super().__init__(maker, rows)
        self._task = task
        self.prompt_names = ("paraphrase",) if task.through is None else ("translate", "translate_back")

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        wanted = [row for row in rows for _ in range(self._task.num_samples)]
        prompt, language = self.maker.prompts.text, self._task.through
        if language is None:
            texts = [prompt("paraphrase", text=row.text) for row in wanted]
            answers = yield self.asks(number, "paraphrase", texts)
            used = [{"paraphrase": answer} for answer in answers]
        else:
            texts = [prompt("translate", text=row.text, language=language) for row in wanted]
            there = yield self.asks(number, "translate", texts)
            codes = [identified(row.text, LANGUAGE_CHARACTERS)[0] for row in wanted]
            texts = [
                prompt("translate_back", text=answer.text.strip(), language=language, into=code)
                for answer, code in zip(there, codes, strict=True)
            ]
            answers = yield self.asks(number, "translate_back", texts)
            used = [{"translate": one, "translate_back": two} for one, two in zip(there, answers, strict=True)]
        for row, answer, made_of in zip(wanted, answers, used, strict=True):
            text = answer.text.strip()
            made = {"made_by": self.maker.made_by(made_of, [row.origin], answer)}
            fields = {self._task.data.text: text} | dict(row.kept) | made
            drop = next(filter(None, map(failure, made_of.values())), None)
            self.maker.keep(found, Candidate(row.text, text, answer.is_cut), fields, drop)
        return found
