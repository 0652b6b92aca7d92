"""The check of greedy answers to prompts: in how many of them a text occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from rayloom.evaluate.checks.check import Case, Check, Limit, Measured, check_goes_on_with_text
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress
from rayloom.observe.report_page import Section, table
from rayloom.score.answers import greedy_answers
from rayloom.specs.evaluate import AnswersCheck


class AnswerShare(Check[AnswersCheck]):
    """The share of the answers that contain the text."""

    def ready(self, case: Case[AnswersCheck]) -> None:
        check_goes_on_with_text(case.spec.name, case.subject)
        first_prompt(case)

    def plan(self, case: Case[AnswersCheck], sheet: PlanSheet) -> None:
        spec = case.spec
        sheet.add(spec.name, f"{len(spec.prompts)} prompts, answers of up to {spec.max_new_tokens} tokens")
        sheet.examples.append(Text(f"{spec.name}, first prompt:\n{first_prompt(case)}", style="dim"))

    def measure(self, case: Case[AnswersCheck]) -> Measured:
        spec, subject = case.spec, case.subject
        renderer = subject.renderer.with_kwargs(spec.chat_template_kwargs)
        prompts = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in spec.prompts]
        with progress(f"{spec.name}: {subject.artifact_id}", len(prompts), "answers") as bar:
            longest, stops, size = spec.max_new_tokens, renderer.stop_tokens, case.micro_batch_sequences
            answers = greedy_answers(subject.model, prompts, longest, stops, size, bar.advance)
        texts = [str(renderer.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]
        contains = [spec.contains.casefold() in text.casefold() for text in texts]
        predictions = [
            {"check": spec.name, "prompt": prompt, "answer": text, "contains": found}
            for prompt, text, found in zip(spec.prompts, texts, contains, strict=True)
        ]
        count = sum(contains)
        metrics = {"share": round(count / len(contains), 6), "count": count, "num_prompts": len(contains)}
        return Measured(metrics, predictions)

    def limits(self, spec: AnswersCheck, by_role: Mapping[str, Measured]) -> list[Limit]:
        metrics = by_role["model"].metrics
        share = metrics["share"]
        sentence = f"{spec.name}: {metrics['count']} of {metrics['num_prompts']} answers contain {spec.contains!r}"
        wanted = (
            ("min_share", spec.min_share, spec.min_share is None or share >= spec.min_share),
            ("max_share", spec.max_share, spec.max_share is None or share <= spec.max_share),
        )
        return [Limit(spec.name, name, limit, share, ok, sentence) for name, limit, ok in wanted if limit is not None]

    def shown(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['count']} of {metrics['num_prompts']}"

    def short(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['count']}/{metrics['num_prompts']}"

    def figure(self, metrics: Mapping[str, Any]) -> tuple[str, float]:
        return "share of answers", metrics["count"] / metrics["num_prompts"]

    @staticmethod
    def texts(predictions: Sequence[Mapping[str, Any]]) -> list[Section]:
        rows = [
            (row["check"], row["role"], row["prompt"], row["answer"], "yes" if row["contains"] else "no")
            for row in predictions
        ]
        return [Section("What was said", table(("check", "by", "prompt", "answer", "contains"), rows))] if rows else []


def first_prompt(case: Case[AnswersCheck]) -> str:
    """What the model is asked first. Raises InputError where its chat template does not read the check's settings."""
    renderer = case.subject.renderer.with_kwargs(case.spec.chat_template_kwargs)
    return renderer.prompt_text([{"role": "user", "content": case.spec.prompts[0]}])
