"""A reward for code: the share of a row's tests that the answer's program passes in a sandbox."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rayloom.rewards.answer import CannotJudgeError, OneByOne, Verdict, WrittenAnswer
from rayloom.rewards.formats import last_block
from rayloom.rewards.sandbox import Sandbox
from rayloom.rewards.texts import field_of
from rayloom.specs.training.rewards import CodeReward

_STATEMENTS = """
import json, sys
code, test, token = json.load(sys.stdin)
names = {"__name__": "__main__"}
exec(compile(code, "answer", "exec"), names)
exec(compile(test, "test", "exec"), names)
print("\\n" + token)
"""
_PROGRAM = """
import io, json, sys
code, given = json.load(sys.stdin)
sys.stdin = io.StringIO(given)
exec(compile(code, "answer", "exec"), {"__name__": "__main__"})
"""


@dataclass(frozen=True)
class CodeTests:
    """Judges answers by tests, as many at once as there are cores."""

    spec: CodeReward
    sandbox: Sandbox

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        one_by_one = OneByOne(self._share_passed)
        with ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
            return [verdict for (verdict,) in pool.map(lambda answer: one_by_one.judge([answer]), answers)]

    def _share_passed(self, answer: WrittenAnswer) -> float:
        found = field_of(answer, self.spec.field)
        tests = found if isinstance(found, list | tuple) else [found]
        if not tests:
            raise CannotJudgeError("no_tests", f"{self.spec.field} is empty")
        code = last_block(answer.text)
        return sum(self._passes(code, test) for test in tests) / len(tests)

    def _passes(self, code: str, test: Any) -> bool:
        if isinstance(test, Mapping) and {"input", "output"} <= test.keys():
            ended = self.sandbox.run(_PROGRAM, json.dumps([code, str(test["input"])]))
            return ended.exit_code == 0 and _lines(ended.output) == _lines(str(test["output"]))
        if not isinstance(test, str):
            raise CannotJudgeError("bad_test", f"a test is text or {{input, output}}, not {test!r:.80}")
        # Code that ends the process with exit code 0 before its test has not passed it: only the end says the token.
        token = secrets.token_hex(8)
        ended = self.sandbox.run(_STATEMENTS, json.dumps([code, test, token]))
        return ended.exit_code == 0 and ended.output.endswith(f"\n{token}\n")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
