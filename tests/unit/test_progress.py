"""Progress for people: a bar on a terminal, plain lines elsewhere, and sheets of a plan."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from rayloom.observe import progress as progresses
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress


def test_where_there_is_no_terminal_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progresses, "SECONDS_BETWEEN_LINES", 0.0)
    seconds = iter([0.0, 10.0, 100.0, 110.0, 130.0])  # the first row takes long, as with what starts first
    monkeypatch.setattr(progresses.time, "monotonic", lambda: next(seconds))
    with progress("packing", 40, "rows") as bar:
        bar.advance(0, "waiting")
        bar.advance(1)
        bar.advance(19)
        bar.advance(20, "loss 3.21")
    assert capsys.readouterr().err.splitlines() == [
        "packing: 0/40 rows waiting",
        "packing: 1/40 rows waiting",
        "packing: 20/40 rows, 1.9/s, 11 s left waiting",
        "packing: 40/40 rows, 1.3/s loss 3.21",
    ]


def test_the_rate_is_that_of_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does it count what an earlier run did."""
    monkeypatch.setattr(progresses, "RATE_LINES", 2)
    seconds = iter([0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    monkeypatch.setattr(progresses.time, "monotonic", lambda: next(seconds))
    with progress("packing", 1000, "rows") as bar:
        bar.continue_from(500)
        for count in (10, 10, 100, 100):
            bar.advance(count)
    rates = [line.split(", ")[1:] for line in capsys.readouterr().err.splitlines()]
    assert rates == [[], ["1/s", "490 s left"], ["1/s", "480 s left"], ["5.5/s", "69 s left"], ["10/s", "28 s left"]]


def test_fast_work_says_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("packing", 4) as bar:
        bar.advance(4)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_with_the_numbers() -> None:
    code = (
        "import time\nfrom rayloom.observe.progress import progress\n"
        "with progress('packing', 4, 'rows') as bar:\n    bar.advance(2, 'loss 3.21'); time.sleep(0.3)\n"
    )
    terminal, inside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=inside, check=True, env=environment)
    os.close(inside)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    for part in ("packing", "2/4", "rows", "loss 3.21"):
        assert part in shown


def test_a_plan_prints_facts_warnings_and_problems_with_numbers_grouped() -> None:
    sheet = PlanSheet()
    sheet.add("parameters", 134515008)
    sheet.add("precision", "bf16")
    sheet.warnings.append("the loss may be [noisy]")
    sheet.problems.append("no room")
    output = io.StringIO()
    Console(file=output, width=80).print(sheet.rendered())
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines == [
        "parameters  134,515,008",
        "precision   bf16",
        "warning: the loss may be [noisy]",
        "problem: no room",
    ]
