"""Every filter of written rows, the prompts, the seeds, and what a set of instructions is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.written import spec_of, write_rows

from rayloom.errors import InputError
from rayloom.generate.diversity import cluster_shares, verb_and_noun, verb_noun_counts
from rayloom.generate.filters import registry
from rayloom.generate.filters.filter import Candidate, DropReason, Filter
from rayloom.generate.filters.registry import FILTERS, Filters
from rayloom.generate.given import read_seeds
from rayloom.generate.prompts import SHIPPED, Prompts
from rayloom.specs.cleaning.rules import LanguageRules
from rayloom.specs.generation.filters import GenerateFilters
from rayloom.specs.generation.tasks import SelfInstructTask

SEED = "Write a poem about the sea.\n\nThe sea is wide and blue and deep, and in it many fishes sleep, till morning."


def filters(**settings: Any) -> Filters:
    return Filters(GenerateFilters(**{"language": None} | settings), [SEED])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Say why", "too_few_words"),
        ("why " * 151, "too_many_words"),
        ("Describe the picture of a house", "unanswerable"),
        ("Name ways to go  to Rome", None),
        ("Name ways to Go to Rome", "unanswerable"),
        ("Explain what makes a photogenic face", None),
        ("Input: {{ text }} to be sorted", "template_debris"),
        ("Write a poem about the deep sea", "too_similar"),
        ("the sea is wide and blue and deep and in it many fishes sleep", "copies_a_seed"),
        ("列出三种水果的名字。", None),
        ("Invent a riddle about clocks", None),
    ],
)
def test_why_an_instruction_is_dropped(text: str, reason: str | None) -> None:
    drop = filters().of_instruction(text)
    assert (drop.reason if drop else None) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (" ", "answer_too_short"),
        ("As an AI language model, I have no feelings.", "refusal"),
        ("I’m sorry, but that is not possible.", "refusal"),
        ("The robot said at last, after a long silence in the hall: " * 4 + "as an AI I cannot.", None),
        ("Sure!<|im_end|>", "template_debris"),
        ("And the sea is wide and blue and deep and in it many fishes sleep", "copies_a_seed"),
        ("INVENT  a riddle.", "repeats_the_prompt"),
        ("What has hands but cannot clap?", None),
    ],
)
def test_why_a_row_is_dropped(answer: str, reason: str | None) -> None:
    drop = filters().of_row(Candidate("Invent a riddle.", answer, is_new=True))
    assert (drop.reason if drop else None) == reason


def test_what_was_kept_counts_for_what_comes_after() -> None:
    judge = filters()
    judge.keep_instruction("Invent a riddle about clocks")
    drop = judge.of_instruction("Invent a short riddle about clocks")
    assert drop == DropReason("too_similar", "ROUGE-L 0.91 to: Invent a riddle about clocks")
    riddle = "What has two hands and a face but can neither clap nor smile, though it is read every day by all of us?"
    first = Candidate("Invent a riddle.", riddle, is_new=True)
    judge.keep_row(first)
    assert judge.of_row(Candidate("Invent a riddle.", "What am I?", is_new=True)) == DropReason("same_prompt")
    assert judge.of_row(Candidate("Invent a riddle.", "What am I?")) is None
    near = Candidate("Now invent a riddle.", riddle, is_new=True)
    assert judge.of_row(near) == DropReason("near_duplicate")


def test_cut_off_answers_and_languages() -> None:
    cut = Candidate("Tell a story.", "Once upon a", is_cut=True)
    assert filters().of_row(cut) == DropReason("cut_off")
    assert filters(debris={"drop_cut_off": False}).of_row(cut) is None
    english = filters(language=LanguageRules(allowed=("en",), min_confidence=0.3))
    assert english.of_instruction("Nenne drei Städte, die an einem großen Fluss liegen.") == DropReason(
        "wrong_language", "de"
    )
    assert english.of_instruction("Name three towns that lie at a great river.") is None


def test_every_filter_of_the_spec_can_be_turned_off_and_is_known() -> None:
    assert set(FILTERS) == set(GenerateFilters.model_fields)
    off = Filters(GenerateFilters(**dict.fromkeys(FILTERS)), [SEED])
    assert off.of_instruction("") is None and off.of_row(Candidate("x", "", is_cut=True)) is None


def test_a_new_filter_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoZebras(Filter):
        def __init__(self, _: Any, __: Sequence[str]) -> None: ...

        def of_instruction(self, text: str) -> DropReason | None:
            return DropReason("zebra") if "zebra" in text else None

    family: dict[str, Callable[[Any, Sequence[str]], Filter]] = {"length": NoZebras}
    monkeypatch.setattr(registry, "FILTERS", family)
    assert Filters(GenerateFilters()).of_instruction("Paint a zebra") == DropReason("zebra")


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_prompt_of_ones_own_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/answer.jinja").write_text("Be brief. {{ prompt }}")
    prompts = Prompts(tmp_path / "own")
    assert prompts.text("answer", prompt="Who?") == "Be brief. Who?"
    assert "Who? " not in prompts.text("paraphrase", text="Who?")
    prompts.save(("answer", "paraphrase"), tmp_path / "saved")
    assert (tmp_path / "saved/answer.jinja").read_text() == "Be brief. {{ prompt }}"
    assert (tmp_path / "saved/paraphrase.jinja").read_bytes() == (SHIPPED / "paraphrase.jinja").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("anwser.jinja", "x", "did you mean answer"),
        ("answer.txt", "x", "No prompt has this name"),
        ("answer.jinja", "{% for %}", "Line 1"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        Prompts(tmp_path)


def test_a_prompt_that_asks_for_what_there_is_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "answer.jinja").write_text("{{ question }}")
    with pytest.raises(InputError, match=r"'question' is undefined.*It can use prompt"):
        Prompts(tmp_path).text("answer", prompt="x")
    with pytest.raises(InputError, match="no such folder"):
        Prompts(tmp_path / "none")


# -- seeds -------------------------------------------------------------------------------------------------------------


def seeds(rows: Sequence[dict[str, Any]], folder: Path, **task: Any) -> Any:
    spec = spec_of({"type": "self_instruct", "num_rows": 5, "num_seed_examples": 2} | task)
    assert isinstance(spec.task, SelfInstructTask)
    return read_seeds(spec.task, [write_rows(rows, folder)])


def test_seeds_are_instructions_or_conversations(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "Sort: b a"}, {"role": "assistant", "content": "a b"}]}
    task = {"instruction": "Is it good?", "input": "Yes!", "output": "good", "is_classification": "true"}
    first, second = seeds([talk, task], tmp_path)
    assert (first.instruction, first.input, first.output, first.is_classification) == ("Sort: b a", "", "a b", False)
    assert (second.input, second.is_classification, second.origin) == ("Yes!", True, "rows.jsonl row 2")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "x"}], "1 of 1 seeds cannot be used: rows.jsonl row 1"),
        ([{"instruction": "Say it", "output": " "}], "instruction or output is empty"),
        ([], "There are 0 seeds, of which 0 differ"),
        ([{"instruction": f"Write a poem about {n}", "output": "x"} for n in range(9)], "9 seeds, of which 1 differ"),
    ],
)
def test_seeds_of_a_wrong_shape_or_alike_are_refused(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        seeds(rows, tmp_path)


# -- what it is about --------------------------------------------------------------------------------------------------


def test_verbs_and_nouns() -> None:
    assert verb_and_noun("Please, write me a short poem about the sea.") == ("write", "poem")
    assert verb_and_noun("Could you explain the theory?") == ("explain", "theory")
    assert (verb_and_noun("Sing"), verb_and_noun("")) == (("sing", ""), ("", ""))
    counts = verb_noun_counts(["Write a poem"] * 3 + ["Write a song", "Write it", "Name a town"], 1, 1)
    assert counts == {"write": {"poem": 3, "": 2}}


def test_clusters_have_shares_and_words() -> None:
    texts = [f"Write a poem about number {n}" for n in range(60)] + [f"Sort list {n} by weight" for n in range(40)]
    clusters = cluster_shares(texts)
    assert sum(one["share"] for one in clusters) == pytest.approx(1, abs=0.01)
    assert clusters[0]["share"] >= clusters[-1]["share"]
    assert cluster_shares(texts[:3]) == []
