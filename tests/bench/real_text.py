"""Corpora for benchmarks, made of real text: the documents themselves, and larger ones of their sentences."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORTS = ("import-web", "import-wiki", "import-news", "import-instructions")


def real_documents(store_path: Path) -> list[str]:
    """English web pages, encyclopedia paragraphs and news, imported as the quickstart does."""
    from rayloom.artifacts.store import Store
    from rayloom.dispatch import load_job, run

    store = Store(str(store_path))
    folders = {name: run(load_job(ROOT / "jobs" / "quickstart" / f"{name}.yaml"), store)[0].path for name in IMPORTS}
    web = (folders["import-web"] / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in web]
    texts += (folders["import-wiki"] / "wiki_demo.txt").read_text(encoding="utf-8").splitlines()
    csv.field_size_limit(10**9)
    with (folders["import-news"] / "NewsArticles.csv").open(encoding="utf-8-sig", newline="") as file:
        texts += [f"{row['title']}\n{row['text']}" for row in csv.DictReader(file)]
    return [text for text in texts if text.strip()]


def recombined(texts: list[str], num_bytes: int, seed: int = 0) -> Iterator[str]:
    """Documents of about `num_bytes` in all: real sentences in a new order, three to a line, as long as real pages."""
    dice = random.Random(seed)
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if 20 < len(s) < 600]
    lengths = [len(text) for text in texts]
    written = 0
    while written < num_bytes:
        wanted, document = min(dice.choice(lengths), 20_000), ""
        while len(document) < wanted:
            document += " ".join(dice.choices(sentences, k=3)) + "\n"
        yield document
        written += len(document.encode())


def write_jsonl(folder: Path, texts: Iterator[str], num_files: int) -> int:
    """Spreads documents over files in turn; returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [(folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") for number in range(num_files)]
    count = 0
    for count, text in enumerate(texts, start=1):
        files[count % num_files].write(json.dumps({"text": text, "id": str(count)}, ensure_ascii=False) + "\n")
    for file in files:
        file.close()
    return count
