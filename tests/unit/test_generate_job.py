"""Whole generating jobs against a small server: what a result holds, stopping early, and kills at random points."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chat_server import ChatServer, chat_server
from support.written import write_rows

from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.dispatch import load_job, run
from rayloom.errors import QualityError, ResourceError
from rayloom.generate import plan, report
from rayloom.generate.asks import AnswerJournal, Ask, ModelAnswer
from rayloom.observe.report_page import page

NUM_ROWS = 40
PROMPTS = [{"prompt": f"Tell me about number {number}", "id": number} for number in range(NUM_ROWS)]


def job_file(folder: Path, server: ChatServer, task: dict[str, Any] | None = None, **values: Any) -> Path:
    write_rows(PROMPTS, folder / "rows")
    engine = {"type": "endpoint", "url": server.url, "model": "m", "licence": "theirs", "max_parallel_requests": 4}
    engine |= values.pop("engine", {})
    spec = {
        "kind": "generate", "name": "made", "engine": engine,
        "task": task or {"type": "answers", "data": {"dataset": "./rows", "keep": ["id"]}},
        "rows_per_round": 10,
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(spec | values))
    return folder / "job.yaml"


def made(file: Path) -> Artifact:
    return run(load_job(file), Store(str(file.parent / "store")))[0]


def lines(artifact: Artifact, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / name).read_text().splitlines()]


def test_a_result_says_what_was_kept_and_dropped_and_reports_it(tmp_path: Path) -> None:
    with chat_server(lambda prompt: "As an AI, no." if prompt.endswith("7") else f"Well, {prompt}") as server:
        artifact = made(job_file(tmp_path, server))
        assert made(tmp_path / "job.yaml") == artifact
        assert len(server.times) == NUM_ROWS
    manifest = artifact.manifest
    assert (manifest.metrics["num_rows"], manifest.metrics["dropped"]) == (36, {"refusal": 4})
    assert manifest.headline == "36 rows kept, 4 dropped"
    assert "theirs" in manifest.licences
    assert manifest.metrics["models"] == {"m-2026-11": NUM_ROWS}
    assert [row["id"] for row in lines(artifact)] == [n for n in range(NUM_ROWS) if n % 10 != 7]
    assert {row["prompt"][-1] for row in lines(artifact, "dropped.jsonl")} == {"7"}
    assert (artifact.path / "prompts/answer.jinja").is_file()
    html = page("made", "", report.sections(artifact))
    assert "To read: refusal" in html and "Clusters" in html and "<svg" in html


def test_the_plan_shows_the_first_prompt_and_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with chat_server(lambda _: "") as server:
        job = load_job(job_file(tmp_path, server, engine={"api_key_variable": "MY_KEY", "licence": None}))
        made_rows = Store(str(tmp_path / "store"))
        parents = {"task.data.dataset": run(load_job(_imported(tmp_path)), made_rows)[0]}
        sheet = plan.plan(job.spec, parents, tmp_path)
        assert not server.times
    assert sheet.problems == ["engine: the environment variable MY_KEY is not set here"]
    assert "Tell me about number 0" in str(sheet.examples[0]) and "licence" in sheet.warnings[0]


def _imported(folder: Path) -> Path:
    values = {"kind": "import", "name": "rows", "source": {"type": "folder", "path": "./rows"}}
    (folder / "import.yaml").write_text(yaml.safe_dump(values | {"content": {"type": "dataset"}, "licence": "MIT"}))
    return folder / "import.yaml"


def test_a_model_that_writes_nothing_usable_stops_the_job_early_with_samples(tmp_path: Path) -> None:
    with chat_server(lambda _: "I'm sorry, but I cannot do that.") as server:
        file = job_file(tmp_path, server, patience={"num_candidates": 20})
        said = "0 rows were kept, at least 1 are wanted, and the job stopped before its end; dropped: refusal 20"
        with pytest.raises(QualityError, match=rf"{said}.*I'm sorry, but"):
            made(file)
        assert len(server.times) == 20


def test_what_little_was_kept_is_a_result_only_where_the_job_says_so(tmp_path: Path) -> None:
    with chat_server(lambda prompt: "Two, I think." if prompt.endswith(" 2") else "As an AI, no.") as server:
        patience = {"num_candidates": 10, "min_kept_share": 0.5}
        with pytest.raises(QualityError, match=r"1 rows were kept.*before its end"):
            made(job_file(tmp_path, server, patience=patience))
        artifact = made(job_file(tmp_path, server, patience=patience, min_rows=1))
        assert len(server.times) == 10
    assert [row["id"] for row in lines(artifact)] == [2]


def test_a_job_out_of_money_goes_on_when_there_is_more(tmp_path: Path) -> None:
    prices = {"price_per_million_input_tokens": 0.0, "price_per_million_output_tokens": 1e6}
    budget = {"cost": 100, **prices}
    with chat_server(lambda prompt: f"Well, {prompt}") as server:
        how: dict[str, Any] = {"sampling": {"max_new_tokens": 8}}
        with pytest.raises(ResourceError, match="budget is spent"):
            made(job_file(tmp_path, server, engine={"budget": budget}, **how))
        first = len(server.times)
        assert 100 / 8 <= first <= 100 / 6 + 1
        artifact = made(job_file(tmp_path, server, engine={"budget": budget | {"cost": 1000}}, **how))
        assert len(server.times) == NUM_ROWS
    assert len(lines(artifact)) == NUM_ROWS


def test_a_line_that_a_killed_job_began_is_asked_for_again(tmp_path: Path) -> None:
    copy = WorkCopy(Store(str(tmp_path)), "made", "1")
    copy.folder.mkdir(parents=True)
    asks = [Ask(f"0/answer/{n}", f"{n}?", "answer") for n in range(3)]
    asked: list[str] = []

    def write(missing: Any) -> Any:
        asked.extend(ask.key for ask in missing)
        return (ModelAnswer(ask.key, f"to {ask.key}\u2028") for ask in missing)

    AnswerJournal(copy, "0.answers.jsonl").answered(asks[:2], write)
    file = copy.folder / "0.answers.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = AnswerJournal(copy, "0.answers.jsonl").answered(asks, write)
    assert asked == ["0/answer/0", "0/answer/1", "0/answer/1", "0/answer/2"]
    assert [answer.text for answer in again] == [f"to {ask.key}\u2028" for ask in asks]
    other = Ask("0/answer/0", "another question?", "answer")
    AnswerJournal(copy, "0.answers.jsonl").answered([other], write)
    assert asked[-1] == "0/answer/0"


def killed_at_random(tmp_path: Path, num_kills: int) -> None:
    """Runs the job in processes that are killed, until one ends by itself."""
    dice = random.Random(num_kills)
    with chat_server(lambda prompt: f"Well, {prompt}", delay_seconds=0.05) as server:
        file = job_file(tmp_path, server)
        environment = os.environ | {"RAYLOOM_STORE": str(tmp_path / "store")}
        for _ in range(num_kills):
            before = len(server.times)
            with subprocess.Popen([sys.executable, "-m", "rayloom", "run", str(file)], env=environment) as process:
                until = before + dice.randrange(1, max(2, NUM_ROWS // num_kills))
                while len(server.times) < until and process.poll() is None:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
        assert not list((tmp_path / "store" / "made").glob("*/manifest.json"))
        artifact = made(file)
    rows = lines(artifact)
    assert [row["id"] for row in rows] == list(range(NUM_ROWS))
    assert [row["messages"][0]["content"] for row in rows] == [row["prompt"] for row in PROMPTS]
    # Only what was on its way at a kill was asked for again.
    assert len(server.times) <= NUM_ROWS + num_kills * 4
    assert set(server.prompts) == {row["prompt"] for row in PROMPTS}
    assert Counter(row["made_by"]["requests"][0] for row in rows).most_common(1)[0][1] == 1


def test_a_killed_job_loses_no_row_and_has_none_twice(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 1)


@pytest.mark.full
def test_a_job_killed_ten_times_loses_no_row_and_has_none_twice(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 10)
