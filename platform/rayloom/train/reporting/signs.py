"""Signs of a policy that earns its reward without doing what was meant, from the events of its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WINDOW = 10
"""Steps that the newest ones are compared with and averaged over."""
COLLAPSED_ENTROPY = 0.1
"""Share of the first steps' entropy under which answers are near to always the same."""
EXPLODED_LENGTH = 2.0
ONE_ANSWER_SHARE = 0.5
FALLEN_SCORE = 0.05


class Signs:
    """Names each sign once: reward rises while held-out score or entropy collapses, lengths explode, one answer for all
    prompts (Skalse et al. 2022; Gao et al. 2023, on what optimising a proxy does)."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}
        self._named: set[str] = set()

    def of(self, event: Mapping[str, Any]) -> Iterator[str]:
        """A sentence for each new sign that this event brings."""
        named = {"rollout": ("reward", "answer_tokens", "same_answer_share"), "step": ("entropy",)}
        named["heldout"] = ("score",)
        for name in named.get(event["event"], ()):
            if event.get(name) is not None:
                self._seen.setdefault(name, []).append(float(event[name]))
        for sign, text in self._signs():
            if sign not in self._named:
                self._named.add(sign)
                yield f"this may be reward hacking: {text}; read the samples in the report"

    def _signs(self) -> Iterator[tuple[str, str]]:
        scores = self._seen.get("score", [])
        if len(self._seen.get("same_answer_share", [])) > WINDOW:
            share = self._mean("same_answer_share", last=True)
            if share > ONE_ANSWER_SHARE:
                yield "one_answer", f"{share:.0%} of the answers to different prompts are the same"
        if len(self._seen.get("reward", [])) < 2 * WINDOW or not self._rises():
            return
        if len(scores) > 2 and scores[-1] < max(scores) - max(FALLEN_SCORE, 0.1 * abs(max(scores))):
            yield "score", f"the reward rises while the held-out score fell from {max(scores):.3f} to {scores[-1]:.3f}"
        if self._seen.get("entropy"):
            first, now = self._mean("entropy"), self._mean("entropy", last=True)
            if now < COLLAPSED_ENTROPY * first and len(scores) > 2 and scores[-1] <= scores[-2]:
                yield "entropy", f"the reward rises while the entropy fell from {first:.3g} to {now:.3g} nats"
        first, now = self._mean("answer_tokens"), self._mean("answer_tokens", last=True)
        if now > EXPLODED_LENGTH * first:
            yield "length", f"the reward rises while answers grew from {first:.0f} to {now:.0f} tokens"

    def _rises(self) -> bool:
        return self._mean("reward", last=True) > self._mean("reward")

    def _mean(self, name: str, last: bool = False) -> float:
        values = self._seen[name][-WINDOW:] if last else self._seen[name][:WINDOW]
        return sum(values) / len(values)
