"""Instruction rows for benchmarks, as many as wanted: real questions, answered by real sentences in a new order."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from real_text import ROOT, real_documents


def alpaca_rows(store_path: Path) -> list[dict[str, str]]:
    """Alpaca's English rows, imported as the quickstart does."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run

    job = load_job(ROOT / "jobs" / "quickstart" / "import-instructions.yaml")
    (file,) = run(job, Store(str(store_path)))[0].path.rglob("alpaca_en_demo.json")
    found: list[dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def instruction_rows(store_path: Path, num_rows: int, turns: int = 1, seed: int = 0) -> Iterator[dict[str, object]]:
    """Rows of the chat API, questions and answers as long as Alpaca's; `turns` of them in each row."""
    dice = random.Random(seed)
    alpaca = alpaca_rows(store_path)
    texts = [*real_documents(store_path), *(row["output"] for row in alpaca)]
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if 20 < len(s) < 300]
    sizes = [len(row["output"]) for row in alpaca]

    def answer() -> str:
        wanted, said = dice.choice(sizes), dice.choice(sentences)
        while len(said) < wanted:
            said += dice.choice((" ", " ", " ", "\n\n")) + dice.choice(sentences)
        return said

    for _ in range(num_rows):
        messages = []
        for _ in range(turns):
            asked = dice.choice(alpaca)
            question = "\n".join(part for part in (asked["instruction"], asked["input"]) if part)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer()}]
        yield {"messages": messages}


def write_rows(file: Path, rows: Iterator[dict[str, object]]) -> Path:
    """The rows as JSON lines."""
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file
