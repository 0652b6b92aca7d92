"""Rewards in processes of their own: functions, formulas and code; what they see, and what happens when they hang."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rayloom.errors import InputError, ResourceError
from rayloom.rewards import sandbox
from rayloom.rewards.answer import Verdict, WrittenAnswer
from rayloom.rewards.opening import opened
from rayloom.rewards.sandbox import Sandbox
from rayloom.specs.training.rewards import Rewards, files_of_rewards

FUNCTIONS = """
import os, sys, time

calls = 0

def score(prompt, text, row, worth=1):
    global calls
    calls += 1
    if text == "hang":
        time.sleep(60)
    if text == "end":
        os._exit(7)
    if text == "calls":
        return calls
    if text == "secrets":
        return sum("SECRET" in value for value in os.environ.values()) + len(os.listdir())
    if text == "print":
        print("not a reply")
    return worth * len(prompt[0]["content"]) / (row["divisor"] if text != "nan" else float("inf") / float("inf"))
"""


def answers(*texts: str, **row: Any) -> list[WrittenAnswer]:
    return [WrittenAnswer([{"role": "user", "content": "four"}], text, {"divisor": 2} | row) for text in texts]


def verdicts(reward: dict[str, Any], folder: Path, given: list[WrittenAnswer]) -> list[Verdict]:
    with opened(TypeAdapter(Rewards).validate_python([reward]), "rewards", {}, folder) as (one,):
        return one.function.judge(given)


def test_a_function_is_called_in_a_process_that_is_started_anew_after_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    reward = {"type": "function", "function": "own:score", "arguments": {"worth": 3}, "seconds": 1}
    given = answers("x", "print", "hang", "calls", "end", "secrets", "nan") + answers("x", divisor=0)
    begin = time.monotonic()
    said = verdicts(reward, tmp_path, given)
    assert time.monotonic() - begin < 20
    assert [verdict.value for verdict in said] == [6, 6, None, 1, None, 0, None, None]
    assert [verdict.problem for verdict in said if verdict.problem] == [
        "took_too_long: more than 1 s",
        "process_ended: exit code 7",
        "raised: ValueError: the result is nan, not a finite number",
        "raised: ZeroDivisionError: division by zero",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import missing_package", "ModuleNotFoundError: No module named 'missing_package'"),
        ("score = 1 +", "SyntaxError"),
        ("x = 1", "AttributeError: module 'own' has no attribute 'score'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (None, "No module named 'own'"),
    ],
)
def test_a_function_that_does_not_import_is_named_before_anything_is_judged(
    text: str | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=f"The function does not import: .*{said}"):
        verdicts({"type": "function", "function": "own:score"}, tmp_path, [])


def test_memory_of_a_function_is_limited(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(prompt, text, row):\n    return len(b'0' * (1 << 30))")
    reward = {"type": "function", "function": "own:score", "memory_mb": 512}
    assert verdicts(reward, tmp_path, answers("x")) == [Verdict(problem="raised: MemoryError: ")]


def test_the_files_of_rewards_are_shipped_with_the_job() -> None:
    values = [
        {"type": "function", "function": "own:score"},
        {"type": "judge", "url": "http://x/v1", "model": "m", "rubric": "./rubric.txt"},
    ]
    found = files_of_rewards("rewards", TypeAdapter(Rewards).validate_python(values))
    assert [(files.path, files.location) for files in found] == [
        ("rewards.0.function", "./own.py"),
        ("rewards.1.rubric", "./rubric.txt"),
    ]


def test_formulas_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    pairs = [
        ("1/2", r"it is $\frac{2}{4}$", 1),
        (r"\frac{1}{2}", r"\boxed{0.5}", 1),
        ("x^2-1", "$(x-1)(x+1)$", 1),
        (r"\sqrt{2}", r"\sqrt{2}", 1),
        ("7", "first 3, then 8", 0),
        ("7", "no idea", 0),
    ]
    given = [answers(text, a=right)[0] for right, text, _ in pairs] + answers("7", a="")
    said = verdicts({"type": "math", "field": "a", "seconds": 60}, tmp_path, given)
    assert [verdict.value for verdict in said[:-1]] == [value for *_, value in pairs]
    assert said[-1].problem is not None and said[-1].problem.startswith("raised: ValueError: a holds no formula")


@pytest.fixture(params=sandbox._WAYS, ids=lambda way: "user namespace" if "--user" in way[0] else "root")
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(sandbox, "_WAYS", [request.param])
    with Sandbox(1.0, 256) as ready:
        yield ready


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 22), 1)", "Network is unreachable"),
        ("x = 'a' * 10**9", "MemoryError"),
        ("print('x' * 10**7)", "x"),
        ("open('/usr/x', 'w')", "Read-only file system"),
        ("import os; print(sorted({'work', 'etc', 'home', 'proc'} & set(os.listdir('/')), ), os.environ)", "['proc']"),
        ("import ctypes; print(ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0))", "-1"),
    ],
)
def test_code_reaches_nothing(code: str, said: str, isolated: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "SECRET")
    ended = isolated.run(code)
    assert said in ended.output and "SECRET" not in ended.output
    assert len(ended.output) <= sandbox.MOST_OUTPUT_BYTES


def test_code_that_does_not_end_is_ended_with_all_its_processes(
    isolated: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_SECONDS_TO_START", 1.0)
    ended = isolated.run("import os, time\nif os.fork() == 0:\n    os.setsid()\ntime.sleep(600.25)")
    assert ended.exit_code is None
    deadline = time.monotonic() + 10  # the kernel ends a namespace a moment after its first process
    while time.monotonic() < deadline and _is_running("600.25"):
        time.sleep(0.05)
    assert not _is_running("600.25")


def _is_running(mark: str) -> bool:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in file.read_bytes():
                return True
    return False


def test_a_machine_without_namespaces_refuses_to_run_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_WAYS", [(["sh", "-c", "echo unshare failed: not permitted"], [])])
    with (
        pytest.raises(ResourceError, match=r"cannot run the code of answers .*unshare failed: not permitted"),
        Sandbox(1.0, 256),
    ):
        pass


def test_code_is_worth_the_share_of_tests_that_it_passes(tmp_path: Path) -> None:
    tests = ["assert add(2, 3) == 5", "assert add(-1, 0) == -1"]
    given = [
        *answers("Sure:\n```python\ndef add(a, b):\n    return a + b\n```", t=tests),
        *answers("def add(a, b): return 5", t=tests),
        *answers("import os; os._exit(0)", t=tests),
        *answers("print(int(input()) * 2)", t=[{"input": "4\n", "output": "8"}, {"input": "x", "output": "8"}]),
        *answers("x", t=[]),
        *answers("x", t=[3]),
    ]
    said = verdicts({"type": "code", "field": "t", "seconds": 5}, tmp_path, given)
    assert [verdict.value for verdict in said] == [1, 0.5, 0, 0.5, None, None]
    assert [verdict.problem_name for verdict in said[-2:]] == ["no_tests", "bad_test"]
