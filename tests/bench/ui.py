"""`rayloom ui` over 5,000 artifacts and data sets of a million rows: how long a page takes, and what the server holds.

The server is a process of its own. First page: the list of artifacts with the whole store read, and right after a
start, with what an earlier server kept and with nothing kept. Pages of rows: first, last, middle and random ones, and
searches, of JSON lines, of Parquet, and of compressed JSON lines after their copy is written. Curves: from a line in a
log to its point in an answer that is asked for as the pages ask. axe checks every page in Chromium, light and dark, at
three widths, where both are there (AXE_CORE names axe.min.js). Part `s3`: the first page over a store in a bucket, and
the requests of its readings. Prints, last, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from hardware import hardware
from results_file import save, with_earlier

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.browser import AXE, CHROMIUM, chromium, tab_at
from support.ui_store import json_lines, published, training_log
from ui_s3 import first_pages_on_s3
from ui_server import fill, seconds_of, server, until_first_page, until_whole

from rayloom.artifacts.store import Store

NUM_ROWS = 1_000_000
PARTS = ("pages", "s3")
KEYS = ("first_page_seconds", "page_seconds", "memory_bytes", "axe_violations", "first_page_s3_seconds")
ROWS = "/artifacts/million/11aa00000001/rows?file="
WORDS = ("the", "model", "rows", "tokens", "learns", "from", "text", "with", "many", "words", "in", "every", "line")
OTHERS = ("/artifacts/artifact-0/000000000000", "/artifacts/corpus/cccc00000001/lineage", "/running/part", "/editor")
POLL_SECONDS = 1.0
"""What the pages wait between two requests for curves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--artifacts", type=int, default=5_000, help="how many the store holds")
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for part, measured in (("pages", _pages), ("s3", first_pages_on_s3)):
        if part in options.parts:
            with tempfile.TemporaryDirectory() as name:
                found |= measured(Path(name), options.artifacts)
    result = dict.fromkeys(KEYS) | found
    result |= {"num_artifacts": options.artifacts, "hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    if options.save:
        result = with_earlier("ui", result)
        save("ui", result)
    print(json.dumps(result))


def _pages(folder: Path, num_artifacts: int) -> dict[str, Any]:
    store = Store(str(folder / "store"), cache=folder / "cache")
    fill(store, num_artifacts - 1)
    _write_a_million_rows(store)
    return _measured(folder, store, num_artifacts)


def _write_a_million_rows(store: Store) -> None:
    """An artifact with the same rows in three formats."""
    made = random.Random(0)
    lines = [
        {"id": n, "text": " ".join(made.choices(WORDS, k=40)), "label": f"label-{made.randrange(20)}"}
        for n in range(NUM_ROWS)
    ]
    published(store, "million", "11aa00000001", files={"rows.jsonl": json_lines(lines)}, headline="a million rows")
    folder = Path(store.location("million", "11aa00000001"))
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes(), compresslevel=1))
    pq.write_table(pa.Table.from_pylist(lines), folder / "rows.parquet", row_group_size=100_000)
    (folder / "manifest.json").unlink()
    del lines
    texts = {"label.txt": "rows\n"}
    published(store, "million", "11aa00000001", files=texts, headline="a million rows")  # with all files in it


def _measured(folder: Path, store: Store, num_artifacts: int) -> dict[str, Any]:
    with server(folder, store.root, {}) as (url, started, _):
        without_anything = until_first_page(url, started)
        until_whole(url, num_artifacts)
    with server(folder, store.root, {}) as (url, started, process), httpx.Client(base_url=url, timeout=60) as client:
        after_start = until_first_page(url, started)
        until_whole(url, num_artifacts)
        cpu = _CpuSeconds(process.pid)
        first_pages = [seconds_of(client, "/") for _ in range(20)]
        first_page_cpu = cpu.since_then() / len(first_pages)
        searches = [seconds_of(client, f"/?q=artifact-{number}&all=yes") for number in range(20)]
        others = {path: seconds_of(client, path) for path in OTHERS}
        pages, pages_cpu = _row_pages(client, cpu)
        live = _curve_seconds(store, client)
        axe = _violations(url, folder)
        memory = psutil.Process(process.pid).memory_info().rss
    return {
        "first_page_seconds": round(statistics.median(first_pages), 4),
        "first_page_seconds_worst": round(max(first_pages), 4),
        "first_page_seconds_after_start": round(after_start, 2),
        "first_page_seconds_after_start_nothing_kept": round(without_anything, 2),
        "search_seconds": round(statistics.median(searches), 4),
        "page_seconds": round(max(max(one) for one in pages.values()), 4),
        "first_page_cpu_seconds": round(first_page_cpu, 4),
        "page_cpu_seconds": {name: round(seconds, 4) for name, seconds in pages_cpu.items()},
        "page_seconds_median": {name: round(statistics.median(one), 4) for name, one in pages.items()},
        "page_seconds_worst": {name: round(max(one), 4) for name, one in pages.items()},
        "other_pages_seconds": {path: round(seconds, 4) for path, seconds in others.items()},
        "curve_seconds_worst": round(live + POLL_SECONDS, 2),
        "memory_bytes": memory,
        **axe,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "num_rows": NUM_ROWS,
    }


class _CpuSeconds:
    """CPU time of the server: what its pages cost, however busy the machine is with other things."""

    def __init__(self, pid: int) -> None:
        self._process, self._before = psutil.Process(pid), 0.0
        self.since_then()

    def since_then(self) -> float:
        """Seconds since this was last asked."""
        times = self._process.cpu_times()
        before, self._before = self._before, times.user + times.system
        return self._before - before


def _row_pages(client: httpx.Client, cpu: _CpuSeconds) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of pages by format and kind, the very first of each file included, and the mean CPU seconds of one."""
    made, found, cost = random.Random(1), dict[str, list[float]](), dict[str, float]()
    seconds_of(client, f"{ROWS}rows.jsonl.gz")
    while "The file is being read" in client.get(f"{ROWS}rows.jsonl.gz").text:
        time.sleep(0.5)
    for file in ("rows.jsonl", "rows.parquet", "rows.jsonl.gz"):
        starts = [0, NUM_ROWS - 25, NUM_ROWS // 2, *(made.randrange(NUM_ROWS) for _ in range(20))]
        cpu.since_then()
        found[f"{file} pages"] = [seconds_of(client, f"{ROWS}{file}&from={start}") for start in starts]
        cost[f"{file} pages"] = cpu.since_then() / len(starts)
        filters = ("field=label&value=label-7", "q=nowhere-in-it", "q=learns from text", "field=id&value=777777")
        found[f"{file} searches"] = [seconds_of(client, f"{ROWS}{file}&{wanted}") for wanted in filters]
        cost[f"{file} searches"] = cpu.since_then() / len(filters)
    return found, cost


def _curve_seconds(store: Store, client: httpx.Client) -> float:
    """The longest answer with a new point of a log of 20,000 steps that grows."""
    log = Path(store.location("growing", "abab00000001")) / ".work" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(training_log(20_000))
    address, longest = "/running/builds/growing/abab00000001/curves.json", 0.0
    client.get(address)
    for step in range(20_001, 20_021):
        with log.open("a") as file:
            file.write(json.dumps({"event": "step", "step": step, "loss": 1.0}) + "\n")
        longest = max(longest, seconds_of(client, address))
    charts = client.get(address).json()["charts"]
    assert charts[0]["series"][-1]["x"][-1] > 19_900
    return longest


def _violations(url: str, folder: Path) -> dict[str, Any]:
    """How many rules axe finds broken on all pages, and why none was looked at where Chromium or axe is missing."""
    if CHROMIUM is None or not AXE:
        reason = "no Chromium on this machine" if CHROMIUM is None else "AXE_CORE does not name axe.min.js"
        return {"axe_violations": None, "axe_reason": reason}
    (folder / "profile").mkdir()
    with chromium(folder / "profile") as port:
        found = asyncio.run(_axe(url, port))
    return {"axe_violations": len(found), "axe_found": found}


async def _axe(url: str, port: int) -> list[str]:
    paths = (
        "/", "/artifacts/artifact-0/000000000000", "/artifacts/corpus/cccc00000001/lineage", f"{ROWS}rows.jsonl",
        "/compare?id=artifact-0@000000000000&id=adapter@dddd00000002", "/running", "/services", "/editor",
        "/playground", "/running/builds/growing/abab00000001", "/nowhere",
    )  # fmt: skip
    found = []
    async with tab_at(port) as tab:
        for width in (360, 1280, 2560):
            for is_dark in (False, True):
                await tab.show(width, is_dark)
                for path in paths:
                    await tab.visit(url + path)
                    window = f"{path} {width} {'dark' if is_dark else 'light'}"
                    found += [f"{window} {one}" for one in await tab.violations()]
    return found


if __name__ == "__main__":
    main()
