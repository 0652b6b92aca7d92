"""The report's sections about a comparison: who wins, by how much, what the judge hangs on, and answers to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, table, text

NUM_SAMPLES = 3
MOST_CHARACTERS = 700


def sections(artifact: Artifact) -> list[Section]:
    """Wins, strengths, scores, bias, outcomes, and samples of each outcome."""
    numbers = artifact.manifest.metrics
    made = standings(numbers)
    if numbers.get("scores"):
        made.append(Section("Means by criterion", _scores(numbers["scores"])))
    if "outcomes" in numbers:
        made.append(Section("What became of the judge's requests", _outcomes(numbers)))
        made.append(Section("What else moves the judge", bias(numbers)))
    made.append(Section("Answers", _answers(numbers["models"])))
    return [*made, *_samples(artifact)]


def standings(numbers: Mapping[str, Any]) -> list[Section]:
    """Who wins how often, and the ranking if there is one; of a comparison or of people's ratings."""
    made = []
    if numbers.get("pairs"):
        rows = [
            (one["first"], one["second"], _share(one["wins"]), shares(one["interval"]), one["num_prompts"])
            for one in numbers["pairs"]
        ]
        header = ("model", "against", "wins, ties half", "95 % interval", "prompts")
        made.append(Section("Who wins", table(header, rows)))
    if numbers.get("ranking"):
        ranked = [(one["model"], one["strength"], *map(float, one["interval"])) for one in numbers["ranking"]]
        body = table(("model", "strength (Elo)", "from", "to"), ranked)
        made.append(Section("Strengths (Bradley–Terry)", body + _strengths(numbers["ranking"])))
    return made


def _strengths(ranking: Sequence[Mapping[str, Any]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.4 * len(ranking)))
    axes = figure.subplots()
    for place, one in enumerate(reversed(ranking)):
        axes.plot(one["interval"], (place, place), color="C0", linewidth=2)
        axes.plot(one["strength"], place, "o", color="C0")
    axes.set_yticks(range(len(ranking)), [one["model"] for one in reversed(ranking)])
    axes.set_xlabel("Elo; 95 % interval by bootstrap over prompts")
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.grid(axis="x", alpha=0.25)
    return chart(figure)


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    criteria = list(dict.fromkeys(name for of_model in scores.values() for name in of_model))
    rows = [
        (model, *(f"{of_model[c]['share']:.2f} ({_numbers(of_model[c]['interval'])})" for c in criteria))
        for model, of_model in scores.items()
        if set(criteria) == set(of_model)
    ]
    return table(("model", *criteria), rows)


def _outcomes(numbers: Mapping[str, Any]) -> str:
    rows = [(name, count) for name, count in numbers["outcomes"].items()]
    judge = (
        f"{numbers['judge']}: {numbers['judge_requests']:,} requests, {numbers['judge_prompt_tokens']:,} tokens read"
    )
    return text(f"{judge}, {numbers['judge_written_tokens']:,} written") + table(("outcome", "number"), rows)


def bias(numbers: Mapping[str, Any]) -> str:
    """A table of shares that are one half (or, of the same in both orders, one) for a judge without a bias."""
    position = numbers.get("position") or {}
    measured = (
        ("the answer that stands first is preferred", "50 %", position.get("first_place")),
        ("the same answer is preferred in both orders", "100 %", position.get("same_in_both_orders")),
        ("the longer of two answers wins", "50 %, if length says nothing", numbers.get("longer_wins")),
    )
    rows = [
        (what, without, _share(one["share"]), shares(one["interval"]), one["num_judged"])
        for what, without, one in measured
        if one and one["share"] is not None
    ]
    return table(("what", "without a bias", "share", "95 % interval", "of"), rows)


def _answers(models: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (name, one["answers"], float(one["mean_characters"]), one["cut_off"], sum(one["failed"].values()))
        for name, one in models.items()
    ]
    return table(("model", "answers", "characters on average", "cut off", "none"), rows)


def _samples(artifact: Artifact) -> Iterator[Section]:
    """A few prompts of each outcome with both answers; without a judge, the first prompts with all answers."""
    file = artifact.path / "judgements.jsonl"
    by_outcome: dict[str, list[dict[str, Any]]] = {}
    for one in read_json_lines(file) if file.exists() else ():
        shown = by_outcome.setdefault(one["outcome"], [])
        if len(shown) < NUM_SAMPLES:
            shown.append(one)
    wanted = {one["number"] for shown in by_outcome.values() for one in shown} or set(range(NUM_SAMPLES))
    answers = {
        line["number"]: line for line in read_json_lines(artifact.path / "answers.jsonl") if line["number"] in wanted
    }
    for outcome, shown in by_outcome.items():
        rows = [_sample(one, answers[one["number"]]["answers"]) for one in shown]
        yield Section(f"To read: {outcome}", table(("prompt", "answers", "the judge"), rows))
    if not by_outcome:
        plain = [(line["prompt"], _texts(line["answers"], list(line["answers"]))) for line in answers.values()]
        yield Section("To read", table(("prompt", "answers"), plain))


def _sample(one: Mapping[str, Any], answers: Mapping[str, str]) -> tuple[str, str, str]:
    names = [one["model"]] if "model" in one else [one["first"], one["second"]]
    said = one.get("said", "")
    replies = said if isinstance(said, str) else " / ".join(said)
    about = f"{one['criterion']}: " if "criterion" in one else ""
    return one["prompt"][:MOST_CHARACTERS], _texts(answers, names), f"{about}{replies}"[:MOST_CHARACTERS]


def _texts(answers: Mapping[str, str], names: Sequence[str]) -> str:
    return "\n".join(f"[{name}] {answers.get(name, '(none)')[:MOST_CHARACTERS]}" for name in names)


def _share(value: float) -> str:
    return f"{value:.1%}"


def shares(interval: Sequence[float]) -> str:
    """An interval of shares in words."""
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _numbers(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
