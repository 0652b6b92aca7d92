"""The report's sections on a policy's answers: rewards by step, how they were made, samples to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.observe.report_page import Section, chart, table

MOST_SAMPLED_STEPS = 20


def rollout_sections(metrics: Mapping[str, Any], events: Sequence[dict[str, Any]]) -> list[Section]:
    """`metrics`: the artifact's; `events`: the run's log."""
    rounds, steps, heldout = (
        [event for event in events if event["event"] == kind] for kind in ("rollout", "step", "heldout")
    )
    return [
        Section("Held-out rewards", table(("rows", "reward", "before", "after"), _heldout(metrics))),
        Section("Reward by step", _curves(rounds, heldout)),
        Section("How answers were made", table(("", "first", "last", "mean"), _figures(rounds, steps))),
        Section("Best and worst answers", table(("step", "", "reward", "tokens", "answer"), _samples(rounds))),
    ]


def _heldout(metrics: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Of the likeliest answers to prompts that were held out: the sum of the rewards, and each of them."""
    rows: list[tuple[object, ...]] = []
    for name, found in metrics["heldout"].items():
        before, after = found["before"], found["after"]
        rows.append((name, "all parts", before["score"], after["score"]))
        rows += [(name, part, before["parts"][part], after["parts"][part]) for part in before["parts"]]
    return rows


def _curves(rounds: Sequence[dict[str, Any]], heldout: Sequence[dict[str, Any]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    numbers = [event["step"] for event in rounds]
    axes.plot(numbers, [event["reward"] for event in rounds], label="reward, all parts", linewidth=2)
    for name in rounds[0]["parts"]:
        axes.plot(numbers, [event["parts"].get(name) for event in rounds], label=name, linewidth=0.8)
    for name in dict.fromkeys(event["name"] for event in heldout):
        own = [event for event in heldout if event["name"] == name]
        axes.plot([e["step"] for e in own], [e["score"] for e in own], "o-", markersize=4, label=f"{name}, all parts")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return chart(figure)


def _figures(rounds: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    of_rounds = (
        "reward", "same_reward_share", "same_answer_share", "answer_tokens", "turns", "retokenised_share",
        "cut_share", "unjudged_share", "environment_seconds",
        "replaced_prompts", "written_tokens_per_second", "writing_seconds", "judging_seconds", "handover_seconds",
    )  # fmt: skip
    of_steps = ("entropy", "kl", "clipped", "mismatch", "mismatch_p99", "seconds", "data_wait_seconds")
    for events, names in ((rounds, of_rounds), (steps, of_steps)):
        for name in names:
            values = [event[name] for event in events if event.get(name) is not None]
            if values:
                shown = (values[0], values[-1], sum(values) / len(values))
                rows.append((name.replace("_", " "), *(f"{value:.4g}" for value in shown)))
    return rows


def _samples(rounds: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    every = max(1, len(rounds) // MOST_SAMPLED_STEPS)
    return [
        (event["step"], which, sample["reward"], sample["tokens"], sample["answer"])
        for event in [*rounds[::every], *rounds[-1:]]
        for which, sample in event["samples"].items()
    ]
