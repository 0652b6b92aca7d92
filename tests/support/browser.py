"""A real Chromium, driven through its debugging port; tests that need one are skipped where there is none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
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


class RefusedError(Exception):
    """The browser does not do what it is told, such as in a page that is just being replaced."""


class Tab:
    """A page that is told what to do."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []
        """What the page's scripts and its policy complained about."""
        self.exchanged: list[str] = []
        """What the page sent and received since `record`: addresses, headers, cookies and bodies."""
        self._tasks = {asyncio.create_task(self._read())}

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The browser's answer. Raises RefusedError, ConnectionError if the page is gone, TimeoutError if it hangs."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        message = await asyncio.wait_for(answer, 60)
        if "error" in message:
            raise RefusedError(method, message["error"])
        return message["result"]  # type: ignore[no-any-return]

    async def _read(self) -> None:
        async for received in self._socket:
            message = received.json()
            if message.get("method") in ("Inspector.targetCrashed", "Inspector.detached"):
                break
            self._note(message.get("method", ""), message.get("params", {}))
            if (answer := self._answers.pop(message.get("id"), None)) and not answer.done():
                answer.set_result(message)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the page is gone"))
        await self._socket.close()

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"])[:500])
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif event.startswith("Network."):
            self.exchanged.append(json.dumps(said, ensure_ascii=False))
        elif event == "Fetch.requestPaused":
            task = asyncio.create_task(self._recorded(said))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def record(self) -> None:
        """Keeps from now on everything that the page sends and receives; an answer waits until its body is kept."""
        await self.call("Network.enable")
        await self.call("Fetch.enable", patterns=[{"requestStage": "Response"}])

    async def _recorded(self, paused: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            if 200 <= paused.get("responseStatusCode", 0) < 300 or paused.get("responseStatusCode", 0) >= 400:
                with contextlib.suppress(RefusedError):  # the server was killed before the body was sent
                    body = await self.call("Fetch.getResponseBody", requestId=paused["requestId"])
                    text = base64.b64decode(body["body"]).decode() if body["base64Encoded"] else body["body"]
                    self.exchanged.append(text)
            with contextlib.suppress(RefusedError):  # the page has gone elsewhere meanwhile
                await self.call("Fetch.continueRequest", requestId=paused["requestId"])

    async def press(self, key: str) -> None:
        """A key, as the keyboard sends it."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def close(self) -> None:
        await self._socket.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        await self.call("Inspector.enable")

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
            tab = Tab(socket)
            try:
                yield tab
            finally:
                await tab.close()
