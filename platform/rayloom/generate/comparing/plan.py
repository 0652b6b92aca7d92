"""What a comparison would ask, of whom and how much, and the first request to the judge. Nothing is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.generate.asks import ModelAnswer
from rayloom.generate.comparing.judging import judge_of
from rayloom.generate.comparing.prompts import AnsweredPrompt, asked_rows, known_answers, rubric_of
from rayloom.generate.given import Given
from rayloom.generate.plan import add_writer
from rayloom.generate.writers import writing_subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.compare import Compared, CompareSpec, PairJudging
from rayloom.specs.generation.engines import EndpointEngine, Engine, ModelEngine

BYTES_PER_TOKEN = 4.0
"""About so many in English, where a judge's tokenizer is not at hand."""
MOST_COUNTED = 200


def plan(spec: CompareSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """Models, prompts, and the judge's requests and tokens at most."""
    sheet = PlanSheet()
    for number, one in enumerate(spec.models):
        if isinstance(one, ModelEngine | EndpointEngine):
            add_writer(sheet, f"models.{number}", one, parents, job_directory, shown=one.name)
    if spec.judge is not None:
        add_writer(sheet, "judge", spec.judge, parents, job_directory)
        own = [one.name for one in spec.models if _writer_of(one) == _writer_of(spec.judge)]
        if own:
            why = "judges prefer their own answers (Zheng et al. 2023, section 3.3)"
            sheet.warnings.append(f"judge: it is {own[0]} itself, and {why}")
    try:
        given, skipped = asked_rows(spec, parents)
        known = [known_answers(spec, number, given, parents) for number in range(len(spec.models))]
        left_out = ", ".join(f"{name} {count:,}" for name, count in skipped.items())
        sheet.add("prompts", f"{len(given):,}" + (f"; left out: {left_out}" if skipped else ""))
        for one, its in zip(spec.models, known, strict=True):
            if its is not None:
                sheet.add(one.name, f"{sum(answer.failed is None for answer in its):,} answers that are there already")
        asked = [one.name for one, its in zip(spec.models, known, strict=True) if its is None]
        most = f"of up to {spec.sampling.max_new_tokens:,} tokens"
        sheet.add("answers to write", f"{len(asked) * len(given):,} {most}" if asked else "none")
        if spec.judge is not None:
            _add_judge(sheet, spec, given, known, _counter(spec, parents, job_directory), job_directory)
    except RayloomError as error:
        sheet.problems.append(str(error))
    return sheet


def _writer_of(one: Compared | Engine) -> tuple[str, str] | None:
    """What tells apart who writes; None for answers that are there."""
    if isinstance(one, ModelEngine):
        return "", one.model
    return (one.url, one.model) if isinstance(one, EndpointEngine) else None


def _add_judge(
    sheet: PlanSheet,
    spec: CompareSpec,
    given: Sequence[Given],
    known: Sequence[list[ModelAnswer] | None],
    count: Callable[[str], float],
    job_directory: Path,
) -> None:
    judge, places = judge_of(spec, rubric_of(spec, job_directory)), {one.name: n for n, one in enumerate(spec.models)}

    def answer(name: str, place: int) -> ModelAnswer:
        its = known[places[name]]
        return ModelAnswer(str(place), f"({name} answers)") if its is None else its[place]

    rows = [AnsweredPrompt(n, row, {name: answer(name, n) for name in places}) for n, row in enumerate(given)]
    asks = judge.asks(rows)
    if not asks:
        sheet.problems.append("judge: there is no pair of different answers to judge")
        return
    in_one = 2 if isinstance(spec.judging, PairJudging) else 1
    unwritten = spec.sampling.max_new_tokens if None in known else 0
    some = asks[:: max(1, len(asks) // MOST_COUNTED)]
    longest = max(count(ask.prompt) for ask in some) + in_one * unwritten
    tokens = len(asks) * (sum(count(ask.prompt) for ask in some) / len(some) + in_one * unwritten)
    replies = len(asks) * spec.max_reply_tokens
    sheet.add("judge's requests", f"{len(asks):,}" + (" at most" if None in known else ""))
    sheet.add("judge's tokens", f"about {tokens:,.0f} to read and {replies:,} to write, at most")
    if isinstance(spec.judge, EndpointEngine) and spec.judge.budget is not None:
        prices = spec.judge.budget
        reading, writing = prices.price_per_million_input_tokens, prices.price_per_million_output_tokens
        sheet.add("judge's cost", f"{(tokens * reading + replies * writing) / 1e6:.2f} at most, of {prices.cost:g}")
    if isinstance(spec.judge, ModelEngine) and longest + spec.max_reply_tokens > spec.judge.max_length_tokens:
        sheet.warnings.append(
            f"judge: requests of up to about {longest:,.0f} tokens, and judge.max_length_tokens is "
            f"{spec.judge.max_length_tokens:,}: longer ones come to judge_failed"
        )
    sheet.examples.append(Text(f"the judge, {asks[0].key}:\n{asks[0].prompt}", style="dim"))


def _counter(spec: CompareSpec, parents: Mapping[str, Artifact], job_directory: Path) -> Callable[[str], float]:
    """Tokens of a text: by the judge's tokenizer if it is here, else about."""
    if isinstance(spec.judge, ModelEngine) and "judge.model" in parents:
        tokenizer = writing_subject("judge", parents["judge.model"], Store.beside(job_directory)).renderer.tokenizer
        return lambda text: float(len(tokenizer(text)["input_ids"]))
    return lambda text: len(text.encode(errors="replace")) / BYTES_PER_TOKEN
