"""The result of a rating: every judgement, wins, agreement, the precision of rules, and rows to train on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rayloom.artifacts.build import Build
from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.manifest import Outcome
from rayloom.generate.comparing.pairwise import Duel, agreement, share_over_prompts, summary, wilson
from rayloom.specs.base import JobSpec
from rayloom.ui.rating.items import KEPT, RatedItem
from rayloom.ui.rating.journal import RaterJudgement

STAGE_VERSION = 2
_VALUES = {"first": 1.0, "second": 0.0}


class RatingSpec(JobSpec):
    """What was rated, and how; part of the artifact."""

    kind: Literal["rate"] = "rate"
    artifacts: tuple[str, ...]
    file: str
    seed: int
    each: int
    judgements_digest: str
    """SHA-256 of the judgements, so that more of them make another result."""


def publish(items: Sequence[RatedItem], judgements: Sequence[RaterJudgement], build: Build) -> Outcome:
    """Writes the files of the artifact."""
    known = {item.id: item for item in items}
    judged = [one for one in judgements if one.item in known]
    lines = [asdict(one) | {"meant": one.meant} | _about(known[one.item]) for one in judged]
    write_durably(build.directory / "judgements.jsonl", _lines(lines))
    if items[0].models:
        pairs = _preferences(known, judged)
        write_durably(build.directory / "pairs.jsonl", _lines(pairs))
        metrics = summary_of_pairs(known, judged) | {"num_pairs_to_train_on": len(pairs)}
        headline = _headline(metrics)
    else:
        for choice, rows in _by_majority(known, judged).items():
            write_durably(build.directory / f"{choice}.jsonl", _lines(rows))
        metrics = summary_of_rows(known, judged, build.parents["artifacts.0"].manifest.metrics)
        headline = f"{metrics['right_share']:.1%} of {metrics['num_judged']} rows right"
    metrics["agreement"] = agreement(_by_rater(judged))
    return Outcome("dataset", metrics=metrics, headline=headline)


def _about(item: RatedItem) -> dict[str, Any]:
    of_pair = {"first": item.models[0], "second": item.models[1], "judged": item.judged} if item.models else {}
    return {"prompt": item.prompt, "answers": list(item.answers), **of_pair, "reason": item.reason}


def summary_of_pairs(known: Mapping[str, RatedItem], judged: Sequence[RaterJudgement]) -> dict[str, Any]:
    """How often each model wins, a tie counting half; agreement with the judge; order and length."""
    duels, longer, left = [], [], []
    for one in judged:
        item, value = known[one.item], _VALUES.get(one.meant, 0.5)
        duels.append(Duel(item.prompt, item.models[0], item.models[1], value))
        if one.choice != "tie":
            left.append((item.prompt, one.choice == "left"))
        lengths = [len(answer) for answer in item.answers]
        if value != 0.5 and lengths[0] != lengths[1]:
            longer.append((item.prompt, (value > 0.5) == (lengths[0] > lengths[1])))
    names = list(dict.fromkeys(name for item in known.values() for name in item.models))
    people = {name: str(count.most_common(1)[0][0]) for name, count in _votes(judged).items() if _is_clear(count)}
    of_judge = {item.id: item.judged for item in known.values() if item.judged}
    found = agreement({"judge": of_judge, "people": people}) if of_judge else {}
    return {
        **summary(names, duels),
        "choices": dict(Counter(one.meant for one in judged)),
        "left": share_over_prompts(left),
        "longer_wins": share_over_prompts(longer),
        "judge_and_people": found.get("judge and people"),
        "num_items": len({one.item for one in judged}),
        "num_judgements": len(judged),
    }


def _headline(metrics: Mapping[str, Any]) -> str:
    if metrics.get("ranking"):
        said = ", ".join(f"{one['model']} {one['strength']:+.0f}" for one in metrics["ranking"])
        said += f" (Elo, of {metrics['num_items']} pairs)"
    else:
        pair = metrics["pairs"][0]
        low, high = pair["interval"]
        said = f"{pair['first']} wins {pair['wins']:.1%} ({low:.1%} to {high:.1%}) of {metrics['num_items']} "
        said += f"against {pair['second']}"
    agreed = metrics["judge_and_people"]
    return said + (f"; judge and people κ {agreed['kappa']:.2f}" if agreed else "")


def summary_of_rows(
    known: Mapping[str, RatedItem], judged: Sequence[RaterJudgement], cleaning: Mapping[str, Any]
) -> dict[str, Any]:
    """The share of right rows, and of each rule its precision with an interval; unsure ones do not count.

    `cleaning`: the metrics of what was rated. Where they say how many rows each rule dropped, `wrong_rows` is how many
    of these are likely wrong, with the interval.
    """
    clear = [one for one in judged if one.choice in ("right", "wrong")]
    dropped = {**cleaning.get("dropped", {}), KEPT: cleaning.get("documents_kept")}
    reasons = dict.fromkeys(known[one.item].reason for one in clear)
    return {
        "right_share": sum(one.choice == "right" for one in clear) / len(clear) if clear else 0.0,
        "num_judged": len(judged),
        "num_unsure": len(judged) - len(clear),
        "choices": dict(Counter(one.meant for one in judged)),
        "precision": {
            reason or "all": _precision([one for one in clear if known[one.item].reason == reason], dropped.get(reason))
            for reason in reasons
        },
    }


def _precision(judged: Sequence[RaterJudgement], num_rows: int | None) -> dict[str, Any]:
    right, total = sum(one.choice == "right" for one in judged), len(judged)
    low, high = wilson(right, total)
    found: dict[str, Any] = {"precision": right / total, "low": low, "high": high, "num_judged": total}
    if num_rows is not None:
        wrong = [round(num_rows * (1 - share)) for share in (right / total, high, low)]
        found |= {"num_rows": num_rows, "wrong_rows": wrong[0], "wrong_rows_interval": wrong[1:]}
    return found


def _by_rater(judged: Sequence[RaterJudgement]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in judged:
        found.setdefault(one.rater, {})[one.item] = one.meant
    return found


def _votes(judged: Sequence[RaterJudgement]) -> dict[str, Counter[str]]:
    """What was said about each item, how often."""
    votes: dict[str, Counter[str]] = {}
    for one in judged:
        votes.setdefault(one.item, Counter())[one.meant] += 1
    return votes


def _is_clear(count: Counter[str]) -> bool:
    """Whether one choice was made more often than any other."""
    most = [number for _, number in count.most_common(2)]
    return len(most) == 1 or most[0] > most[1]


def _by_majority(known: Mapping[str, RatedItem], judged: Sequence[RaterJudgement]) -> dict[str, list[dict[str, Any]]]:
    """The rows themselves that most called right, and those that most called wrong."""
    found: dict[str, list[dict[str, Any]]] = {"right": [], "wrong": []}
    for id_, count in _votes(judged).items():
        choice = count.most_common(1)[0][0]
        if _is_clear(count) and choice in found:
            found[choice].append(dict(known[id_].row))
    return found


def _preferences(known: Mapping[str, RatedItem], judged: Sequence[RaterJudgement]) -> list[dict[str, Any]]:
    """A row for each item with a majority, in the form `prompt_chosen_rejected` of training."""
    rows = []
    for id_, count in _votes(judged).items():
        margin, item = count["first"] - count["second"], known[id_]
        if margin:
            chosen, rejected = item.answers if margin > 0 else item.answers[::-1]
            rows.append({"prompt": item.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON's own way of writing half a surrogate pair
