"""A reward by a judge: a model behind an OpenAI-compatible endpoint that reads an answer with a rubric."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, NotFoundError, OpenAI

from rayloom.errors import InputError, ResourceError
from rayloom.rewards.answer import CannotJudgeError, OneByOne, Verdict, WrittenAnswer
from rayloom.rewards.texts import field_of, last_number
from rayloom.specs.training.rewards import JudgeReward

_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Judge:
    """Asks for a number for each answer."""

    spec: JudgeReward
    rubric: str
    client: OpenAI

    @classmethod
    def of(cls, spec: JudgeReward, job_directory: Path) -> Judge:
        """The judge. Raises InputError or ResourceError without its rubric, key, endpoint or model."""
        file = job_directory / spec.rubric
        if not file.is_file():
            raise InputError("The judge's rubric is not there", where=str(file), fix="Write it, or correct rubric.")
        rubric = file.read_text(encoding="utf-8")
        if "answer" not in _FIELD.findall(rubric):
            raise InputError("The rubric does not show the answer", where=str(file), fix="Write {{answer}} into it.")
        key = os.environ.get(spec.api_key_variable) if spec.api_key_variable else "none"
        if key is None:
            raise InputError(
                f"There is no environment variable {spec.api_key_variable}", fix="Set it to the judge's key."
            )
        judge = cls(spec, rubric, OpenAI(base_url=spec.url, api_key=key, timeout=spec.seconds, max_retries=2))
        judge.check()
        return judge

    @property
    def fields(self) -> set[str]:
        """The fields of rows that the rubric shows."""
        return set(_FIELD.findall(self.rubric)) - {"prompt", "answer"}

    def check(self) -> None:
        """Raises ResourceError or InputError if the endpoint does not answer, refuses, or has no such model."""
        fix = "Start it, or correct url, model and api_key_variable."
        try:
            known = [model.id for model in self.client.models.list()]
        except NotFoundError:
            return  # an endpoint that lists no models
        except APIStatusError as error:
            raise ResourceError(
                f"The judge refuses a request: {error.status_code}", where=self.spec.url, fix=fix
            ) from error
        except APIError as error:
            raise ResourceError("The judge does not answer", where=self.spec.url, fix=fix) from error
        if known and self.spec.model not in known:
            what = f"The judge's endpoint has no model {self.spec.model}; it has {', '.join(known[:5])}"
            raise InputError(what, where=self.spec.url, fix="Correct model.")

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        one_by_one = OneByOne(self._value)
        with ThreadPoolExecutor(self.spec.at_once) as pool:
            return [verdict for (verdict,) in pool.map(lambda answer: one_by_one.judge([answer]), answers)]

    def _value(self, answer: WrittenAnswer) -> float:
        try:
            said = self.client.chat.completions.create(
                model=self.spec.model,
                messages=[{"role": "user", "content": self.question(answer)}],
                max_tokens=self.spec.max_reply_tokens,
                temperature=0,
            )
        except APITimeoutError:
            raise CannotJudgeError("took_too_long", f"no reply within {self.spec.seconds:g} s") from None
        except APIConnectionError:
            raise CannotJudgeError("judge_down", f"{self.spec.url} does not answer") from None
        except APIError as error:
            raise CannotJudgeError("judge_refuses", str(error).splitlines()[0][:200]) from None
        return self._scaled((said.choices[0].message.content or "") if said.choices else "")

    def question(self, answer: WrittenAnswer) -> str:
        """The rubric with the prompt, the answer and the row's fields filled in."""
        prompt = "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in answer.prompt)
        own = {"prompt": prompt, "answer": answer.text}  # before fields of the row that have the same name
        return _FIELD.sub(
            lambda match: own[match[1]] if match[1] in own else str(field_of(answer, match[1])), self.rubric
        )

    def _scaled(self, reply: str) -> float:
        # 8/10 is an eight here, not four fifths.
        number = last_number(re.sub(rf"\s?/\s?{self.spec.highest:g}\b", "", reply))
        if number is None or not self.spec.lowest <= number <= self.spec.highest:
            scale = f"{self.spec.lowest:g} to {self.spec.highest:g}"
            raise CannotJudgeError("no_number", f"the reply ends without a number from {scale}: {reply[-120:]!r}")
        return (float(number) - self.spec.lowest) / (self.spec.highest - self.spec.lowest)
