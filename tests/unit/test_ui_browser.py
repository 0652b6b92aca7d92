"""The pages in a real browser: nothing breaks the policy, curves grow, the editor checks as one types."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from support.browser import AXE, CHROMIUM, Tab, chromium, tab_at
from support.ui_store import family, training_log

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.store import Store
from rayloom.observe.ports import free_port
from rayloom.ui.application import application
from rayloom.ui.protection import Access
from rayloom.ui.workbench import Workbench

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PAGES = (
    "/",
    "/artifacts/adapter/dddd00000001",
    "/artifacts/adapter/dddd00000001/lineage",
    "/artifacts/corpus/cccc00000001/rows?field=reason&value=too_short",
    "/compare?id=adapter@dddd00000001&id=adapter@dddd00000002",
    "/running",
    "/services",
    "/editor",
    "/playground",
    "/nowhere",
)
BUILD = "/running/builds/growing/abab00000001"
CURVE_SECONDS = 2.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The log of a training under way."""
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    family(store)
    work = Path(store.location("growing", "abab00000001")) / ".work"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text(training_log(20))
    with exclusive(work.parents[1] / ".abab00000001.lock", lambda: None):
        yield work / "metrics.jsonl"


@pytest.fixture
def url(tmp_path: Path, log: Path) -> Iterator[str]:
    port = free_port()
    bench = Workbench(Store(str(tmp_path / "store"), cache=tmp_path / "cache"), Access(port), folder=tmp_path)
    server = uvicorn.Server(uvicorn.Config(application(bench), port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    server.force_exit = True
    thread.join()


def test_every_page_is_whole_and_its_scripts_do_what_they_say(url: str, log: Path, tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    with chromium(tmp_path / "profile") as port:
        asyncio.run(_looked_at(url, log, port))


async def _looked_at(url: str, log: Path, port: int) -> None:
    async with tab_at(port) as tab:
        await tab.watch()
        for path in PAGES:
            await tab.show(360, is_dark=path == "/")
            await tab.visit(url + path)
            too_wide = await tab.value("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, path
            assert AXE == "" or await tab.violations() == [], path
        assert [error for error in tab.errors if "404" not in error] == []
        await _curves_grow(tab, url, log)
        await _text_is_checked(tab, url)
        assert [error for error in tab.errors if "404" not in error] == []


async def _curves_grow(tab: Tab, url: str, log: Path) -> None:
    await tab.visit(url + BUILD)
    await tab.until("document.querySelectorAll('.curve canvas').length >= 2")
    with log.open("a") as file:
        file.write(json.dumps({"event": "step", "step": 21, "loss": 0.125, "reward": 0.5}) + "\n")
    began = time.monotonic()
    await tab.until("[...document.querySelectorAll('.curve h3')].some((head) => head.textContent === 'reward')")
    assert time.monotonic() - began < CURVE_SECONDS


async def _text_is_checked(tab: Tab, url: str) -> None:
    await tab.visit(url + "/editor")
    typed = json.dumps("kind: train\nname: x\nbose: y\n")
    await tab.value(
        f"const box = document.getElementById('job-text'); box.value = {typed}; box.dispatchEvent(new Event('input'))"
    )
    await tab.until("document.getElementById('verdict').textContent.includes('bose')")
    await tab.value(
        "const name = document.querySelector('[data-path=\"name\"]'); name.value = 'renamed';"
        "name.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    await tab.until("document.getElementById('job-text').value.includes('renamed')")
