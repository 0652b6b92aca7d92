"""The check of a model that is asked by a prompt alone: held-out rows of labelled data, several draws and orders."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Measured
from rayloom.evaluate.checks.scored import ScoreCheck, wrong_texts
from rayloom.evaluate.checks.task import class_sections, judge, readable
from rayloom.models.responders.prompted import PromptedAnswer, PromptedModel
from rayloom.models.responders.prompted_rows import labelled_examples, rows_to_show
from rayloom.models.responders.subject import Subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress, say
from rayloom.observe.report_page import Section, table
from rayloom.score.class_scores import Part, of_ratio
from rayloom.specs.evaluate import PromptedCheck
from rayloom.specs.prompting import Generated
from rayloom.text.labelled.dataset import in_order_of, split
from rayloom.text.labelled.examples import Example
from rayloom.text.prompts.demonstrations import Pool, same_text
from rayloom.text.prompts.template import PromptRenderer

NUM_PROMPTS_SHOWN = 2


class PromptedScore(ScoreCheck[PromptedCheck]):
    """How many answers are right, on average over draws and orders of demonstrations, and how far these differ."""

    further = (
        *("uncalibrated_score", "spread", "lowest", "highest", "uncalibrated_spread", "unparsed_share"),
        *("accuracy", "macro_f1", "micro_f1", "exact_match", "chrf", "bleu", "rouge_l"),
    )
    texts = staticmethod(wrong_texts)

    def ready(self, case: Case[PromptedCheck]) -> None:
        model = _model(case)
        model.check()
        tested, pool = rows_of(case)
        shown = model.demonstrations(tested, pool, case.spec.seed, 0, case.micro_batch_sequences)
        model.check_lengths(tested, shown)
        scoring = case.spec.prompt.scoring
        if isinstance(scoring, Generated) and scoring.generation.engine == "vllm":
            from rayloom.models.vllm_adapter import check_offline

            check_offline(case.subject)

    def plan(self, case: Case[PromptedCheck], sheet: PlanSheet) -> None:
        spec, model = case.spec, _model(case)
        tested, pool = rows_of(case)
        shown = model.demonstrations(tested, pool, spec.seed, 0, case.micro_batch_sequences)
        how = spec.prompt.demonstrations
        said = f"{len(tested):,} rows by {spec.prompt.scoring.type}"
        if how is not None:
            said += f", {how.num_rows} of {len(pool):,} rows before each ({how.choose}), {_num_runs(spec)} runs"
        sheet.add(spec.name, f"{said}; the longest prompt has {model.check_lengths(tested, shown):,} tokens")
        sheet.warnings += [f"{spec.name}: {line}" for line in model.shared_first_tokens()]
        for example, own in list(zip(tested, shown, strict=True))[:NUM_PROMPTS_SHOWN]:
            expected = PromptRenderer(spec.prompt).answer(example)
            text = Text(f"{spec.name}, {example.origin}:\n{model.readable(example, own)}", style="dim")
            sheet.examples.append(text.append(f" → {expected}", style="green"))

    def measure(self, case: Case[PromptedCheck]) -> Measured:
        spec, model = case.spec, _model(case)
        tested, pool = rows_of(case)
        runs: list[tuple[int, int, list[PromptedAnswer]]] = []
        with progress(f"{spec.name}: {case.subject.artifact_id}", len(tested) * _num_runs(spec), "answers") as bar:
            for seed in range(spec.seed, spec.seed + spec.num_draws):
                for order in range(spec.num_orders):
                    shown = model.demonstrations(tested, pool, seed, order, case.micro_batch_sequences)
                    model.check_lengths(tested, shown)
                    write = _engine(case, model)
                    found = model.answers(tested, shown, case.micro_batch_sequences, bar.advance, write)
                    runs.append((seed, order, found))
                    if len(runs) == 1:
                        first = [model.readable(*pair) for pair in zip(tested[:3], shown[:3], strict=True)]
        metrics, parts = judged_runs(spec, tested, runs)
        rows = _predictions(spec, tested, runs[0][2])
        return Measured(metrics | {"prompts": first[:NUM_PROMPTS_SHOWN]}, rows, parts)

    def shown(self, metrics: Mapping[str, Any]) -> str:
        spread = f", ± {metrics['spread']:.4f} over {len(metrics['runs'])} runs" if len(metrics["runs"]) > 1 else ""
        return super().shown(metrics) + spread

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
        """Also every run, each class, and the first prompts as the model read them."""
        made = super().sections(title, metrics, better) + class_sections(title, metrics)
        if len(metrics["runs"]) > 1:
            header = tuple(metrics["runs"][0])
            body = table(header, [tuple(run[name] for name in header) for run in metrics["runs"]])
            made.append(Section(f"{title}, by draw and order", body))
        rows = [(str(number), prompt) for number, prompt in enumerate(metrics["prompts"], 1)]
        return [*made, Section(f"{title}, first prompts", table(("row", "prompt"), rows))]


def _num_runs(spec: PromptedCheck) -> int:
    return spec.num_draws * spec.num_orders


def _model(case: Case[PromptedCheck]) -> PromptedModel:
    embedder = case.parents.get("prompt.demonstrations.embedder")
    other = None if embedder is None or case.store is None else Subject.of("embedder", embedder, case.store)
    return PromptedModel(case.subject, case.spec.prompt, other)


@dataclass(frozen=True)
class _Asked:
    """What decides which rows are read, so that a job reads them once and not for every model and step."""

    values: str
    case: Case[PromptedCheck] = field(compare=False)


def rows_of(case: Case[PromptedCheck]) -> tuple[list[Example], Pool]:
    """The tested rows, and those that demonstrations are chosen from, none of which has the text of a tested one.

    Raises InputError where rows cannot be used, or are too few.
    """
    artifacts = sorted((path, artifact.id) for path, artifact in case.parents.items())
    return _rows_of(_Asked(f"{case.spec.model_dump_json()} {artifacts}", case))


@functools.lru_cache(maxsize=8)
def _rows_of(asked: _Asked) -> tuple[list[Example], Pool]:
    case = asked.case
    spec, how = case.spec, case.spec.prompt.demonstrations
    examples = labelled_examples(spec.prompt, spec.data, case.parents, "data.sources", spec.seed)
    if how is None or how.sources:
        tested = in_order_of(spec.seed, examples)[: spec.data.heldout_rows]
    else:
        pool, tested = split(examples, spec.data, spec.seed, Counter())
    if how is None:
        return tested, Pool()
    if how.sources:
        known = {same_text(example) for example in tested}
        pool = [one for one in rows_to_show(spec.prompt, case.parents).examples if same_text(one) not in known]
    if len(pool) < how.num_rows:
        what = f"There are {len(pool)} rows to show, and demonstrations.num_rows is {how.num_rows}"
        raise InputError(what, where=f"checks {spec.name}", fix="Show fewer, or add rows.")
    return tested, Pool(tuple(pool))


def _engine(case: Case[PromptedCheck], model: PromptedModel) -> Callable[[list[list[int]]], list[str]] | None:
    """What writes answers, if not transformers: vLLM."""
    scoring = case.spec.prompt.scoring
    if not isinstance(scoring, Generated) or scoring.generation.engine != "vllm":
        return None
    return functools.partial(_written_by_vllm, case, model, scoring)


def _written_by_vllm(
    case: Case[PromptedCheck], model: PromptedModel, scoring: Generated, prompts: list[list[int]]
) -> list[str]:
    from rayloom.evaluate.offline.engine import EngineUse, answers
    from rayloom.observe.ray_session import connect

    connect()
    say(f"{case.spec.name}: {case.subject.artifact_id} answers {len(prompts)} prompts")
    cpus, gpus = scoring.cpus_per_worker, scoring.gpus_per_worker
    use = EngineUse(case.subject, scoring.generation, case.micro_batch_sequences, 1, cpus, gpus, model.stop_tokens)
    found = answers(use, prompts)
    failed = [row["failed"] for row in found if "failed" in row]
    if failed:
        what = f"{len(failed)} of {len(found)} prompts have no answer: {failed[0]}"
        fix = "Raise prompt.scoring.generation.max_length_tokens."
        raise InputError(what, where=f"checks {case.spec.name}", fix=fix)
    return [str(row["answer"]) for row in found]


def judged_runs(
    spec: PromptedCheck, tested: Sequence[Example], runs: Sequence[tuple[int, int, Sequence[PromptedAnswer]]]
) -> tuple[dict[str, Any], list[Part]]:
    """Metrics over all runs together, and what each row adds to the score on average over them."""
    task, count = spec.prompt.task, len(runs)
    by_run = [judge(task, tested, [answer.prediction for answer in found]) for _, _, found in runs]
    everything = [answer for _, _, found in runs for answer in found]
    metrics = judge(task, [*tested] * count, [answer.prediction for answer in everything]).metrics
    of_row = zip(*(judged.parts for judged in by_run), strict=True)
    parts = [(sum(a for a, _ in own) / count, sum(b for _, b in own) / count) for own in of_row]
    scores = [float(judged.metrics["score"]) for judged in by_run]
    lines = [
        {"draw": seed, "order": order, "score": score} for (seed, order, _), score in zip(runs, scores, strict=True)
    ]
    metrics |= {"num_rows": len(tested), "interval": of_ratio(parts).as_metrics(), **_spread(scores, "")}
    if spec.prompt.calibration:
        plain = [
            float(judge(task, tested, [a.uncalibrated or a.prediction for a in found]).metrics["score"])
            for _, _, found in runs
        ]
        mean = round(statistics.fmean(plain), 6)
        metrics |= {"uncalibrated_score": mean, **_spread(plain, "uncalibrated_")}
        lines = [line | {"uncalibrated": score} for line, score in zip(lines, plain, strict=True)]
    if isinstance(spec.prompt.scoring, Generated):
        metrics["unparsed_share"] = round(sum(not a.is_parsed for a in everything) / len(everything), 6)
    return metrics | {"runs": lines}, parts


def _spread(scores: Sequence[float], prefix: str) -> dict[str, float]:
    """Standard deviation over runs, and their ends; one run says nothing of that."""
    if len(scores) < 2:
        return {f"{prefix}spread": 0.0}
    spread = round(statistics.stdev(scores), 6)
    return {f"{prefix}spread": spread, f"{prefix}lowest": min(scores), f"{prefix}highest": max(scores)}


def _predictions(
    spec: PromptedCheck, tested: Sequence[Example], answers: Sequence[PromptedAnswer]
) -> list[dict[str, Any]]:
    """Those of the first run, to read."""
    predictions = [answer.prediction for answer in answers]
    judged = judge(spec.prompt.task, tested, predictions)
    rows = readable(spec.name, spec.prompt.task, tested, predictions, judged)
    return [row | ({} if a.said is None else {"said": a.said}) for row, a in zip(rows, answers, strict=True)]
