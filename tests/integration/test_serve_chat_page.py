"""The chat page in a real browser, driven through its debugging port: a key, a model, a question, a streamed answer."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.service import CAPITAL, CAPITAL_ANSWER, MODEL, Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
def debugging_port(tmp_path: Path) -> Iterator[int]:
    """A headless Chromium's."""
    assert CHROMIUM is not None
    arguments = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    )
    command = [CHROMIUM, *arguments, f"--user-data-dir={tmp_path}", "--window-size=900,700", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, end = tmp_path / "DevToolsActivePort", time.monotonic() + 60
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

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message: dict[str, Any] = await self._socket.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]  # type: ignore[no-any-return]

    async def value(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of a script, once it is true."""
        end = time.monotonic() + 60
        while not (found := await self.value(script)):
            assert time.monotonic() < end, await self.value("document.body.innerText")
            await asyncio.sleep(0.1)
        return found


def test_a_question_on_the_page_is_answered_in_a_stream(served: Served, debugging_port: int, tmp_path: Path) -> None:
    texts, picture = asyncio.run(_chat(served, debugging_port))
    assert "API key" in texts[0]
    assert texts[1] == MODEL
    assert CAPITAL_ANSWER in texts[2]
    (tmp_path / "chat.png").write_bytes(picture)
    assert len(picture) > 5000


async def _chat(served: Served, port: int) -> tuple[list[str], bytes]:
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?{served.running.url}/") as opened:
            address = json.loads(await opened.text())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as socket:
            tab = Tab(socket)
            refused = await tab.until("document.querySelector('.error')?.textContent")
            key = json.dumps(served.key)
            await tab.value(f"at('key').value = {key}; at('key').dispatchEvent(new Event('change'))")
            model = await tab.until("at('model').value")
            await tab.value("at('temperature').value = 0")
            question = json.dumps(CAPITAL[0]["content"])
            await tab.value(f"at('text').value = {question}; at('ask').requestSubmit()")
            await tab.until("document.body.dataset.answered === '2'")
            said = await tab.value("document.querySelector('.assistant').textContent")
            shot = await tab.call("Page.captureScreenshot", format="png")
    return [refused, model, said], base64.b64decode(shot["data"])
