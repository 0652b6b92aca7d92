"""The check of a reward model: the share of held-out pairs, or steps, that it judges as people did; its calibration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Measured
from rayloom.evaluate.checks.scored import ScoreCheck
from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress
from rayloom.score.class_scores import of_ratio
from rayloom.score.reward_loss import answers_of, calibration_error
from rayloom.specs.evaluate import PairsCheck
from rayloom.text.conversations.preference_rows import GOOD_NAME, PreferenceRows
from rayloom.text.conversations.step_rows import NO_TARGET, STEPS_NAME, StepRows


class PairAccuracy(ScoreCheck[PairsCheck]):
    """Pair accuracy with its interval, calibration, and beside it how often the longer answer is the better one."""

    further = ("log_loss", "calibration_error", "right_share", "longer_is_better", "mean_reward", "reward_deviation")

    def ready(self, case: Case[PairsCheck]) -> None:
        scorer = AnswerScorer.of(case.subject)
        if self._rows(case, scorer).tokenizer_digest != scorer.tokenizer_digest:
            what = f"The held-out pairs of {case.rows.id} were made with another tokenizer than the model's"
            raise InputError(what, where="rows_of", fix="Name the reward model's own training.")

    def plan(self, case: Case[PairsCheck], sheet: PlanSheet) -> None:
        sheet.add(
            case.spec.name, f"{len(self._rows(case, AnswerScorer.of(case.subject))):,} held-out pairs of {case.rows.id}"
        )

    def measure(self, case: Case[PairsCheck]) -> Measured:
        scorer = AnswerScorer.of(case.subject)
        rows = self._rows(case, scorer)
        if isinstance(rows, StepRows):
            return self._of_steps(case, scorer, rows)
        answers = [tokens for number in range(len(rows)) for tokens in answers_of(rows.row(number))]
        with progress(f"{case.spec.name}: {case.subject.artifact_id}", len(answers), "answers") as bar:
            rewards = np.asarray(scorer.rewards(answers, case.micro_batch_sequences, bar.advance)).reshape(-1, 2)
        leads = rewards[:, 0] - rewards[:, 1]
        parts = [(float(lead > 0), 1.0) for lead in leads]
        lengths = np.asarray([len(tokens) for tokens in answers]).reshape(-1, 2)
        metrics: dict[str, Any] = {
            "score_name": "pair accuracy",
            "score": round(float((leads > 0).mean()), 6),
            "interval": of_ratio(parts).as_metrics(),
            "log_loss": round(float(np.logaddexp(0, -leads).mean()), 6),
            "calibration_error": round(calibration_error(leads), 6),
            "longer_is_better": round(float((lengths[:, 0] > lengths[:, 1]).mean()), 6),
            "mean_reward": round(float(rewards.mean()), 6),
            "reward_deviation": round(float(rewards.std()), 6),
            "num_rows": len(rows),
        }
        return Measured(metrics, [], parts)

    def _of_steps(self, case: Case[PairsCheck], scorer: AnswerScorer, rows: StepRows) -> Measured:
        read = [rows.row(number) for number in range(len(rows))]
        ends = [np.flatnonzero(row.targets != NO_TARGET) for row in read]
        asked = [(row, places.tolist()) for row, places in zip(read, ends, strict=True)]
        with progress(f"{case.spec.name}: {case.subject.artifact_id}", len(read), "answers") as bar:
            found = scorer.step_probabilities(asked, case.micro_batch_sequences, bar.advance)
        sure = np.clip(np.concatenate([np.asarray(steps) for steps in found]), 1e-7, 1 - 1e-7)
        right = np.concatenate([row.targets[places] for row, places in zip(read, ends, strict=True)]) == 1
        # A row's steps stand or fall together: intervals are over rows.
        counts = np.cumsum([0, *map(len, ends)])
        hits = (sure > 0.5) == right
        parts = [(float(hits[a:b].sum()), float(b - a)) for a, b in itertools.pairwise(counts.tolist())]
        logits = np.log(sure / (1 - sure))
        metrics: dict[str, Any] = {
            "score_name": "step accuracy",
            "score": round(float(hits.mean()), 6),
            "interval": of_ratio(parts).as_metrics(),
            "log_loss": round(float(np.logaddexp(0, np.where(right, -logits, logits)).mean()), 6),
            "calibration_error": round(calibration_error(np.where(right, logits, -logits)), 6),
            "right_share": round(float(right.mean()), 6),
            "num_rows": len(rows),
        }
        return Measured(metrics, [], parts)

    def _rows(self, case: Case[PairsCheck], scorer: AnswerScorer) -> PreferenceRows | StepRows:
        folder = case.rows.path / "heldout"
        if (folder / STEPS_NAME).exists() and scorer.step_separator is not None:
            return StepRows(folder)
        if not (folder / GOOD_NAME).exists():
            what = f"{case.rows.id} keeps no held-out pairs or steps for this model"
            raise InputError(what, where="rows_of", fix="Name the result of a `train` job with task reward.")
        return PreferenceRows(folder, scorer.sequence_length_tokens)
