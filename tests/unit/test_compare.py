"""Whole comparisons against a small server: wins, bias, every named outcome, resuming, and what a plan counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chat_server import ChatServer, chat_server
from support.written import write_rows

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.errors import InputError, QualityError, RayloomError, ResourceError
from rayloom.generate.comparing import plan, report
from rayloom.generate.verdicts import letter_of, points_of, verdict_of
from rayloom.observe.report_page import page
from rayloom.reading.files import table_rows
from rayloom.specs.training.preferences import PreferenceSource
from rayloom.text.conversations.judged_rows import judged_row

NUM_ROWS = 20
ROWS = [{"prompt": f"Count to {n}", "answer": "long and good " * 3, "other": f"bad {n}"} for n in range(NUM_ROWS)]


def says(prompt: str) -> str:
    """As a judge: the good answer, wherever it stands. As a model: a good answer."""
    if "[Answer A]" in prompt:
        return "A" if "good" in prompt.split("[Answer A]")[1].split("[Answer B]")[0] else "B"
    if "[Answer]" in prompt:
        return "9/10" if "good" in prompt.split("[Answer]")[1] else "2"
    return f"A good {prompt.split()[-1]}"


def job_file(folder: Path, server: ChatServer, models: list[dict[str, Any]], **values: Any) -> Path:
    write_rows(values.pop("rows", ROWS), folder / "rows")
    endpoint = {"type": "endpoint", "url": server.url, "model": "m", "licence": "theirs", "max_parallel_requests": 4}
    models = [endpoint | {"name": one["name"]} if "type" not in one else one for one in models]
    spec = {
        "kind": "compare", "name": "which", "data": {"dataset": "./rows"}, "models": models,
        "judge": endpoint | values.pop("judge", {}),
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(spec | values))
    return folder / "job.yaml"


def made(file: Path) -> Artifact:
    return run(load_job(file), Store(str(file.parent / "store")))[0]


def lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / name).read_text().splitlines()]


GOOD = {"name": "good", "type": "column", "column": "answer"}
BAD = {"name": "bad", "type": "column", "column": "other"}


def test_the_better_one_wins_in_both_orders_and_its_answers_are_pairs_to_train_on(tmp_path: Path) -> None:
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [{"name": "asked"}, BAD]))
        assert len(server.times) == NUM_ROWS + 2 * NUM_ROWS
    metrics = artifact.manifest.metrics
    assert metrics["outcomes"] == {"first": NUM_ROWS}
    (pair,) = metrics["pairs"]
    assert (pair["first"], pair["second"], pair["wins"], pair["interval"]) == ("asked", "bad", 1.0, [0.8389, 1.0])
    assert metrics["position"]["first_place"]["share"] == 0.5
    assert metrics["position"]["same_in_both_orders"]["share"] == 1.0
    assert metrics["longer_wins"]["share"] == 1.0
    assert metrics["models"]["bad"]["answers"] == NUM_ROWS and metrics["judge_requests"] == 2 * NUM_ROWS
    assert artifact.manifest.headline == "asked wins 100.0% (83.9% to 100.0%) against bad"
    assert "theirs" in artifact.manifest.licences
    source = PreferenceSource(dataset="artifact:which", files="pairs.jsonl")
    found = [row for _, row in table_rows([artifact.path / "pairs.jsonl"], source)]
    assert len(found) == NUM_ROWS and judged_row(found[3], source.format, "row 3")
    assert (found[3]["chosen"], found[3]["rejected"]) == ("A good 3", "bad 3")
    assert (artifact.path / "rubric.jinja").is_file()
    html = page("which", "", report.sections(artifact))
    assert "Who wins" in html and "To read: first" in html and "without a bias" in html


def test_a_judge_that_only_looks_at_the_order_decides_nothing_and_it_shows(tmp_path: Path) -> None:
    with chat_server(lambda _: "[[A]]") as server:
        metrics = made(job_file(tmp_path, server, [GOOD, BAD])).manifest.metrics
    assert metrics["outcomes"] == {"undecided": NUM_ROWS}
    assert metrics["pairs"][0]["wins"] == 0.5
    assert metrics["position"]["first_place"]["share"] == 1.0
    assert metrics["position"]["same_in_both_orders"]["share"] == 0.0
    assert metrics["longer_wins"]["share"] is None and metrics["num_pairs_to_train_on"] == 0


def test_several_models_are_ranked(tmp_path: Path) -> None:
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [BAD, {"name": "asked"}, GOOD]))
    metrics = artifact.manifest.metrics
    assert [one["model"] for one in metrics["ranking"]][-1] == "bad"
    assert {(one["first"], one["second"]) for one in metrics["pairs"]} == {
        ("bad", "asked"), ("bad", "good"), ("asked", "good"),
    }  # fmt: skip
    # Two good answers: the judge says A to whichever stands first.
    assert metrics["outcomes"] == {"second": 2 * NUM_ROWS, "undecided": NUM_ROWS}
    assert "Bradley" in page("which", "", report.sections(artifact))


def test_only_pairs_with_one_model_are_judged_where_the_job_says_so(tmp_path: Path) -> None:
    with chat_server(says) as server:
        judging = {"type": "pairs", "against": "bad"}
        metrics = made(job_file(tmp_path, server, [GOOD, {"name": "asked"}, BAD], judging=judging)).manifest.metrics
    assert [(one["first"], one["second"]) for one in metrics["pairs"]] == [("good", "bad"), ("asked", "bad")]


def test_scores_by_criterion(tmp_path: Path) -> None:
    criteria = [{"name": "right", "description": "It is right."}, {"name": "kind", "description": "It is kind."}]
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [GOOD, BAD], judging={"type": "scores", "criteria": criteria}))
        assert len(server.times) == NUM_ROWS * 2 * 2
        assert any("right: It is right." in prompt for prompt in server.prompts)
    metrics = artifact.manifest.metrics
    assert metrics["scores"]["good"]["kind"]["share"] == 9.0 and metrics["scores"]["bad"]["right"]["share"] == 2.0
    assert metrics["pairs"][0]["wins"] == 1.0 and metrics["outcomes"] == {"scored": 80}
    assert metrics["longer_wins"]["share"] == 1.0
    assert "Means by criterion" in page("which", "", report.sections(artifact))


def nonsense(prompt: str) -> str:
    return "I like both very much" if "Count to 1" in prompt else says(prompt)


def test_nonsense_is_no_tie_and_too_much_of_it_stops_the_job_and_says_what_was_said(tmp_path: Path) -> None:
    with chat_server(nonsense) as server:
        file = job_file(tmp_path, server, [GOOD, BAD])
        said = r"on 45.0% of what it was asked.*first 9, no_verdict 11.*I like both very much"
        with pytest.raises(QualityError, match=said.replace("first 9, no_verdict 11", "no_verdict 11, first 9")):
            made(file)
        asked = len(server.times)
        metrics = made(job_file(tmp_path, server, [GOOD, BAD], min_judged_share=0.3)).manifest.metrics
    assert metrics["outcomes"] == {"no_verdict": 11, "first": 9} and metrics["pairs"][0]["num_judged"] == 9
    assert metrics["judged_share"] == 0.45 and asked == 2 * NUM_ROWS


def test_a_judge_that_refuses_a_request_costs_that_pair_alone(tmp_path: Path) -> None:
    refusal = (400, {}, {"error": {"message": "too long for me"}})
    with chat_server(says, refuse=lambda number: refusal if number == 0 else None) as server:
        artifact = made(job_file(tmp_path, server, [GOOD, BAD]))
    assert artifact.manifest.metrics["outcomes"] == {"first": NUM_ROWS - 1, "judge_failed": 1}
    (failed,) = (one for one in lines(artifact, "judgements.jsonl") if one["outcome"] == "judge_failed")
    assert "too long for me" in failed["said"]


def test_a_judge_that_is_down_stops_the_job_which_then_asks_for_the_rest_only(tmp_path: Path) -> None:
    down = (503, {"Retry-After": "0"}, {"error": {"message": "gone"}})
    with chat_server(says, refuse=lambda number: down if 30 <= number < 60 else None) as server:
        file = job_file(tmp_path, server, [{"name": "asked"}, BAD], judge={"num_attempts": 1})
        with pytest.raises(ResourceError, match="503"):
            made(file)
        artifact = None
        for _ in range(30):
            try:
                artifact = made(file)
                break
            except ResourceError:
                continue
        assert artifact is not None
        assert set(server.prompts.values()) == {1}
    assert artifact.manifest.metrics["outcomes"] == {"first": NUM_ROWS}


def test_answers_in_files_are_found_by_prompt_and_missing_ones_are_named(tmp_path: Path) -> None:
    before = [{"text": row["prompt"], "said": f"good {n}"} for n, row in enumerate(ROWS) if n % 2]
    write_rows(before, tmp_path / "before")
    one = {"name": "before", "type": "file", "dataset": "./before", "prompt": "text", "answer": "said"}
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [one, BAD]))
        assert artifact.manifest.metrics["outcomes"] == {"no_answer": 10, "first": 10}
        assert artifact.manifest.metrics["models"]["before"]["failed"] == {"there is none": 10}
        assert {parent.field for parent in artifact.manifest.parents} == {"data.dataset", "models.0.dataset"}
        with pytest.raises(InputError, match=r"before has no answer to any of the 20 prompts"):
            made(job_file(tmp_path, server, [one | {"prompt": "said"}, BAD]))


def test_halves_of_characters_in_answers_and_rows_are_no_end_of_it(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi \ud800?", "answer": "good \ud83d", "other": "bad"}]
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [GOOD, BAD], rows=rows))
    assert artifact.manifest.metrics["outcomes"] == {"first": 1}
    assert lines(artifact, "answers.jsonl")[0]["answers"] == {"good": "good ?", "bad": "bad"}


def test_without_a_judge_the_answers_wait_for_people(tmp_path: Path) -> None:
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [GOOD, {"name": "asked"}], judge={}, description="x"))
        file = tmp_path / "job.yaml"
        values = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({key: value for key, value in values.items() if key != "judge"}))
        waiting = made(file)
    assert artifact.manifest.version != waiting.manifest.version
    assert waiting.manifest.headline == "20 prompts answered by good, asked"
    assert [file.path for file in waiting.manifest.files] == ["answers.jsonl"]
    assert lines(waiting, "answers.jsonl")[2]["answers"]["asked"] == "A good 2"
    assert "To read" in page("which", "", report.sections(waiting))


def test_a_rubric_of_ones_own_is_asked_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ row.other }}? [Answer A]{{ first }}[Answer B]{{ second }}")
    with chat_server(says) as server:
        artifact = made(job_file(tmp_path, server, [GOOD, BAD], rubric="./mine.jinja"))
        assert any(prompt.startswith("bad 3? [Answer A]") for prompt in server.prompts)
    assert (artifact.path / "rubric.jinja").read_text() == (tmp_path / "mine.jinja").read_text()


@pytest.mark.parametrize(
    ("rubric", "said"),
    [
        ("{{ first }} only", "does not show the judge everything"),
        ("{{ first }} {{ second }} {{ topic }}", "'topic' is undefined"),
        ("{% if %}", "Line 1"),
        (None, "There is no such file"),
    ],
)
def test_a_rubric_that_cannot_be_used_is_refused_before_anything_is_asked(
    rubric: str | None, said: str, tmp_path: Path
) -> None:
    if rubric is not None:
        (tmp_path / "mine.jinja").write_text(rubric)
    with chat_server(says) as server:
        with pytest.raises(RayloomError, match=said):
            made(job_file(tmp_path, server, [GOOD, BAD], rubric="./mine.jinja"))
        assert not server.times


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": [GOOD, GOOD | {"column": "other"}]}, "two models have the name good"),
        ({"models": [GOOD]}, "at least 2"),
        ({"judging": {"type": "pairs", "against": "nobody"}}, "none of models"),
        ({"judging": {"type": "scores", "criteria": [], "lowest": 3}}, "criteria"),
    ],
)
def test_a_wrong_file_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with chat_server(says) as server:
        file = job_file(tmp_path, server, change.pop("models", [GOOD, BAD]), **change)
    with pytest.raises(RayloomError, match=said):
        load_job(file)


def planned(file: Path) -> Any:
    job, store = load_job(file), Store(str(file.parent / "store"))
    values = {"kind": "import", "name": "rows", "source": {"type": "folder", "path": "./rows"}, "licence": "MIT"}
    (file.parent / "import.yaml").write_text(yaml.safe_dump(values | {"content": {"type": "dataset"}}))
    parents = {"data.dataset": run(load_job(file.parent / "import.yaml"), store)[0]}
    return plan.plan(job.spec, parents, file.parent)  # type: ignore[arg-type]


def test_the_plan_counts_the_judges_requests_and_tokens_and_asks_nothing(tmp_path: Path) -> None:
    budget = {"cost": 1, "price_per_million_input_tokens": 10.0, "price_per_million_output_tokens": 0.0}
    with chat_server(says) as server:
        sheet = planned(job_file(tmp_path, server, [GOOD, BAD, {"name": "asked"}], judge={"budget": budget}))
        facts = dict(sheet.facts)
        assert not server.times
    assert (facts["prompts"], facts["good"]) == ("20", "20 answers that are there already")
    assert facts["answers to write"] == "20 of up to 256 tokens"
    assert facts["judge's requests"] == "120 at most"
    assert "1,920 to write" in facts["judge's tokens"] and "of 1" in facts["judge's cost"]
    # The rubric has about 130 tokens, and two answers of up to 256 are to be read in each of 120 requests.
    read = int(facts["judge's tokens"].split()[1].replace(",", ""))
    assert 120 * (2 * 256 + 80) < read < 120 * (2 * 256 + 200)
    assert "[Answer A]" in str(sheet.examples[0]) and not sheet.problems
    (warning,) = sheet.warnings
    assert "judge: it is asked itself, and judges prefer their own answers" in warning


def test_a_plan_without_usable_prompts_says_so(tmp_path: Path) -> None:
    with chat_server(says) as server:
        file = job_file(tmp_path, server, [GOOD, BAD], data={"dataset": "./rows", "text": "question"})
        assert "There is no prompt" in planned(file).problems[0]


@pytest.mark.parametrize(
    ("said", "letter"),
    [("A", "A"), (" B.", "B"), ("C", "C"), ("A or B", None), ("", None), ("Good", None),
     ("I think A is long, so [[B]]", "B"), ("[[A]]... no, [[C]]", "C"), ("Better: A\nA", "A")],
)  # fmt: skip
def test_a_letter_is_the_marked_one_or_the_only_one(said: str, letter: str | None) -> None:
    assert letter_of(said) == letter


def test_a_win_does_not_hang_on_the_order() -> None:
    both: Callable[[str], str] = lambda letters: verdict_of(list(letters))  # noqa: E731
    assert [both("AB"), both("BA"), both("CC"), both("AA"), both("CA")] == [
        "first", "second", "tie", "undecided", "undecided",
    ]  # fmt: skip
    assert verdict_of(["A", None]) == "no_verdict"


@pytest.mark.parametrize(
    ("said", "points"),
    [("7", 7), ("8/10", 8), ("9 out of 10", 9), ("It has 3 faults, so 4.", 4), ("7.5", None), ("11", None),
     ("ten", None), ("10", 10), ("1,000", None)],
)  # fmt: skip
def test_points_are_the_last_whole_number_on_the_scale(said: str, points: int | None) -> None:
    assert points_of(said, 1, 10) == points
