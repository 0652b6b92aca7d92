"""Text comes out written one way, and a second time changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayloom.data.rules.normalise import normaliser
from rayloom.specs.clean import Normalisation

collapse = normaliser(Normalisation())
keep = normaliser(Normalisation(white_space="keep"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain text", "plain text"),
        ("donâ€™t", "don't"),  # UTF-8 read as Windows-1252
        ("schÃ¶n", "schön"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("a &lt; b", "a < b"),
        ("<p>Tom &amp; Jerry</p>", "<p>Tom &amp; Jerry</p>"),  # HTML may mean its entities
        ("&amp;amp;", "&"),
        ("“curly” ‘quotes’", "\"curly\" 'quotes'"),
        ("eﬃcient ﬁle", "efficient file"),
        ("e\u0301", "é"),  # decomposed to composed
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07", "bell"),
        ("a \t b\u00a0 c", "a b c"),
        ("one \r\n two\r\n\r\n\r\n\r\nthree", "one\ntwo\n\nthree"),
        ("\n  edges \n", "edges"),
        ("中文，标点。", "中文，标点。"),  # full-width punctuation is right in Chinese
        ("می‌خواهم", "می‌خواهم"),  # the joiner is part of the spelling
    ],
)
def test_examples(raw: str, expected: str) -> None:
    assert collapse(raw) == expected


def test_code_keeps_its_white_space() -> None:
    code = "def f():\r\n    return 1\n\n\n\n# done\t\n"
    assert keep(code) == code.replace("\r\n", "\n")


def test_quotes_and_encoding_can_be_left_alone() -> None:
    untouched = normaliser(Normalisation(fix_encoding=False, straight_quotes=False))
    assert untouched("“donâ€™t” &amp;") == "“donâ€™t” &amp;"


awkward = st.one_of(st.characters(), st.sampled_from("&;lt#x20amp<>ÃÂâ€™œ\u200b\u0301 \n\r\t\xa0\x85“”ﬁe"))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=awkward, max_size=40))
@example("&am\u200bp;lt;")
@example("Ã\u00a0\r\n")
def test_a_second_time_changes_nothing(text: str) -> None:
    for normalise in (collapse, keep):
        once = normalise(text)
        assert normalise(once) == once
        once.encode()  # no half of a surrogate pair is left
