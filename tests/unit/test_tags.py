"""BIO tags of words and sub-words, both ways."""

from __future__ import annotations

import pytest

from rayloom.text.labelled.examples import ExampleError, Span, spans_of_tokens, spans_of_words, tags_of_tokens


def test_words_with_tags_become_spans_of_characters() -> None:
    words, tags = ["Anna", "of", "New", "York", "left"], ["B-per", "O", "B-loc", "I-loc", "O"]
    spans = spans_of_words(words, tags, " ", {"loc": "place"})
    assert spans == (Span(0, 4, "per"), Span(8, 16, "place"))
    assert spans_of_words(["江", "泽民", "说"], ["B-p", "I-p", "O"], "", {}) == (Span(0, 3, "p"),)


@pytest.mark.parametrize(
    ("tags", "said"), [(["I-per", "O"], "begins with B"), (["B-per", "I-loc"], "begins with B"), (["X", "O"], "not O")]
)
def test_tags_that_mean_nothing_are_named(tags: list[str], said: str) -> None:
    with pytest.raises(ExampleError, match=said) as raised:
        spans_of_words(["Anna", "left"], tags, " ", {})
    assert raised.value.problem == "bad_tag"


def test_sub_words_get_the_tag_of_the_entity_that_they_overlap() -> None:
    # [CLS] New ##York ##er s [SEP]; the entity is "New Yorker", and begins a second one right behind it.
    offsets = [(0, 0), (0, 3), (4, 8), (8, 10), (10, 11), (0, 0)]
    spans = [Span(0, 10, "people"), Span(10, 11, "x")]
    assert tags_of_tokens(offsets, spans) == ["O", "B-people", "I-people", "I-people", "B-x", "O"]


def test_an_entity_inside_a_word_marks_the_sub_word_that_holds_it() -> None:
    assert tags_of_tokens([(0, 6), (7, 9)], [Span(2, 4, "x")]) == ["B-x", "O"]


def test_tags_become_spans_again_and_an_orphaned_i_begins_one() -> None:
    offsets = [(0, 3), (4, 8), (9, 12), (13, 15)]
    assert spans_of_tokens(offsets, ["B-a", "I-a", "I-b", "O"]) == [Span(0, 8, "a"), Span(9, 12, "b")]
    assert spans_of_tokens(offsets, ["B-a", "B-a", "O", "I-a"]) == [Span(0, 3, "a"), Span(4, 8, "a"), Span(13, 15, "a")]
