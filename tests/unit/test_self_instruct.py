"""Self-Instruct: the rounds, the forms of answers that are read, quotas, and that a restored job goes on the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.written import answer_of, reasons, spec_of, write_rows, written

from rayloom.generate.asks import Ask, ModelAnswer, driven
from rayloom.generate.prompts import Prompts
from rayloom.generate.tasks.registry import opened
from rayloom.generate.tasks.self_instruct import QuotaCount, answered, classified, instructions_in
from rayloom.specs.generation.tasks import Quotas

SEEDS: list[dict[str, Any]] = [
    {"instruction": "Sort the words by length", "input": "pear, fig, banana", "output": "fig, pear, banana"},
    {"instruction": "Say what a lighthouse is for", "output": "It warns ships of rocks."},
    {
        "instruction": "Is the review good or bad?", "input": "I slept well there.", "output": "good",
        "is_classification": True,
    },
]  # fmt: skip
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ALIKE: dict[str, Any] = {"filters": {"similar": {"similarity_threshold": 0.95}}}
"""For the model below, whose tasks differ in a few words."""
VERBS = ("Describe", "Compare", "Invent", "Summarise", "Explain", "Name")


def task_of(num_rows: int = 6, **values: Any) -> dict[str, Any]:
    return {"type": "self_instruct", "num_rows": num_rows, "num_seed_examples": 3} | values


def say(ask: Ask) -> Any:
    """A model that invents two tasks for each prompt, the second of them classification."""
    number, name, place = ask.key.split("/")
    word = f"{NUMBERS[int(number)]} {NUMBERS[int(place)]}"
    if name == "new_instructions":
        verb = VERBS[int(place) % len(VERBS)]
        return f" {verb} the {word} oddest birds of Peru\n\nTask 7: Decide if {word} lamps outshine moonlit windows"
    if name == "is_classification":
        return " Yes" if "Decide if" in ask.prompt.rpartition("Task:")[2] else "No, it is not"
    if name == "output_first":
        return f" yes\nInput: {word} big lamps\nClass label: no\nInput: {word} small candles"
    return f" <noinput>\nOutput: The {word} birds are quite odd.\n\nTask: Another one"


def test_new_tasks_with_their_inputs_and_outputs(tmp_path: Path) -> None:
    asked: list[Ask] = []
    spec = spec_of(task_of(), rows_per_round=2, **ALIKE)
    found = written(spec, SEEDS, tmp_path, lambda ask: asked.append(ask) or say(ask))
    prompts = {row["prompt"]: row["answer"] for row in found.rows}
    assert prompts["Describe the zero zero oddest birds of Peru"] == "The zero zero birds are quite odd."
    assert prompts["Decide if zero zero lamps outshine moonlit windows\nzero one big lamps"] == "yes"
    assert prompts["Decide if zero one lamps outshine moonlit windows\nzero three small candles"] == "no"
    made = found.rows[0]["row"]["made_by"]
    assert made["prompts"] == ["new_instructions", "is_classification", "input_first"]
    assert sorted(made["from"]) == ["rows.jsonl row 1", "rows.jsonl row 2", "rows.jsonl row 3"]
    shown = {ask.prompt_name: ask.prompt for ask in asked if ask.key.startswith("0/")}
    assert "Task 4:" in shown["new_instructions"] and SEEDS[1]["instruction"] in shown["new_instructions"]
    assert "Class label: good" in shown["output_first"] and "Class label: good" not in shown["input_first"]
    assert "Input: <noinput>\nOutput: It warns" in shown["input_first"]
    assert not next(ask for ask in asked if ask.prompt_name == "is_classification").is_sampled


def test_later_rounds_show_what_was_written_and_drop_what_repeats(tmp_path: Path) -> None:
    shown: list[str] = []

    def repeats(ask: Ask) -> Any:
        if ask.prompt_name == "new_instructions":
            shown.append(ask.prompt)
            if not ask.key.startswith("0/"):
                return "Describe the zero zero oddest birds of Peru!"
        return say(ask)

    spec = spec_of(task_of(50), rows_per_round=2, **ALIKE)
    task = opened(spec, Prompts(None), [write_rows(SEEDS, tmp_path)], {})
    rounds = [
        driven(task.round(number) or pytest.fail(), lambda asks: [answer_of(ask, repeats(ask)) for ask in asks])
        for number in (0, 1)
    ]
    assert "oddest birds" not in shown[0] and "Peru" in shown[-1] + shown[-2]
    assert rounds[0].rows and not rounds[1].rows
    assert set(reasons(rounds[1])) == {"too_similar"}


def test_a_restored_job_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    spec, files = spec_of(task_of(60), rows_per_round=3, **ALIKE), [write_rows(SEEDS, tmp_path)]

    def prompts_of_round(number: int, restored: int) -> list[str]:
        task = opened(spec, Prompts(None), files, {})
        asked: list[Ask] = []

        def answers(asks: Sequence[Ask]) -> list[ModelAnswer]:
            asked.extend(asks)
            return [answer_of(ask, say(ask)) for ask in asks]

        for one in range(number + 1):
            steps = task.round(one)
            assert steps is not None
            if one < restored:
                task.restore(whole[one])
            elif (found := driven(steps, answers)) and one == len(whole):
                whole.append(found)
        return [ask.prompt for ask in asked if ask.key.startswith(f"{number}/")]

    whole: list[Any] = []
    straight = prompts_of_round(2, 0)
    assert prompts_of_round(2, 2) == straight and len(straight) > 10


def test_answers_without_a_task_or_in_another_form_are_dropped(tmp_path: Path) -> None:
    def odd(ask: Ask) -> Any:
        if ask.prompt_name == "new_instructions":
            return ["", {"failed": "400"}, "1. Sing a song of sixpence\n2. Tell me what the"][int(ask.key[-1])] or " \n"
        return "no" if ask.prompt_name == "is_classification" else "I would rather not."

    spec = spec_of(task_of(), rows_per_round=3)
    task = opened(spec, Prompts(None), [write_rows(SEEDS, tmp_path)], {})
    found = driven(task.round(0) or pytest.fail(), lambda asks: [answer_of(ask, odd(ask)) for ask in asks])
    assert reasons(found) == ["no_instruction", "failed", "wrong_form", "wrong_form"]


def test_instructions_of_a_numbered_list() -> None:
    text = " Draw up a\nlist of 3 towns.\n\nTask 10: Say 2: why?\n11) Sing."
    assert instructions_in(text, is_cut=False) == ["Draw up a list of 3 towns.", "Say 2: why?", "Sing."]
    assert instructions_in(text, is_cut=True) == ["Draw up a list of 3 towns.", "Say 2: why?"]
    assert instructions_in("  ", is_cut=False) == []
    assert instructions_in("Here are some:\n\n1. Sing.\n2. Dance.", is_cut=False) == ["Sing.", "Dance."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a, b\nOutput: b, a", [("a, b", "b, a")]),
        ("<noinput>\nOutput: x\nTask: more\nInput: y", [("", "x")]),
        ("Input: None\nOutput: two\nlines", [("", "two\nlines")]),
        ("Output: at once", [("", "at once")]),
        ("a\nOutput: x\nInput: b\nOutput: y", [("a", "x")]),
        ("no form at all", []),
        ("a\nOutput:", []),
    ],
)
def test_forms_of_input_and_output(text: str, expected: list[tuple[str, str]]) -> None:
    assert answered(text) == expected


def test_forms_of_labels_and_inputs() -> None:
    assert classified(" yes\nInput: one\n\nClass label: no\nInput: two\nlines\nTask: x") == [
        ("one", "yes"),
        ("two\nlines", "no"),
    ]
    assert classified("yes, because") == []


def test_quotas_hold_from_the_fiftieth_on() -> None:
    count = QuotaCount(Quotas(max_classification_share=0.5, max_verb_share=0.4))
    for number in range(50):
        verb = "Write" if number < 20 else VERBS[number % 6]
        one = {"instruction": f"{verb} {number}", "is_classification": number < 25}
        assert count.exceeded(one) is None
        count.add(one)
    assert count.exceeded({"instruction": "Name it", "is_classification": True}).reason == "classification_quota"  # type: ignore[union-attr]
    assert count.exceeded({"instruction": "Write it", "is_classification": False}) == ("verb_quota", "write")
    assert count.exceeded({"instruction": "Name it", "is_classification": False}) is None
