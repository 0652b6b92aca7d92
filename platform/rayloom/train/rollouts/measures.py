"""What is shown of a policy's answers: rewards, lengths, agreement, speed, samples, signs that something is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayloom.specs.train import TrainSpec
from rayloom.specs.training.policies import Policy
from rayloom.train.loop.heldout_loss import HeldoutMeasure
from rayloom.train.objectives.advantages import teaches
from rayloom.train.rollouts.answers import PolicyAnswer, Round, rewards_of, shown

MOST_UNJUDGED = 0.2
"""Share of a round's answers that rewards may fail to judge. They are not trained on; with more the training stops."""
MOST_CHARACTERS = 600


def measures_of(found: Round, spec: TrainSpec) -> dict[str, Any]:
    """The event `rollout`: plain numbers by name, `parts` by reward, and the best and the worst answer as `samples`."""
    answers, policy = found.answers, spec.policy
    assert policy is not None
    rewards = rewards_of(answers, policy.group_size)
    lengths = np.asarray([answer.num_written for answer in answers])
    num_turns = np.asarray([1 + sum(turn["role"] == "assistant" for turn in answer.turns) for answer in answers])
    writing = found.facts.get("writing_seconds", 0.0)
    judged = [answer for answer in answers if answer.reward is not None]
    ordered = sorted(judged, key=lambda answer: answer.reward or 0.0)
    chosen = {"best": ordered[-1], "worst": ordered[0]} if ordered else {}
    return {
        "reward": _mean([answer.reward for answer in answers]),
        "parts": _parts(answers),
        "reward_deviation": float(np.nanmean(np.nanstd(rewards, axis=1))) if len(judged) else None,
        "same_reward_share": float(np.mean(~teaches(np.nan_to_num(rewards)))),
        "same_answer_share": max(Counter(answer.text for answer in answers).values()) / len(answers),
        "answer_tokens": float(lengths.mean()),
        "longest_answer_tokens": int(lengths.max()),
        "turns": float(num_turns.mean()),
        "retokenised_share": sum(answer.num_retokenised for answer in answers) / int(num_turns.sum()),
        "cut_share": sum(answer.is_cut for answer in answers) / len(answers),
        "unjudged_share": 1 - len(judged) / len(answers),
        "problems": dict(Counter(problem for answer in answers for problem in answer.problems).most_common(5)),
        "answers": len(answers),
        "written_tokens": int(lengths.sum()),
        "written_tokens_per_second": round(float(lengths.sum()) / writing, 1) if writing else None,
        **{name: round(value, 5) for name, value in found.facts.items()},
        "samples": {name: _cut(shown(answer)) for name, answer in chosen.items()},
    }


def token_measures(seen: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over a step's answer tokens, and the 99th percentile of the mismatch. `seen`: see `seen_of`."""
    if not seen:
        return {}
    whole = {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}
    found = {name: float(values.mean()) for name, values in whole.items()}
    return found | {"mismatch_p99": float(np.percentile(whole["mismatch"], 99))}


def plain(seen: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tensors as arrays, which travel between workers."""
    return [{name: tensor.cpu().numpy() for name, tensor in part.items()} for part in seen]


def heldout_measure(answers: Sequence[PolicyAnswer]) -> HeldoutMeasure:
    """The mean reward of the likeliest answers as a score; the loss is what is left to 1."""
    score = _mean([answer.reward for answer in answers]) or 0.0
    return HeldoutMeasure(1 - score, len(answers), score=score, parts=_parts(answers))


def hopeless(answers: Sequence[PolicyAnswer], policy: Policy, is_first: bool) -> tuple[str, str] | None:
    """Why nothing can be learned from a round, and what to do; None if something can."""
    unjudged = [answer for answer in answers if answer.reward is None]
    if len(unjudged) > MOST_UNJUDGED * len(answers):
        problems = Counter(problem for answer in unjudged for problem in answer.problems).most_common(3)
        named = "; ".join(f"{problem} ({count} times)" for problem, count in problems)
        what = f"{len(unjudged)} of {len(answers)} answers could not be judged: {named}"
        return what, "Correct the reward or its rows."
    if all(answer.is_cut for answer in answers) and policy.cut_answers != "judged":
        what = f"All {len(answers)} answers were cut off at rollouts.max_answer_tokens"
        return what, "Raise it, ask for shorter answers in data.system, or set policy.cut_answers: judged."
    rewards = {round(answer.reward or 0.0, 9) for answer in answers}
    if is_first and len(rewards) == 1:
        what = f"All {len(answers)} answers of the base got the same reward ({rewards.pop():g}); none is better"
        return what, "Give a reward that the base sometimes earns, easier prompts, or a higher rollouts.temperature."
    return None


def _parts(answers: Sequence[PolicyAnswer]) -> dict[str, float | None]:
    return {name: _mean([answer.parts[name] for answer in answers]) for name in answers[0].parts}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cut(sample: dict[str, Any]) -> dict[str, Any]:
    return sample | {"answer": sample["answer"][:MOST_CHARACTERS]}
