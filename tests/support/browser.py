"""A real Chromium, driven through its debugging port; tests that need one are skipped where there is none."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = os.environ.get("AXE_CORE", "")
"""Path of `axe.min.js` of npm's package axe-core, which checks pages against the WCAG."""
WCAG_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")


@contextmanager
def chromium(folder: Path) -> Iterator[int]:
    """The debugging port of a headless browser with its profile in a folder."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={folder}", "--window-size=900,700", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, end = folder / "DevToolsActivePort", time.monotonic() + 60
        while not told.exists() or not told.read_text():
            assert browser.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield int(told.read_text().splitlines()[0])
    finally:
        browser.terminate()
        browser.wait(timeout=30)


class Tab:
    """A page that is told what to do."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.errors: list[str] = []
        """What the page's scripts and its policy complained about."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message: dict[str, Any] = await self._socket.receive_json(timeout=60)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]  # type: ignore[no-any-return]

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
        entry = message.get("params", {}).get("entry", {}) if message.get("method") == "Log.entryAdded" else {}
        if entry.get("level") == "error":
            self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    async def value(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of a script, once it is true."""
        end = time.monotonic() + 60
        while not (found := await self.value(script)):
            assert time.monotonic() < end, await self.value("document.body.innerText")
            await asyncio.sleep(0.1)
        return found

    async def watch(self) -> None:
        """Notes from now on what goes wrong in the pages."""
        await self.call("Runtime.enable")
        await self.call("Log.enable")

    async def show(self, width: int, is_dark: bool) -> None:
        """A window of this width, in light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def visit(self, url: str) -> None:
        """Goes there, and waits until every part of the page is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        await self.until("[...document.querySelectorAll('[data-part]')].every((one) => one.lastText !== undefined)")

    async def violations(self) -> list[str]:
        """What axe finds against WCAG 2.2 AA: rule and element. The debugger runs it, beside the policy."""
        await self.value(Path(AXE).read_text(encoding="utf-8") + ";0")
        options = json.dumps({"runOnly": WCAG_AA})
        found = await self.value(
            f"axe.run(document, {options}).then((r) => r.violations.map((v) => v.id + ' ' + v.nodes[0].target))"
        )
        return [str(one) for one in found]

    async def picture(self) -> bytes:
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def tab_at(port: int, url: str = "about:blank") -> AsyncIterator[Tab]:
    """A new page of the browser."""
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?{url}") as opened:
            address = json.loads(await opened.text())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as socket:
            yield Tab(socket)
