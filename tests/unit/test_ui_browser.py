"""The pages in a real browser: nothing breaks the policy, curves grow, the editor checks as one types."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp
from support.browser import AXE, CHROMIUM, Tab, chromium, tab_at
from support.ui_store import family, training_log

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.store import Store
from rayloom.observe.ports import free_port
from rayloom.ui.application import application
from rayloom.ui.protection import Access
from rayloom.ui.rating.application import Rating
from rayloom.ui.rating.application import application as rating_application
from rayloom.ui.rating.items import RatedItem
from rayloom.ui.rating.journal import JudgementJournal
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
    with served(application(bench), port) as address:
        yield address


@contextmanager
def served(app: ASGIApp, port: int) -> Iterator[str]:
    """The address of an application on a real server."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
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


@pytest.fixture
def rating(tmp_path: Path) -> Iterator[tuple[str, Rating]]:
    """A rating of 12 pairs, and its address."""
    items = [RatedItem(f"{n:02x}", f"Question {n}?", (f"good {n}", f"poor {n}")) for n in range(12)]
    journal, port = JudgementJournal(tmp_path / "ratings.jsonl"), free_port()
    made = Rating(items, journal, key=b"k", each=2)
    with served(rating_application(made, Access(port)), port) as url:
        yield url, made
    journal.close()


def test_people_rate_by_keys_and_take_back(rating: tuple[str, Rating], tmp_path: Path) -> None:
    url, made = rating
    (tmp_path / "profile").mkdir()
    with chromium(tmp_path / "profile") as port:
        asyncio.run(_rated(url, port))
    assert [len(made.journal.of(rater)) for rater in ("ann", "bob")] == [12, 12]
    assert {one.meant for one in made.journal.of("bob")} == {"first"}
    assert made.journal.of("ann")[-1].note == "a note 1"


async def _rated(url: str, port: int) -> None:
    async with tab_at(port) as tab:
        await tab.watch()
        await tab.visit(f"{url}/rate/bob")
        for count in range(12):
            is_left = await tab.value("document.querySelector('.answer').textContent.startsWith('good')")
            await _press(tab, "1" if is_left else "2", f"bob: {count + 1} judged")
        await tab.visit(f"{url}/rate/ann")
        assert AXE == "" or await tab.violations() == []
        for count in range(11):
            await _press(tab, "3", f"ann: {count + 1} judged")
        await _press(tab, "u", "ann: 10 judged")
        await _press(tab, "3", "ann: 11 judged")
        await tab.value("document.getElementById('note').value = 'a note 1'")
        await _press(tab, "2", "ann: 12 judged")
        assert tab.errors == []


async def _press(tab: Tab, key: str, then: str) -> None:
    """Presses a key, and waits until the page says so."""
    event = f"new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}})"
    await tab.value(f"document.body.dispatchEvent({event}); 0")
    said = f"document.querySelector('header')?.textContent.includes({then!r})"
    await tab.until(f"document.readyState === 'complete' && {said}")


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
