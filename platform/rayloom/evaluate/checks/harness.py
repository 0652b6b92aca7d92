"""Tasks of EleutherAI's lm-evaluation-harness as a check, where its package is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Measured, check_goes_on_with_text
from rayloom.evaluate.checks.scored import ScoreCheck, wrong_texts
from rayloom.models.responders.subject import Subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import say
from rayloom.observe.report_page import Section, table
from rayloom.score.class_scores import Part, of_ratio, ratio
from rayloom.specs.evaluate import HarnessCheck

PACKAGE = "lm-eval==0.4.13"
API_PACKAGES = ("aiohttp", "requests", "tenacity", "tqdm")
"""What the harness needs to ask a server."""
TEXT_CHARACTERS = 2000


def check_harness_ready(check: HarnessCheck) -> None:
    """Raises InputError where the harness is not installed."""
    packages = ("lm_eval",) if check.endpoint is None else ("lm_eval", *API_PACKAGES)
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = "[api]" if check.endpoint is not None else ""
        what = f"The check {check.name} needs {' and '.join(missing)}, which is not installed here"
        fix = (
            f"pip install 'lm-eval{extra}{PACKAGE.removeprefix('lm-eval')}'; what it reads must be on this machine too."
        )
        raise InputError(what, where=f"checks {check.name}", fix=fix)


class HarnessScore(ScoreCheck[HarnessCheck]):
    """The mean over the documents of all tasks of each task's first measure."""

    texts = staticmethod(wrong_texts)

    def ready(self, case: Case[HarnessCheck]) -> None:
        check_goes_on_with_text(case.spec.name, case.subject)
        check_harness_ready(case.spec)

    def plan(self, case: Case[HarnessCheck], sheet: PlanSheet) -> None:
        sheet.add(case.spec.name, f"the harness' {', '.join(case.spec.tasks)}")

    def measure(self, case: Case[HarnessCheck]) -> Measured:
        spec, subject = case.spec, case.subject
        task_files = case.rows_of.path if case.rows_of else None
        evaluator = importlib.import_module("lm_eval.evaluator")
        managers = importlib.import_module("lm_eval.tasks")
        say(f"{spec.name}: {subject.artifact_id}, {', '.join(spec.tasks)}")
        # Task files name their data by paths that the harness takes from the folder that the process is in.
        with contextlib.chdir(task_files or Path.cwd()):
            try:
                manager = managers.TaskManager(include_path=None if task_files is None else str(task_files))
                manager.load(list(spec.tasks))
            except (KeyError, ValueError, OSError) as error:
                first_line = (str(error).splitlines() or [type(error).__name__])[0]
                what = f"A task of {', '.join(spec.tasks)} cannot be read: {first_line}"
                fix = "`lm-eval ls tasks` shows the names; data must be on this machine, or in task_files."
                raise InputError(what, where=f"checks {spec.name}", fix=fix) from error
            results = evaluator.simple_evaluate(
                **_model(spec, subject, case.micro_batch_sequences),
                tasks=list(spec.tasks),
                task_manager=manager,
                num_fewshot=spec.num_fewshot,
                limit=spec.limit_rows,
                apply_chat_template=spec.chat_template,
            )
        return as_measured(spec.name, results)

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
        rows = [(task, name, value) for task, scores in metrics["tasks"].items() for name, value in scores.items()]
        by_task = Section(f"{title}, by task", table(("task", "measure", "value"), rows))
        return [*super().sections(title, metrics, better), by_task]


def _model(check: HarnessCheck, subject: Subject, micro_batch_sequences: int) -> dict[str, Any]:
    if check.endpoint is not None:
        os.environ.setdefault("OPENAI_API_KEY", "none")  # the harness will not start without one
        arguments = {
            "model": check.endpoint.model,
            "base_url": f"{check.endpoint.url}/v1/completions",
            "tokenizer": str(subject.tokenizer_folder),
            "tokenizer_backend": "huggingface",
        }
        return {"model": "local-completions", "model_args": arguments}
    models = importlib.import_module("lm_eval.models.huggingface")
    tokenizer = subject.renderer.tokenizer if check.chat_template else str(subject.tokenizer_folder)
    return {"model": models.HFLM(subject.model, tokenizer=tokenizer, batch_size=micro_batch_sequences)}


def as_measured(name: str, results: Mapping[str, Any]) -> Measured:
    """What the harness found, with its first measure of each document for intervals and reading."""
    tasks: dict[str, dict[str, float]] = {}
    parts: list[Part] = []
    predictions: list[dict[str, Any]] = []
    for task, samples in results["samples"].items():
        tasks[task] = {
            key.removesuffix(",none"): round(float(value), 6)
            for key, value in results["results"][task].items()
            if isinstance(value, int | float) and not key.startswith("alias")
        }
        for sample in samples:
            value = _value(task, sample)
            parts.append((value, 1.0))
            predictions.append(
                {
                    "check": name,
                    "origin": f"{task} document {sample['doc_id']}",
                    "text": str(sample["doc"])[:TEXT_CHARACTERS],
                    "expected": [str(sample["target"])],
                    "found": [str(sample["filtered_resps"])[:TEXT_CHARACTERS]],
                    "is_right": value == 1.0,
                }
            )
    interval = of_ratio(parts).as_metrics()
    metrics = {"score_name": "harness score", "score": round(ratio(parts), 6), "interval": interval}
    return Measured(metrics | {"num_rows": len(parts), "tasks": tasks}, predictions, parts)


def _value(task: str, sample: Mapping[str, Any]) -> float:
    """The first measure of one document. Raises InputError where it is no number, as parts of a perplexity are not."""
    measure = sample["metrics"][0]
    if not isinstance(sample[measure], int | float):
        what = f"The task {task} has no {measure} for each document by itself"
        raise InputError(what, where="checks", fix="Choose tasks that measure accuracy, F1 or exact match.")
    return float(sample[measure])
