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
    with progress("packing", 40, "rows") as bar:
        bar.advance(0, "waiting")
        bar.advance(1)
        bar.advance(19)
        bar.advance(20, "loss 3.21")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packing: 0/40 rows, 0/s waiting"
    assert lines[1].startswith("packing: 1/40 rows, ")
    assert [" s left" in line for line in lines] == [False, False, True, False]
    assert lines[3].startswith("packing: 40/40 rows, ")
    assert lines[3].endswith("/s loss 3.21")


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
