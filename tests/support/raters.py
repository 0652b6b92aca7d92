"""People who rate pairs in a real browser by its keyboard, while the server and their pages are killed.

A `Rater` knows what it saw: a judgement counts as accepted once the page that was shown after it counted it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from support.browser import RefusedError, Tab, tab_at

NAMES = ("strong-model", "weak-model")
VERSIONS = ("aaaa00000001", "bbbb00000001")
KEYS = {"left": "1", "right": "2", "tie": "3"}
WAITS_SECONDS = 200.0
"""For the disk, and for a server's start, of a machine that measures other things meanwhile."""
SETTLES_SECONDS = 0.5
"""After which a request that a page sent before it died has come to its end."""
LOOK = """(() => {
  const text = (where) => document.querySelector(where)?.textContent ?? "";
  return {
    is_ready: document.readyState === "complete",
    has_script: typeof isSent !== "undefined",
    mine: text("header .muted"),
    prompt: text("main pre"),
    answers: [...document.querySelectorAll(".answer")].map((one) => one.textContent),
    unsent: document.getElementById("unsent")?.hidden === false ? text("#unsent") : "",
    is_pressed: window.isPressed === true,
    is_over: text("h1").includes("nothing left"),
  };
})()"""


@dataclass
class RatingServer:
    """`rayloom rate` over both artifacts in a process of its own."""

    store: str
    port: int
    each: int
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *more: str) -> list[str]:
        settings = ["--store", self.store, "--port", str(self.port), "--each", str(self.each), "--rows", "100000"]
        return [sys.executable, "-m", "rayloom", "rate", *NAMES, *settings, *more]

    async def start(self) -> None:
        self._process = subprocess.Popen(self.command(), stderr=subprocess.DEVNULL, cwd=Path(self.store).parent)
        self.starts += 1
        end = time.monotonic() + WAITS_SECONDS
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(self.url):
                        return
                except aiohttp.ClientError:
                    assert self._process.poll() is None and time.monotonic() < end, "the server does not start"
                    await asyncio.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Screen:
    """What a page shows."""

    num_mine: int
    prompt: str
    answers: tuple[str, ...]
    unsent: str
    is_pressed: bool
    """Whether a key was pressed on this very page, which was not loaded anew since."""
    is_over: bool


@dataclass
class Rater:
    """One person in one tab, which opens another if that one dies."""

    name: str
    server: RatingServer
    browser: int
    model_of: Mapping[str, int]
    """By answer: 0 for the first artifact, 1 for the second. The person does not know it."""
    dice: random.Random
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By prompt: first, second or tie, and the note."""
    exchanged: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_waiting: bool = False
    """Whether a key was pressed and the page has not answered yet."""
    pages: AsyncExitStack = field(default_factory=AsyncExitStack)
    tab: Tab | None = None

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    async def rate(self, undo_share: float) -> None:
        """Judges until nothing is left."""
        while not (screen := await self.screen()).is_over:
            await self.judge(screen)
            if self.dice.random() < undo_share:
                await self.take_back()

    async def judge(self, screen: Screen) -> None:
        choice = self.dice.choice(("left", "right", "tie"))
        note = f"note {self.name} {len(self.accepted)} <b>&" if self.dice.random() < 0.05 else ""
        side = {"left": 0, "right": 1}.get(choice)
        meant = "tie" if side is None else ("first", "second")[self.model_of[screen.answers[side]]]
        assert len(self.accepted) == screen.num_mine, (self.name, len(self.accepted), screen)
        if await self._until(KEYS[choice], screen, screen.num_mine + 1, note):
            self.accepted[screen.prompt] = (meant, note)

    async def take_back(self) -> None:
        """Undoes the last judgement, whose pair is then shown again."""
        screen = await self.screen()
        last = list(self.accepted)[-1]
        assert screen.num_mine == len(self.accepted)
        if await self._until("u", screen, screen.num_mine - 1):
            self._count("undone")
            del self.accepted[last]
            assert (await self.screen()).prompt == last

    async def _until(self, key: str, before: Screen, wanted: int, note: str = "") -> bool:
        """Presses a key until the page counts what it does. False if the page died and what is counted is as before."""
        end = time.monotonic() + WAITS_SECONDS
        self.is_waiting = True
        try:
            while (screen := await self._pressed(key, before, note)).num_mine != wanted:
                assert (screen.num_mine, screen.prompt) == (before.num_mine, before.prompt), (
                    self.name,
                    key,
                    before,
                    screen,
                )
                assert time.monotonic() < end, f"{self.name}: {key} does nothing"
                self._count("sent again" if screen.unsent else "pressed again")
                await asyncio.sleep(0.5)
            return True
        except (ConnectionError, TimeoutError):
            await self.leave()
            self._count("pages lost while a key was pressed")
            await asyncio.sleep(SETTLES_SECONDS)
            screen = await self.screen()
            assert screen.num_mine in (before.num_mine, wanted), (self.name, key, before, screen)
            return screen.num_mine == wanted
        finally:
            self.is_waiting = False

    async def _pressed(self, key: str, before: Screen, note: str) -> Screen:
        """What the page shows after a key: the next pair, that nothing could be sent, or itself if loaded anew."""
        end = time.monotonic() + WAITS_SECONDS
        tab, is_pressed = await self._tab(), False
        with contextlib.suppress(RefusedError):
            if note:
                await self._write(tab, note)
            if await tab.value("document.readyState === 'complete' && (window.isPressed = true)"):
                await tab.press(key)
                is_pressed = True
        while True:
            screen = await self._look(tab)
            is_still = screen is None or (screen.num_mine == before.num_mine and not screen.unsent)
            if screen and not (is_still and is_pressed and screen.is_pressed):
                return screen
            assert time.monotonic() < end, (self.name, key, screen, [one[:600] for one in tab.exchanged[-8:]])
            await asyncio.sleep(0.02)

    async def _write(self, tab: Tab, note: str) -> None:
        if await tab.value("document.getElementById('note').value") != note:
            await tab.press("n")
            await tab.call("Input.insertText", text=note)
        await tab.press("Escape")

    async def screen(self) -> Screen:
        """What the page shows, in a new tab if the old one is gone."""
        end = time.monotonic() + WAITS_SECONDS
        while time.monotonic() < end:
            try:
                tab = await self._tab()
                if (screen := await self._look(tab)) is not None:
                    return screen
                await asyncio.sleep(0.05)
            except (ConnectionError, TimeoutError):
                await self.leave()
        raise AssertionError(f"{self.name} sees no page")

    async def _look(self, tab: Tab) -> Screen | None:
        """None while a page is loading; one that was not loaded whole, as the server was killed, is loaded again."""
        try:
            found = await tab.value(LOOK)
        except RefusedError:
            return None
        counted = re.fullmatch(rf"{re.escape(self.name)}: ([\d,]+) judged; .*", found["mine"])
        if not found["is_ready"]:
            return None
        if counted is None or not found["has_script"]:
            self._count("pages loaded again")
            await asyncio.sleep(0.2)
            await tab.call("Page.navigate", url=f"{self.server.url}/rate/{self.name}")
            return None
        mine = int(counted[1].replace(",", ""))
        answers, unsent = tuple(found["answers"]), found["unsent"]
        return Screen(mine, found["prompt"], answers, unsent, found["is_pressed"], found["is_over"])

    async def _tab(self) -> Tab:
        if self.tab is None:
            self._count("tabs")
            tab = await self.pages.enter_async_context(tab_at(self.browser))
            self.tab = tab
            await tab.watch()
            await tab.record()
            await tab.call("Page.navigate", url=f"{self.server.url}/rate/{self.name}")
        return self.tab

    async def leave(self) -> None:
        """Gives up the tab, with what it has exchanged."""
        if self.tab is not None:
            self.exchanged += self.tab.exchanged
            self.errors += [error for error in self.tab.errors if "net::ERR_" not in error]  # else of a killed server
            self.tab = None
        await self.pages.aclose()

    async def lose_page(self, how: str) -> None:
        """The page crashes, is closed or loaded again, whatever it is doing."""
        if self.tab is not None:
            self._count(f"page: {how}")
            with contextlib.suppress(ConnectionError, RefusedError):
                await self.tab.call(f"Page.{how}")
