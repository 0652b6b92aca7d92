"""The building blocks of a report: everything escaped, numbers set as numbers, charts inside the page."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from rayloom.observe.report_page import Section, chart, metric_rows, page, table, text

EVIL = "<script>alert('x')</script>&"


def test_everything_that_comes_from_data_is_escaped() -> None:
    made = page(EVIL, EVIL, [Section(EVIL, text(EVIL) + table((EVIL,), [(EVIL,)]))])
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 7


def test_a_column_of_numbers_stands_to_the_right_and_a_mixed_one_does_not() -> None:
    made = table(("name", "count"), [("a", 1234567), ("b", 0.123456)])
    assert '<td>a</td><td class="number">1,234,567</td>' in made
    assert '<th>name</th><th class="number">count</th>' in made
    assert "0.1235" in made
    assert "number" not in table(("name", "value"), [("a", 1), ("b", "text"), ("c", True)])


def test_a_text_of_several_lines_stays_one_in_a_table() -> None:
    assert "<td>one<br>&lt;two&gt;</td>" in table(("text",), [("one\n<two>",)])


def test_truth_is_said_in_words() -> None:
    assert "<td>yes</td>" in table(("is",), [(True,)])
    assert "<td>no</td>" in table(("is",), [(False,)])


def test_a_row_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        table(("one",), [("a", "b")])


def test_a_chart_stands_in_the_page_itself() -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2, 3])
    made = chart(figure)
    assert made.startswith("<svg")
    assert made.rstrip().endswith("</svg>")


def test_nested_values_become_flat_rows() -> None:
    values = {"a": 1, "b": {"c": [1, 2], "d": None, "e": {}}, "f": [{"g": 2}, {"g": 3}], "h": []}
    assert metric_rows(values) == [("a", 1), ("b.c", "1, 2"), ("f.0.g", 2), ("f.1.g", 3), ("h", "")]
