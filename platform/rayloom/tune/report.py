"""The report's sections about a search."""

from __future__ import annotations

from collections.abc import Sequence

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, table, text
from rayloom.specs.tune import TuneSpec
from rayloom.tune.reporting.charts import importance_bars, learning_curves, parallel_coordinates, pareto_front
from rayloom.tune.results import BEST_JOB_NAME, read_trials, shown
from rayloom.tune.strategies.history import Trial
from rayloom.tune.strategies.optuna_study import MIN_TRIALS_FOR_IMPORTANCE, importances
from rayloom.tune.strategies.ranking import best, front, ranked


def sections(artifact: Artifact) -> list[Section]:
    """Best trial, learning curves, parallel coordinates, importance, Pareto front, all trials, and the best job."""
    spec = TuneSpec.model_validate(artifact.manifest.spec)
    trials = read_trials(artifact)
    winner = best(spec, trials)
    if winner is None:
        return []
    made = [Section("Best trial", _best_table(winner))]
    if not spec.is_measured_once:
        made.append(Section("Learning curves", chart(learning_curves(spec.objectives[0], trials, winner))))
    made.append(Section("Values and result", chart(parallel_coordinates(spec, trials, winner))))
    step = comparable_step(trials)
    shares = importances(spec, trials, step) if step is not None else {}
    if shares:
        count = sum(trial.step >= (step or 0) for trial in trials)
        title = f"What mattered: {spec.objectives[0].metric} at step {step} of {count} trials"
        made.append(Section(title, chart(importance_bars(shares))))
    if len(spec.objectives) == 2:
        best_of_both = front(spec, trials)
        title = f"{spec.objectives[0].metric} against {spec.objectives[1].metric}"
        made.append(Section(title, chart(pareto_front(spec.objectives, trials, best_of_both))))
    made.append(Section(f"Trials ({len(trials)})", _trials_table(spec, trials)))
    made.append(Section("Job to rerun", text((artifact.path / BEST_JOB_NAME).read_text(encoding="utf-8"))))
    return made


def comparable_step(trials: Sequence[Trial]) -> int | None:
    """The largest step that at least half of the trials, and at least MIN_TRIALS_FOR_IMPORTANCE, reached."""
    steps = sorted({step for trial in trials for step, _ in trial.reports}, reverse=True)
    enough = max(MIN_TRIALS_FOR_IMPORTANCE, (len(trials) + 1) // 2)
    return next((step for step in steps if sum(trial.step >= step for trial in trials) >= enough), None)


def _best_table(winner: Trial) -> str:
    rows: list[tuple[str, object]] = [("trial", winner.number)]
    rows += [(path, shown(value)) for path, value in winner.values.items()]
    rows += [(name, _number(value)) for name, value in winner.metrics.items()]
    rows.append(("steps", winner.step))
    if winner.outcome != "finished":
        rows.append(("ended", winner.reason))
    return table(("", ""), rows)


def _trials_table(spec: TuneSpec, trials: Sequence[Trial]) -> str:
    metrics = [objective.metric for objective in spec.objectives]
    header = ("trial", *metrics, *_short_names(list(spec.space)), "steps", "seconds", "end")
    rows = [
        (
            trial.number,
            *(_number(trial.metrics[metric]) if metric in trial.metrics else "" for metric in metrics),
            *(shown(trial.values[path]) for path in spec.space),
            trial.step,
            round(trial.busy_seconds, 1),
            _end(trial),
        )
        for trial in ranked(spec, trials)
    ]
    return table(header, rows)


def _number(value: float) -> float | int:
    """The value, as an int if it is whole."""
    return int(value) if value.is_integer() else value


def _end(trial: Trial) -> str:
    outcome = (trial.outcome or "").replace("_", " ") + (f": {trial.reason}" if trial.outcome != "finished" else "")
    return f"{outcome} (died {trial.crashes}×)" if trial.crashes else outcome


def _short_names(paths: list[str]) -> list[str]:
    """The last part of each path (`rank` for `adapter.rank`), or the whole path if another has the same last part."""
    ends = [path.rpartition(".")[2] for path in paths]
    return [end if ends.count(end) == 1 else path for end, path in zip(ends, paths, strict=True)]
