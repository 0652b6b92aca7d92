"""The chat page in a real browser, driven through its debugging port: a key, a model, a question, a streamed answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import CHROMIUM, chromium, tab_at
from support.service import CAPITAL, CAPITAL_ANSWER, MODEL, Served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
def debugging_port(tmp_path: Path) -> Iterator[int]:
    with chromium(tmp_path) as port:
        yield port


def test_a_question_on_the_page_is_answered_in_a_stream(served: Served, debugging_port: int, tmp_path: Path) -> None:
    texts, picture = asyncio.run(_chat(served, debugging_port))
    assert "API key" in texts[0]
    assert texts[1] == MODEL
    assert CAPITAL_ANSWER in texts[2]
    (tmp_path / "chat.png").write_bytes(picture)
    assert len(picture) > 5000


async def _chat(served: Served, port: int) -> tuple[list[str], bytes]:
    async with tab_at(port, f"{served.running.url}/") as tab:
        refused = await tab.until("document.querySelector('.error')?.textContent")
        key = json.dumps(served.key)
        await tab.value(f"at('key').value = {key}; at('key').dispatchEvent(new Event('change'))")
        model = await tab.until("at('model').value")
        await tab.value("at('temperature').value = 0")
        question = json.dumps(CAPITAL[0]["content"])
        await tab.value(f"at('text').value = {question}; at('ask').requestSubmit()")
        await tab.until("document.body.dataset.answered === '2'")
        said = await tab.value("document.querySelector('.assistant').textContent")
        return [refused, model, said], await tab.picture()
