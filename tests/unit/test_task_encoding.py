"""Texts as ids with targets, against expectations written by hand; windows; and the way back from logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from support.tasks import wordpiece

from rayloom.errors import InputError
from rayloom.specs.training.tasks import Task
from rayloom.text.labelled.decoding import best_span, decoded
from rayloom.text.labelled.encoding import TaskEncoder, marked_entities, most_context
from rayloom.text.labelled.examples import Example, Span

TAGS = {"type": "token_classification", "entities": ["person", "place"], "overlap_tokens": 2}


def task_of(values: dict[str, Any]) -> Task:
    task: Task = TypeAdapter(Task).validate_python(values)
    return task


def encoder(values: dict[str, Any], max_tokens: int = 16) -> TaskEncoder:
    return TaskEncoder(task_of(values), wordpiece(), max_tokens)


def words(maker: TaskEncoder, tokens: Any) -> str:
    return " ".join(maker.tokenizer.convert_ids_to_tokens([int(token) for token in tokens]))


def test_a_text_and_a_pair_end_in_separators_and_segments_tell_them_apart() -> None:
    maker = encoder({"type": "text_classification", "labels": ["no", "yes"]})
    (row,) = maker.rows([Example("fine film", labels=("yes",))])[0]
    assert words(maker, row.tokens) == "[CLS] fine film [SEP]"
    assert row.targets.tolist() == [1]
    (pair,) = maker.rows([Example("fine", "dull", ("no",))])[0]
    assert words(maker, pair.tokens) == "[CLS] fine [SEP] dull [SEP]"
    assert pair.segments.tolist() == [0, 0, 0, 1, 1]


def test_several_labels_are_a_yes_or_no_each() -> None:
    maker = encoder({"type": "text_classification", "labels": ["a", "b", "c"], "multiple": True})
    rows = maker.rows([Example("fine", labels=("c", "a")), Example("dull")])
    assert [row[0].targets.tolist() for row in rows] == [[1, 0, 1], [0, 0, 0]]


def test_tags_stand_on_sub_words_and_nothing_is_asked_of_special_tokens() -> None:
    maker = encoder(TAGS)
    (row,) = maker.rows([Example("Annas saw Rome", spans=(Span(0, 5, "person"), Span(10, 14, "place")))])[0]
    assert words(maker, row.tokens) == "[CLS] anna ##s saw rome [SEP]"
    assert row.targets.tolist() == [-100, 1, 2, 0, 3, -100]


def test_windows_cover_every_token_and_judge_it_once_where_it_has_most_context() -> None:
    maker = encoder(TAGS, max_tokens=7)
    (rows,) = maker.rows([Example("the film was we saw it in and then very")])
    assert [words(maker, row.tokens) for row in rows] == [
        "[CLS] the film was we saw [SEP]", "[CLS] we saw it in and [SEP]", "[CLS] in and then very [SEP]",
    ]  # fmt: skip
    judged = [row.offsets[place] for row in rows for place in np.flatnonzero(row.is_judged)]  # type: ignore[arg-type]
    assert len(judged) == len(set(judged)) == 10


def test_a_token_in_two_windows_is_judged_where_it_is_further_from_the_end() -> None:
    first, second = [(0, 1), (2, 3), (4, 5)], [(2, 3), (4, 5), (6, 7)]
    assert [found.tolist() for found in most_context([first, second])] == [[True, True, False], [False, True, True]]


def test_entities_of_a_relation_are_marked() -> None:
    spans = (Span(8, 12, "tail"), Span(0, 4, "head"))
    assert marked_entities("Anna in Rome", spans) == "@ Anna @ in # Rome #"
    maker = encoder({"type": "relation_extraction", "labels": ["lives_in", "none"]})
    (row,) = maker.rows([Example("Anna in Rome", labels=("lives_in",), spans=spans)])[0]
    assert words(maker, row.tokens) == "[CLS] @ anna @ in # rome # [SEP]"


def test_an_answer_is_two_places_and_a_window_without_it_points_at_the_first_token() -> None:
    maker = encoder({"type": "question_answering", "overlap_tokens": 1}, max_tokens=9)
    example = Example("the film was in Rome then very", "where?", spans=(Span(16, 20, "answer"),))
    rows = maker.rows([example])[0]
    assert [words(maker, row.tokens) for row in rows] == [
        "[CLS] where ? [SEP] the film was in [SEP]", "[CLS] where ? [SEP] in rome then very [SEP]",
    ]  # fmt: skip
    assert [row.targets.tolist() for row in rows] == [[0, 0], [5, 5]]
    with pytest.raises(InputError, match="cannot be cut into windows"):
        maker.rows([Example("film", "who went and where " * 4)])


def test_text_is_cut_where_the_row_ends() -> None:
    maker = encoder({"type": "text_classification", "labels": ["no", "yes"]}, max_tokens=5)
    assert maker.cut([Example("the film was very fine")]) == ["the film was"]


def test_of_a_long_text_both_ends_are_read_and_cut_alike_for_others() -> None:
    settings = {"type": "text_classification", "labels": ["no", "yes"], "long_texts": "both_ends"}
    maker = encoder(settings, max_tokens=8)
    long, short = Example("the film was we saw it in and then very fine", labels=("yes",)), Example("it was dull")
    rows = [row for (row,) in maker.rows([long, short])]
    assert [words(maker, row.tokens) for row in rows] == [
        "[CLS] the in and then very fine [SEP]", "[CLS] it was dull [SEP]",
    ]  # fmt: skip
    assert rows[0].segments.tolist() == [0] * 8
    assert rows[0].targets.tolist() == [1]
    assert maker.cut([long, short]) == ["the in and then very fine", "it was dull"]


def test_logits_become_labels_with_probabilities() -> None:
    one = task_of({"type": "text_classification", "labels": ["no", "yes"]})
    found = decoded(one, encoder(one.model_dump()).rows([Example("fine")])[0], [np.array([0.0, 2.0], np.float32)])
    assert found.labels == ("yes",)
    assert found.probabilities is not None
    assert found.probabilities["yes"] == pytest.approx(0.8808, abs=1e-4)
    several = task_of({"type": "text_classification", "labels": ["a", "b"], "multiple": True})
    assert decoded(several, [], [np.array([1.0, -1.0], np.float32)]).labels == ("a",)


def test_logits_of_windows_become_entities_of_the_whole_text() -> None:
    maker = encoder(TAGS, max_tokens=7)
    example = Example("the film was we saw Anna in Rome then very")
    rows = maker.rows([example])[0]
    logits = []
    for row in rows:
        said = [example.text[start:end] for start, end in row.offsets]
        tags = [{"Anna": 1, "Rome": 3}.get(word, 0) for word in said]
        logits.append(np.eye(5, dtype=np.float32)[tags])
    found = decoded(maker.task, rows, logits)
    assert [(example.text[s.start : s.end], s.label) for s in found.spans] == [("Anna", "person"), ("Rome", "place")]


def test_the_best_answer_ends_after_it_begins_and_is_short_enough() -> None:
    offsets = [(0, 0), (0, 3), (4, 8), (9, 12), (0, 0)]
    starts = np.array([9, 0, 1, 5, 9], np.float32)
    ends = np.array([9, 4, 3, 0, 9], np.float32)
    assert best_span(starts, ends, offsets, 3) == (3, 3, 5.0)
    assert best_span(starts, np.array([9, 0, 0, 1, 9], np.float32), offsets, 1) == (3, 3, 6.0)
    assert best_span(starts, ends, [(0, 0)] * 5, 3) is None


def test_no_answer_is_given_where_the_first_token_is_likelier() -> None:
    maker = encoder({"type": "question_answering"})
    rows = maker.rows([Example("Anna in Rome", "where?")])[0]
    flat = np.zeros((2, len(rows[0].tokens)), np.float32)
    sure, unsure = flat.copy(), flat.copy()
    sure[:, 6] = 4.0
    unsure[:, 0] = 4.0
    assert [span.start for span in decoded(maker.task, rows, [sure]).spans] == [8]
    assert decoded(maker.task, rows, [unsure]).spans == ()
