"""Two people rate pairs in a real browser, while the server and their pages are killed at random moments.

Nothing that a page counted is lost or there twice, and nothing that the browser received tells whose answer is whose.
"""

from __future__ import annotations

import asyncio
import html
import json
import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.browser import CHROMIUM, chromium
from support.raters import NAMES, VERSIONS, Rater, RatingServer
from support.ui_store import json_lines, published

from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.observe.ports import free_port

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
RATERS = ("ann", "bob")
SEED = 20
LOSSES = ("crash", "reload", "close")
WORDS = ("blue", "river", "seven", "count", "early", "stone", "paper", "<i>", "&amp;", "north", "quiet", "“so”")
PAGE = re.compile(r'(?<=class="answer">)[^<]*|(?<=aria-label="Prompt">)[^<]*|(?<=name="item" value=")\w*')


@pytest.mark.parametrize(
    ("num_pairs", "num_kills"),
    [(8, 2), pytest.param(200, 10, marks=[pytest.mark.full, pytest.mark.timeout(3600)])],
)
def test_no_judgement_is_lost_and_no_page_tells_a_model(tmp_path: Path, num_pairs: int, num_kills: int) -> None:
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    manifests, model_of = _answers(store, num_pairs)
    server = RatingServer(store.root, free_port(), len(RATERS))
    (tmp_path / "profile").mkdir()
    with chromium(tmp_path / "profile") as browser:
        raters = [Rater(name, server, browser, model_of, random.Random(f"{SEED} {name}")) for name in RATERS]
        try:
            found = asyncio.run(_rated(server, raters, num_pairs, num_kills))
        finally:
            server.kill()
    made = _finished(server, store)
    assert len(made) == num_pairs * len(RATERS)
    for rater in raters:
        theirs = {one["prompt"]: (one["meant"], one["note"]) for one in made if one["rater"] == rater.name}
        assert theirs == rater.accepted
        assert rater.errors == []
        _blind(rater, manifests, Path(store.root).parent)
    sides = {rater: [one["is_swapped"] for one in made if one["rater"] == rater] for rater in RATERS}
    if num_pairs > 100:
        assert all(0.35 < sum(swapped) / num_pairs < 0.65 for swapped in sides.values())
    print(json.dumps({**found, "seed": SEED, "judgements": len(made), **{one.name: one.counts for one in raters}}))


def _answers(store: Store, num_pairs: int) -> tuple[list[Manifest], dict[str, int]]:
    """Two models' answers to the same prompts, and by answer which of them gave it."""
    dice = random.Random(SEED)
    texts = [[f"{' '.join(dice.choices(WORDS, k=8))} {n}{'.' * model}" for n in range(num_pairs)] for model in (0, 1)]
    made = []
    for model, (name, version) in enumerate(zip(NAMES, VERSIONS, strict=True)):
        lines = [{"text": f"Question {n}?", "answer": texts[model][n]} for n in range(num_pairs)]
        made.append(published(store, name, version, kind="predict", files={"predictions.jsonl": json_lines(lines)}))
    return made, {text: model for model, each in enumerate(texts) for text in each}


async def _rated(server: RatingServer, raters: Sequence[Rater], num_pairs: int, num_kills: int) -> dict[str, int]:
    dice, total = random.Random(SEED), num_pairs * len(raters)
    found = {"server_kills": 0, "kills_while_a_key_was_pressed": 0, "page_kills": 0}

    async def when_accepted(count: int) -> None:
        while sum(len(rater.accepted) for rater in raters) < count:
            await asyncio.sleep(0.005)
        await asyncio.sleep(dice.uniform(0, 0.3))

    async def kill_servers() -> None:
        for count in sorted(dice.sample(range(1, total - 4), num_kills)):
            await when_accepted(count)
            server.kill()
            found["server_kills"] += 1
            found["kills_while_a_key_was_pressed"] += any(rater.is_waiting for rater in raters)
            await asyncio.sleep(dice.uniform(0, 1))
            await server.start()

    async def kill_pages() -> None:
        for number, count in enumerate(sorted(dice.sample(range(1, total - 4), num_kills))):
            await when_accepted(count)
            await dice.choice(raters).lose_page(LOSSES[number % len(LOSSES)])
            found["page_kills"] += 1

    await server.start()
    await asyncio.gather(*(rater.rate(undo_share=0.05) for rater in raters), kill_servers(), kill_pages())
    await _taken_back_after_a_restart(raters, server)
    return found


async def _taken_back_after_a_restart(raters: Sequence[Rater], server: RatingServer) -> None:
    """On pages that were open while another server took the first one's place."""
    for rater in raters:
        assert (await rater.screen()).is_over
    server.kill()
    await server.start()
    for rater in raters:
        await rater.take_back()
        await rater.judge(await rater.screen())
        assert (await rater.screen()).is_over
        await rater.leave()


def _finished(server: RatingServer, store: Store) -> list[dict[str, str]]:
    """The judgements in the artifact."""
    ended = subprocess.run(server.command("--finish"), capture_output=True, text=True, cwd=Path(store.root).parent)
    assert ended.returncode == 0, ended.stderr
    artifact = store.open(store.resolve(f"{NAMES[0]}-ratings"))
    return [json.loads(line) for line in (artifact.path / "judgements.jsonl").read_text().splitlines()]


def _blind(rater: Rater, manifests: Sequence[Manifest], folder: Path) -> None:
    """No word of the artifacts is in anything sent or received, and pages differ in nothing but what is judged."""
    said = "\n".join(rater.exchanged)
    words = {str(folder), *(file.path for one in manifests for file in one.files)}
    for manifest in manifests:
        words |= {manifest.name, manifest.version, manifest.digest[:8], *(file.sha256[:8] for file in manifest.files)}
    assert [word for word in words if word in said] == []
    judged = [page for page in rater.exchanged if page.startswith("<!doctype html>") and 'class="answer"' in page]
    assert len(judged) >= len(rater.accepted)
    assert len({html.unescape(found) for page in judged for found in PAGE.findall(page)}) > 3 * len(rater.accepted)
    masked = {re.sub(r"\d[\d,]* (judged|of)|of [\d,]+", "", PAGE.sub("", page)) for page in judged}
    variants = {re.sub(r' disabled|\n<p class="note".*', "", page) for page in masked}
    assert len(variants) == 1, variants
