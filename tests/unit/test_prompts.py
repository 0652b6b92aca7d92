"""Prompts as text: templates, demonstrations, what answers say, and what a job file may not ask."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rayloom.score.prompted.choosing import calibrated, label_scores, probabilities
from rayloom.specs.prompting import Prompt
from rayloom.specs.training.labelled_data import ChoiceRows
from rayloom.text.labelled.examples import Example, ExampleError, Span
from rayloom.text.labelled.labelled_rows import _choices
from rayloom.text.prompts.answers import parsed
from rayloom.text.prompts.demonstrations import K1, B, Bm25, drawn, nearest
from rayloom.text.prompts.template import PromptRenderer, stopped

LABELS = {"type": "text_classification", "labels": ["bad", "good"]}
GENERATED = {"type": "generated", "generation": {"engine": "transformers"}}


def prompt(task: Any = LABELS, template: str = "Review: {text}\nIt is {answer}", **values: Any) -> Prompt:
    return Prompt.model_validate({"task": task, "template": template} | values)


def refused(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        prompt(**values)
    return str(caught.value)


# -- job files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"template": "{txt} {answer}"}, "template has a field {txt}; for text_classification there are {text}"),
        ({"template": "{text}"}, "needs the field {answer} once"),
        ({"template": "{text {answer}"}, "a brace in the text is written twice"),
        ({"template": "{text.a} {answer}"}, "which is no name"),
        ({"template": "{answer} {text}"}, "template must end in {answer}"),
        ({"template": "{labels} {answer}"}, "shows nothing of the row"),
        ({"words": {"ugly": "ugly"}}, "words names ugly, which is no label"),
        ({"words": {"good": "fine", "bad": ["poor", " Fine"]}}, "words has 'fine' for bad and for good"),
        ({"task": LABELS | {"multiple": True}}, "likelihood gives no answers of text_classification, multiple"),
        ({"task": {"type": "token_classification", "entities": ["place"]}}, "use generated"),
        ({"scoring": GENERATED, "calibration": ["N/A"]}, "calibration is for the likelihoods"),
        ({"scoring": {"type": "likelihood", "normalisation": "pmi"}, "calibration": ["N/A"]}, "corrects the same"),
        ({"scoring": {"type": "cloze"}, "chat_template": True}, "a cloze is asked of an encoder"),
        ({"scoring": GENERATED | {"pattern": "("}}, "is no regular expression"),
        ({"scoring": {"type": "generated", "generation": {"system": "Be brief."}}}, "need chat_template: true"),
        ({"demonstrations": {"num_rows": 2, "embedder": "artifact:e"}}, "embedder is used with choose: nearest"),
        ({"task": {"type": "multiple_choice", "answers": "letters"}, "template": "{question} {answer}"}, "{choices}"),
    ],
)
def test_what_a_prompt_cannot_ask_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    assert said in refused(**values)


# -- templates ---------------------------------------------------------------------------------------------------------


def test_demonstrations_stand_before_the_row_with_their_answers() -> None:
    asked = prompt(instruction="Judge.", words={"good": ["great", "fine"]})
    text = PromptRenderer(asked).text(
        Example("new"), [Example("old", labels=("good",)), Example("{b}", labels=("bad",))]
    )
    assert text.before == "Judge.\n\nReview: old\nIt is great\n\nReview: {b}\nIt is bad\n\nReview: new\nIt is "
    cloze = prompt(template="{text} It was {answer}, all in all.", scoring={"type": "cloze"})
    shown = PromptRenderer(cloze).text(Example("new"), [Example("old", labels=("good",))])
    assert shown.before == "old It was good, all in all.\n\nnew It was " and shown.after == ", all in all."


def test_fields_say_nothing_or_are_cut_and_conversations_have_the_same_text() -> None:
    asked = prompt(max_field_characters=3, template="{text} & {pair} ({labels}): {answer}")
    renderer = PromptRenderer(asked)
    assert renderer.text(Example("abcdef", "x")).before == "abc & x (bad, good): "
    assert renderer.text(Example("abcdef", "x"), content_free="N/A").before == "N/A & N/A (bad, good): "
    messages = PromptRenderer(prompt(instruction="Judge.")).messages(Example("new"), [Example("old", labels=("bad",))])
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "bad" and messages[3]["content"] == "Review: new\nIt is"


def test_a_row_without_what_the_template_shows_is_named() -> None:
    with pytest.raises(ExampleError, match="no second text"):
        PromptRenderer(prompt(template="{text} {pair} {answer}")).check(Example("a", labels=("good",)))
    with pytest.raises(ExampleError, match="no choices"):
        PromptRenderer(prompt({"type": "multiple_choice"}, "{question} {answer}")).check(Example("a"))


# -- what answers say --------------------------------------------------------------------------------------------------

ENTITIES = {"type": "token_classification", "entities": ["person", "place"]}
QUESTIONS = {"type": "question_answering"}


def said(
    task: Any, answer: str, example: Example | None = None, template: str = "{text} {answer}", **values: Any
) -> Any:
    return parsed(
        prompt(task, template, scoring=GENERATED, **values), example or Example("Anna saw Anna in Rome"), answer
    )


def test_the_first_word_of_a_label_decides_and_an_answer_without_one_is_none() -> None:
    assert said(LABELS, "Good, not bad.").labels == ("good",)
    assert said(LABELS, "badly goodish") is None and said(LABELS, "") is None
    assert said(LABELS, "very good", words={"good": "very good", "bad": "very"}).labels == ("good",)
    assert said({"type": "text_classification", "labels": ["差", "好"]}, "这部电影很好").labels == ("好",)
    several = LABELS | {"multiple": True}
    assert said(several, "bad and good").labels == ("bad", "good") and said(several, "None.").labels == ()


def test_entities_spans_and_choices_are_found_where_they_stand() -> None:
    found = said(ENTITIES, "person: anna; place: Rome; person: Anna; person: Carl; thing: in")
    assert found.spans == (Span(0, 4, "person"), Span(9, 13, "person"), Span(17, 21, "place"))
    assert said(ENTITIES, "none").spans == () and said(ENTITIES, "I do not know") is None
    question = Example("Anna went to Rome", "Where?")
    assert said(QUESTIONS, "rome", question).spans == (Span(13, 17, "answer"),)
    assert (
        said(QUESTIONS, "Paris", question).labels == ("Paris",)
        and said(QUESTIONS, "Unanswerable.", question).spans == ()
    )
    choice = Example("2 + 2?", choices=("three", "four"), labels=("four",))
    letters = {"type": "multiple_choice", "answers": "letters"}
    assert said(letters, "a good guess is B", choice, "{question}{choices}{answer}").labels == ("four",)
    assert said({"type": "multiple_choice"}, "It is four", choice, "{question} {answer}").labels == ("four",)


def test_an_answer_stops_and_a_pattern_takes_its_last_match() -> None:
    scoring: Any = prompt(scoring=GENERATED | {"pattern": r"answer is (\w+)"}).scoring
    assert stopped("the answer is a, no, the answer is b\nthe answer is c", scoring) == "b"
    assert stopped("nothing", scoring) == ""
    plain: Any = prompt(scoring=GENERATED).scoring
    assert stopped(" good \n\nReview: x", plain) == "good"


def test_what_is_shown_for_a_solved_row_is_read_back_as_its_labels() -> None:
    text = Example("Anna saw Rome", labels=("good",), spans=(Span(0, 4, "person"), Span(9, 13, "place")))
    for task, want in ((LABELS, text.labels), (ENTITIES, text.spans)):
        asked = prompt(task, "{text} {answer}", scoring=GENERATED)
        found = parsed(asked, text, PromptRenderer(asked).answer(text))
        assert found is not None and (found.labels or found.spans) == want


# -- demonstrations ----------------------------------------------------------------------------------------------------

POOL = [Example(f"row {number}", labels=("good" if number % 5 else "bad",)) for number in range(40)]


def test_draws_are_even_by_label_repeatable_and_orders_hold_the_same_rows() -> None:
    asked = prompt(demonstrations={"num_rows": 6})
    first = drawn(POOL, asked, 0)
    assert Counter(one.labels[0] for one in first) == {"good": 3, "bad": 3}
    assert first == drawn(POOL, asked, 0) and first != drawn(POOL, asked, 1)
    other = drawn(POOL, asked, 0, order=1)
    assert other != first and sorted(o.text for o in other) == sorted(o.text for o in first)
    assert len({one.text for one in drawn(POOL[:10], prompt(demonstrations={"num_rows": 8}), 0)}) == 8


def test_bm25_is_the_formula() -> None:
    texts = ["the cat sat", "the dog sat on the mat", "a dog and a dog", "猫坐下"]
    pool, rows = [Example(text) for text in texts], [Example("the dog"), Example("猫"), Example("unseen")]
    words = [re.findall(r"[\u3400-\u9fff]|[a-z]+", text) for text in texts]
    mean = sum(map(len, words)) / len(words)

    def score(query: list[str], own: list[str]) -> float:
        total = 0.0
        for word in set(query):
            count, occurs = own.count(word), sum(word in other for other in words)
            rarity = math.log(1 + (len(words) - occurs + 0.5) / (occurs + 0.5))
            total += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * len(own) / mean))
        return total

    want = [[score(query, own) for own in words] for query in (["the", "dog"], ["猫"], ["unseen"])]
    assert np.allclose(Bm25(pool).similar(rows), want)


def test_the_nearest_stand_last_and_never_the_row_itself() -> None:
    pool = [Example("a"), Example("b"), Example("c"), Example("d")]
    similar = np.array([[0.9, 0.5, 0.7, 0.1]])
    assert [one.text for one in nearest(similar, pool, [Example("a")], 2)[0]] == ["b", "c"]


# -- scores ------------------------------------------------------------------------------------------------------------


def test_several_words_of_a_label_count_by_their_mean_and_calibration_divides_by_the_prior() -> None:
    assert label_scores([[math.log(0.2), math.log(0.4)], [math.log(0.1)]]) == pytest.approx(
        [math.log(0.3), math.log(0.1)]
    )
    scores, free = np.log([[0.6, 0.4], [0.8, 0.2]]), np.log([[0.7, 0.3], [0.8, 0.2]])
    shares = probabilities(calibrated(scores, free))
    assert shares == pytest.approx(np.array([[0.6 / 0.75, 0.4 / 0.25], [0.8 / 0.75, 0.2 / 0.25]]) / [[2.4], [28 / 15]])
    assert shares.argmax(axis=1).tolist() == [1, 0]


def test_choices_are_read_by_index_letter_label_or_text() -> None:
    reading = ChoiceRows(type="choices")
    for answer in (1, "1", "B", "four"):
        row = _choices({"question": "2 + 2?", "choices": ["three", "four"], "answer": answer}, reading)
        assert row.labels == ("four",) and row.choices == ("three", "four")
    arc = {"question": "2 + 2?", "choices": {"text": ["three", "four"], "label": ["1", "2"]}, "answer": "2"}
    assert _choices(arc, reading).labels == ("four",)
    for wrong in ({"answer": 2}, {"answer": "five"}, {"choices": ["a"]}, {"choices": ["a", "a"]}):
        with pytest.raises(ExampleError):
            _choices({"question": "2 + 2?", "choices": ["three", "four"], "answer": 1} | wrong, reading)
