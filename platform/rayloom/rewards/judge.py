"""A reward by a judge: a model behind an OpenAI-compatible endpoint that reads an answer with a rubric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rayloom.errors import InputError, ResourceError
from rayloom.models.chat_endpoint import ChatEndpoint, RefusedError
from rayloom.rewards.answer import CannotJudgeError, OneByOne, Verdict, WrittenAnswer
from rayloom.rewards.texts import field_of, last_number
from rayloom.specs.generation.engines import EndpointEngine
from rayloom.specs.training.rewards import JudgeReward

_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")
NUM_ATTEMPTS, MOST_PARALLEL = 3, 1024


@dataclass(frozen=True)
class Judge:
    """Asks for a number for each answer."""

    spec: JudgeReward
    rubric: str
    endpoint: ChatEndpoint

    @classmethod
    def of(cls, spec: JudgeReward, job_directory: Path) -> Judge:
        """The judge. Raises InputError or ResourceError without its rubric, key, endpoint or model."""
        file = job_directory / spec.rubric
        if not file.is_file():
            raise InputError("The judge's rubric is not there", where=str(file), fix="Write it, or correct rubric.")
        rubric = file.read_text(encoding="utf-8")
        if "answer" not in _FIELD.findall(rubric):
            raise InputError("The rubric does not show the answer", where=str(file), fix="Write {{answer}} into it.")
        engine = EndpointEngine(
            type="endpoint",
            url=spec.url,
            model=spec.model,
            api_key_variable=spec.api_key_variable,
            max_parallel_requests=min(spec.at_once, MOST_PARALLEL),
            timeout_seconds=spec.seconds,
            num_attempts=NUM_ATTEMPTS,
        )
        judge = cls(spec, rubric, ChatEndpoint(engine))
        judge.endpoint.check_model()
        return judge

    @property
    def fields(self) -> set[str]:
        """The fields of rows that the rubric shows."""
        return set(_FIELD.findall(self.rubric)) - {"prompt", "answer"}

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        one_by_one = OneByOne(self._value)
        with ThreadPoolExecutor(self.spec.at_once) as pool:
            return [verdict for (verdict,) in pool.map(lambda answer: one_by_one.judge([answer]), answers)]

    def _value(self, answer: WrittenAnswer) -> float:
        question = {"role": "user", "content": self.question(answer)}
        try:
            reply = self.endpoint.reply([question], self.spec.max_reply_tokens, temperature=0)
        except (RefusedError, InputError) as error:
            raise CannotJudgeError("judge_refuses", str(error).splitlines()[0][:200]) from None
        except ResourceError as error:
            name = "took_too_long" if "Timeout" in str(error) else "judge_down"
            raise CannotJudgeError(name, str(error).splitlines()[0][:200]) from None
        return self._scaled(reply.text)

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
