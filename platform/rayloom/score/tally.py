"""Scores of a task's predictions from counts, which can be summed over batches and workers.

The score is 2 · right / (given + wanted): accuracy for one label, micro F1 for several, entity F1 for tags (both ends
and the kind must match), mean token F1 for answers. Each window of a long text counts as a text.

Shapes: B rows, S positions, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from rayloom.score.batches import NO_LABEL
from rayloom.score.task_batches import Target


@dataclass(frozen=True)
class AnswerTally:
    """Counts of right, given (predicted) and wanted (expected) items."""

    hits: float = 0.0
    """Labels predicted correctly, counting each tag, and each end of an answer, by itself."""
    right: float = 0.0
    given: float = 0.0
    wanted: float = 0.0

    @property
    def values(self) -> tuple[float, ...]:
        return astuple(self)

    @property
    def score(self) -> float:
        """0 to 1; 1 if nothing was wanted and nothing given."""
        return 2 * self.right / (self.given + self.wanted) if self.given + self.wanted else 1.0

    def __add__(self, other: AnswerTally) -> AnswerTally:
        return AnswerTally(*(one + another for one, another in zip(self.values, other.values, strict=True)))


def tally_of(logits: Tensor, targets: Tensor, target: Target) -> AnswerTally:
    """Counts of one batch, without targets that are NO_LABEL. `logits`: those of `score.task_loss.task_logits`."""
    asked = targets != NO_LABEL
    predicted = (logits > 0).long() if target == "labels" else logits.argmax(-1)
    hits = float(((predicted == targets) & asked).sum())
    if target == "label":
        return AnswerTally(hits, hits, float(asked.sum()), float(asked.sum()))
    if target == "labels":
        given, wanted = (predicted == 1) & asked, (targets == 1) & asked
        return AnswerTally(hits, float((given & wanted).sum()), float(given.sum()), float(wanted.sum()))
    rows = zip(predicted.tolist(), targets.tolist(), asked.tolist(), strict=True)
    if target == "answer":
        overlaps = [_overlap(got, want) for got, want, is_asked in rows if all(is_asked)]
        return AnswerTally(hits, sum(overlaps), len(overlaps), len(overlaps))
    pairs = [(_entities(_only(got, is_asked)), _entities(_only(want, is_asked))) for got, want, is_asked in rows]
    right = sum(len(got & want) for got, want in pairs)
    return AnswerTally(hits, right, sum(len(got) for got, _ in pairs), sum(len(want) for _, want in pairs))


def _only(tags: Sequence[int], is_asked: Sequence[bool]) -> list[int]:
    return [tag for tag, asked in zip(tags, is_asked, strict=True) if asked]


def _entities(tags: Sequence[int]) -> set[tuple[int, int, int]]:
    """(first position, last position, kind) of each entity. Tags are O, B, I, B, I, … (TokenClassification.labels).

    An I after O, or after another kind, begins an entity, as in `text.tags`.
    """
    entities: list[tuple[int, int, int]] = []
    before = 0
    for position, tag in enumerate(tags):
        kind = (tag - 1) // 2
        if tag and tag % 2 == 0 and before and (before - 1) // 2 == kind:
            entities[-1] = (entities[-1][0], position, kind)
        elif tag:
            entities.append((position, position, kind))
        before = tag
    return set(entities)


def _overlap(got: Sequence[int], want: Sequence[int]) -> float:
    """Token F1 of two answers, each (first, last) position. (0, 0), which means no answer, needs no special case."""
    common = min(got[1], want[1]) - max(got[0], want[0]) + 1
    lengths = got[1] - got[0] + want[1] - want[0] + 2
    return 2 * common / lengths if common > 0 and got[1] >= got[0] else 0.0
