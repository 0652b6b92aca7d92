"""What the checks share that give a score between 0 and 1 over many texts, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from rayloom.evaluate.checks.check import Check, Limit, Measured
from rayloom.observe.report_page import Section, table
from rayloom.specs.evaluate import HarnessCheck, PairsCheck, PromptedCheck, TaskCheck, WrittenCheck

S = TypeVar("S", bound=TaskCheck | HarnessCheck | WrittenCheck | PairsCheck | PromptedCheck)

MOST_TEXTS_SHOWN = 50
TEXT_CHARACTERS = 400


class ScoreCheck(Check[S]):
    """A check whose metrics have `score`, `score_name`, `interval` and `num_rows`."""

    further: ClassVar[tuple[str, ...]] = ()
    """Other metrics that the report shows beside the score, where the model has them."""

    def limits(self, spec: S, by_role: Mapping[str, Measured]) -> list[Limit]:
        if spec.min_score is None:
            return []
        metrics = by_role["model"].metrics
        score, name = metrics["score"], metrics["score_name"]
        sentence = f"{spec.name}: {name} {score:.4f} on {metrics['num_rows']} texts"
        return [Limit(spec.name, "min_score", spec.min_score, score, score >= spec.min_score, sentence)]

    def shown(self, metrics: Mapping[str, Any]) -> str:
        low, high = metrics["interval"]
        return f"{metrics['score_name']} {metrics['score']:.4f} ({low:.4f} to {high:.4f})"

    def short(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['score_name']} {metrics['score']:.3f}"

    def figure(self, metrics: Mapping[str, Any]) -> tuple[str, float]:
        return metrics["score_name"], metrics["score"]

    def scores(self, metrics: Mapping[str, Any]) -> list[tuple[str, float, str]]:
        """Rows of the report's table of scores: name, value, interval."""
        further = [key for key in self.further if key in metrics and key != metrics["score_name"]]
        return [
            (metrics["score_name"], float(metrics["score"]), interval(metrics["interval"])),
            *((key.replace("_", " "), float(metrics[key]), "") for key in further),
        ]

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
        rows = self.scores(metrics)
        if better:
            difference = float(better["difference"])
            rows.append(("better than the baseline by", difference, interval(better["difference_interval"])))
        return [Section(title, table(("score", "value", "95 % interval"), rows))]


def interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def wrong_texts(predictions: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The first texts that were answered wrongly."""
    wrong = [row for row in predictions if not row["is_right"]]
    if not wrong:
        return []
    rows = [
        (
            row["check"],
            row["role"],
            row["origin"],
            " | ".join(part[:TEXT_CHARACTERS] for part in (row.get("pair"), row["text"]) if part),
            ", ".join(row["expected"]) or "nothing",
            ", ".join(row["found"]) or "nothing",
        )
        for row in wrong[:MOST_TEXTS_SHOWN]
    ]
    title = f"Wrong answers: {len(wrong):,} of {len(predictions):,}"
    return [Section(title, table(("check", "by", "row", "text", "expected", "found"), rows))]
