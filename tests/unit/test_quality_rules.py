"""Every rule against examples counted by hand and the thresholds as published."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayloom.data.rules import c4, characters, fineweb, gopher, language, repetition
from rayloom.data.rules.document_rules import Kept, judge_of
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.clean import Normalisation
from rayloom.specs.cleaning.rules import (
    C4Rules,
    CharacterRules,
    FineWebRules,
    GopherRules,
    LanguageRules,
    LengthRules,
    RepetitionRules,
    Rules,
)
from rayloom.text.language import identified, sampled
from rayloom.text.text_views import Folded, TextView, is_unspaced

PROSE = (
    "The harbour lies at the mouth of a small river, and the boats that leave it every morning have names of saints. "
    "Most of them come back before noon with little to show for it. The fishermen do not complain: they mend the nets, "
    "drink coffee, and tell each other that tomorrow will be better. In the evening the lamps are lit along the quay."
)
LINE = "A line of more than thirty letters"
CHINESE = (
    "清晨的海港非常安静，渔民们已经准备出发。他们的小船在水面上轻轻地摇晃，远处的灯塔还亮着。"
    "没有人说话，只有海浪拍打着岸边的石头。太阳慢慢升起来了，天空变成了金色，新的一天又开始了。"
)


def _reason(drop: Drop | None) -> str | None:
    return drop.reason if drop else None


def _gopher(text: str, **changes: Any) -> str | None:
    return _reason(gopher.judge(ExaminedText(text), GopherRules(**changes)))


# -- the thresholds that were published --------------------------------------------------------------------------------


def test_gopher_has_the_published_thresholds() -> None:
    """Rae et al. 2021, appendix A.1.1."""
    rules = GopherRules()
    assert (rules.min_words, rules.max_words) == (50, 100_000)
    assert (rules.min_mean_word_characters, rules.max_mean_word_characters) == (3, 10)
    assert rules.max_symbols_per_word == 0.1
    assert (rules.max_bullet_lines_share, rules.max_ellipsis_lines_share) == (0.9, 0.3)
    assert (rules.min_alphabetic_words_share, rules.min_stop_words) == (0.8, 2)
    assert set(rules.stop_words) == {"the", "be", "to", "of", "and", "that", "have", "with"}


def test_repetition_has_the_published_thresholds() -> None:
    """Rae et al. 2021, table A1."""
    rules = RepetitionRules()
    assert rules.max_duplicate_lines_share == rules.max_duplicate_paragraphs_share == 0.30
    assert rules.max_duplicate_line_characters_share == rules.max_duplicate_paragraph_characters_share == 0.20
    assert rules.max_top_ngram_characters_share == {2: 0.20, 3: 0.18, 4: 0.16}
    assert rules.max_duplicate_ngram_characters_share == {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def test_c4_and_fineweb_have_the_published_thresholds() -> None:
    """Raffel et al. 2020, section 2.2; Penedo et al. 2024, section 3.6."""
    assert (C4Rules().min_words_per_line, C4Rules().min_sentences) == (5, 3)
    rules = FineWebRules()
    assert (rules.min_end_mark_lines_share, rules.max_short_lines_share, rules.short_line_characters) == (
        0.12,
        0.67,
        30,
    )
    assert rules.max_duplicate_line_characters_share == 0.1


# -- Gopher ------------------------------------------------------------------------------------------------------------


def test_prose_passes_every_family() -> None:
    text = PROSE + "\n" + PROSE.replace("harbour", "station").replace("boats", "trains").replace("river", "valley")
    rules = Rules(c4=C4Rules(), fineweb=FineWebRules(), repetition=None)
    (judgement,) = judge_of(Normalisation(), rules)(text)
    assert isinstance(judgement, Kept) and judgement.text == text and not judgement.was_shortened
    (judgement,) = judge_of(Normalisation(), Rules())(PROSE)
    assert isinstance(judgement, Kept)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("the and with " * 16, {}, "too_few_words"),  # 48 words
        ("the and with " * 17, {}, None),  # 51 words
        ("the and with " * 17, {"max_words": 50}, "too_many_words"),
        ("a to of " * 20, {}, "words_too_short"),  # mean (1 + 2 + 2) / 3
        ("internationalisation the of " * 20, {}, None),  # mean (20 + 3 + 2) / 3 = 8.3
        ("internationalisations internationally the of " * 20, {}, "words_too_long"),  # mean 10.75
        ("the and of #word word words " * 10, {}, "too_many_hashes"),  # 10 hashes, 60 words: 0.17
        ("the and of words word wording more #most than that " * 6, {}, None),  # 6 hashes, 60 words: exactly 0.1
        ("the and of word... word words " * 10, {}, "too_many_ellipses"),
        ("the and of word… word words " * 10, {}, "too_many_ellipses"),
        ("- the and with words\n" * 20, {}, "too_many_bullet_lines"),
        ("- the and with words\n" * 18 + "the and with words\n" * 2, {}, None),  # exactly 0.9
        (
            "the and of the words have more\n" * 6 + "and the rest of it was lost...\n" * 4,
            {},
            "too_many_ellipsis_lines",
        ),
        ("the and of the words have more\n" * 7 + "and the rest of it was lost...\n" * 3, {}, None),  # exactly 0.3
        ("the and of 1234 " * 20, {}, "too_few_alphabetic_words"),  # 0.75
        ("the and of that 1234 " * 20, {}, None),  # exactly 0.8
        ("some words without any function word at all here " * 8, {}, "too_few_stop_words"),
        ("some words without any function word but the one " * 8, {}, "too_few_stop_words"),
        ("some words THE function AND others here again now " * 8, {}, None),
        ('some words "with" function (that) others here again now ' * 8, {}, None),
    ],
)
def test_gopher(text: str, changes: dict[str, Any], reason: str | None) -> None:
    assert _gopher(text.strip(), **changes) == reason


def test_the_measured_value_is_told() -> None:
    drop = gopher.judge(ExaminedText("the and of 1234 " * 20), GopherRules())
    assert drop == Drop("too_few_alphabetic_words", 0.75)


def test_chinese_is_not_judged_by_rules_for_spaced_words() -> None:
    view = TextView(CHINESE)
    assert view.is_unspaced and len(view.words) == len(CHINESE)
    assert _gopher(CHINESE) is None
    assert _gopher(CHINESE[:40]) == "too_few_words"
    assert _gopher("清，，" * 30) == "too_few_alphabetic_words"
    assert not is_unspaced(PROSE + "清晨")


# -- repetition --------------------------------------------------------------------------------------------------------


def _folded(text: str) -> Folded:
    return Folded(text, is_unspaced(text))


def test_shares_of_duplicate_lines() -> None:
    # Of four lines one occurred before: a quarter; its 2 characters of 16 (line ends count) are an eighth.
    assert repetition.duplicate_shares(["aa", "bbb", "aa", "cccccc"], 16) == (0.25, 0.125)
    assert repetition.duplicate_shares(["aa", "bb"], 5) == (0.0, 0.0)
    assert repetition.duplicate_shares([], 0) == (0.0, 0.0)


def top_ngram_share(text: str, length: int) -> float:
    folded = _folded(text)
    return repetition.top_ngram_share(folded, length, repetition.most_frequent(folded.ngrams(length))[0])


def test_top_ngram_share() -> None:
    # "ab cd" occurs twice and covers 8 of 16 letters: ab cd ef ab cd gh ij kl.
    assert top_ngram_share("ab cd ef AB cd gh ij kl", 2) == pytest.approx(8 / 16)
    # Overlapping occurrences are not counted twice: "ha ha" covers all of ha ha ha.
    assert top_ngram_share("ha ha ha", 2) == 1.0
    assert top_ngram_share("every word is another one", 2) == 0.0
    # Two bigrams occur twice; the longer counts.
    assert top_ngram_share("a b x yyyy zzzz w a b q yyyy zzzz", 2) == pytest.approx(16 / 23)


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee", "x1", "x2", "x3", "山", "水"]), max_size=60),
    st.lists(st.integers(0, 20), min_size=9, max_size=9),
)
def test_what_is_not_computed_would_not_have_decided(words: list[str], percent: list[int]) -> None:
    limits = [one / 20 for one in percent]
    top, duplicate = dict(zip((2, 3, 4), limits, strict=False)), dict(zip(range(5, 11), limits[3:], strict=True))
    given = {"max_top_ngram_characters_share": top, "max_duplicate_ngram_characters_share": duplicate}
    text = " ".join(words)
    drop = repetition.judge(ExaminedText(text), RepetitionRules.model_validate(given))
    folded = _folded(text)

    def units(length: int) -> int:
        return round(1.6 * length) if folded.is_unspaced else length

    shares = [(f"repeats_one_{n}_gram", top_ngram_share(text, units(n)), top[n]) for n in top]
    shares += [
        (f"repeats_{n}_grams", repetition.duplicate_ngram_share(folded, units(n)), duplicate[n]) for n in duplicate
    ]
    over = [(reason, share) for reason, share, limit in shares if share > limit]
    assert (drop and (drop.reason, drop.value)) == (over[0] if over else None)


def test_duplicate_ngram_share() -> None:
    # "a b c d e" occurs twice among 12 one-letter words: 10 of 12.
    assert repetition.duplicate_ngram_share(_folded("a b c d e x a b c d e y"), 5) == pytest.approx(10 / 12)
    # Words in two overlapping duplicate n-grams count once: a b c d e f twice of 13.
    assert repetition.duplicate_ngram_share(_folded("a b c d e f x a b c d e f"), 5) == pytest.approx(12 / 13)
    assert repetition.duplicate_ngram_share(_folded("a b c d e x a b c d f y"), 5) == 0.0
    assert repetition.duplicate_ngram_share(_folded("a b"), 5) == 0.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "one line\n" * 3 + "another one\nthe third\na fourth\nsome fifth\nno sixth",
            "too_many_duplicate_line_characters",
        ),
        ("same line\n" * 5 + "other\nthird", "too_many_duplicate_lines"),  # 4 of 7
        (f"{'long ' * 20}\n" * 2 + "b\nc\nd\ne\nf", "too_many_duplicate_line_characters"),
        ("buy now or never, buy now or never, see", "repeats_one_2_gram"),
    ],
)
def test_repetition(text: str, reason: str) -> None:
    assert _reason(repetition.judge(ExaminedText(text), RepetitionRules())) == reason


def test_a_paragraph_said_twice_is_found_by_its_ngrams() -> None:
    text = f"{PROSE} {PROSE}"
    assert _reason(repetition.judge(ExaminedText(text), RepetitionRules())) == "repeats_5_grams"
    rules = RepetitionRules(max_duplicate_ngram_characters_share={10: 0.1})
    assert _reason(repetition.judge(ExaminedText(text), rules)) == "repeats_10_grams"


def test_chinese_repetition_counts_characters() -> None:
    assert repetition.judge(ExaminedText(CHINESE), RepetitionRules()) is None
    twice = CHINESE + CHINESE
    assert _reason(repetition.judge(ExaminedText(twice), RepetitionRules())) == "repeats_5_grams"


# -- C4 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("This line ends with a full stop.", True),
        ("This line ends with nothing at all", False),
        ('"This line ends with a quotation mark"', True),
        ("This line ends with an ellipsis...", False),
        ("Only four words here.", False),
        ("Exactly five words are here.", True),
        (f"One word here is {'x' * 1001} far too long.", False),
        ("Please turn Javascript on to see this.", False),
        ("We say how in our Privacy Policy here.", False),
    ],
)
def test_c4_lines(line: str, kept: bool) -> None:
    assert c4.keeps_line(line, C4Rules(), False) is kept


def test_c4_documents() -> None:
    page = "Menu\nThe first sentence has words enough.\nThe second one has them too [1]. And so has the third."
    assert c4.without_lines(page, C4Rules()) == "\n".join(page.split("\n")[1:]).replace(" [1]", " ")
    assert c4.without_lines(page, C4Rules(min_sentences=4)) == Drop("too_few_sentences", 3)
    assert c4.without_lines(f"{page} {{}}", C4Rules()) == Drop("curly_bracket", 1)
    assert c4.without_lines(f"Lorem ipsum. {page}", C4Rules()) == Drop("lorem_ipsum", 1)
    assert c4.without_lines("Menu\nHome", C4Rules()) == Drop("too_few_sentences", 0)


def test_c4_counts_sentences() -> None:
    assert c4.num_sentences("One. Two! Three? Four") == 4
    assert c4.num_sentences('He said "no." She left...') == 2
    assert c4.num_sentences("Version 2.1 is out.") == 1
    assert c4.num_sentences("一句话。两句话！三句话？") == 3
    assert c4.num_sentences("") == 0


def test_c4_in_chinese() -> None:
    text = CHINESE.replace("。", "。\n")
    assert c4.without_lines(text, C4Rules()) == text.strip()


# -- FineWeb -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([f"{LINE}."] + [LINE + "x" * n for n in range(9)], "too_few_ended_lines"),  # 0.1
        ([LINE + "x" * n + "." for n in range(3)] + ["short." + "x" * n for n in range(7)], "too_many_short_lines"),
        ([f"{LINE}."] * 3, "too_many_repeated_line_characters"),
        ([LINE + "x" * n + "." for n in range(9)], None),
        ([f"Two {'w' * 40}{n}." for n in range(9)], "too_many_lines"),  # 8 line ends, 18 words
    ],
)
def test_fineweb(lines: list[str], reason: str | None) -> None:
    assert _reason(fineweb.judge(ExaminedText("\n".join(lines)), FineWebRules())) == reason


# -- language ----------------------------------------------------------------------------------------------------------

GERMAN = "Der Hafen liegt an der Mündung eines kleinen Flusses, und die Boote fahren jeden Morgen hinaus aufs Meer."


@pytest.mark.parametrize(("text", "code"), [(PROSE, "en"), (CHINESE, "zh"), (GERMAN, "de")])
def test_language(text: str, code: str) -> None:
    found, confidence = identified(text, 1500)
    assert found == code and confidence > 0.65
    examined = ExaminedText(text)
    assert language.judge(examined, LanguageRules(allowed=(code,))) is None
    assert examined.notes == {f"languages/{code}": 1}
    assert _reason(language.judge(examined, LanguageRules(allowed=("fi",)))) == "wrong_language"


def test_a_text_of_no_language_is_unsure() -> None:
    drop = language.judge(ExaminedText("qx zzv 12 :: kpf"), LanguageRules())
    assert drop == Drop("unsure_language", pytest.approx(0.2, abs=0.2))


def test_beginning_middle_and_end_of_a_long_text_are_looked_at() -> None:
    text = "a" * 1000 + "b" * 1000 + "c" * 1000
    assert sampled(text, 300) == f"{'a' * 100} {'b' * 100} {'c' * 100}"
    assert sampled("short", 300) == "short"


# -- characters and length ---------------------------------------------------------------------------------------------


def test_special_characters() -> None:
    assert characters.special_share("ab c_!") == pytest.approx(2 / 6)
    assert characters.special_share("") == 0.0
    drop = characters.judge(ExaminedText("a!b?c*d"), CharacterRules())
    assert drop == Drop("too_many_special_characters", pytest.approx(3 / 7))
    assert characters.judge(ExaminedText(CHINESE), CharacterRules()) is None


def test_length() -> None:
    text = "first line\nsecond line here\nthird"
    assert characters.fitted(text, LengthRules()) == [text]
    for rules, reason in ((LengthRules(min_characters=50), "few"), (LengthRules(max_characters=20), "many")):
        drop = characters.judge_length(ExaminedText(text), rules)
        assert drop == Drop(f"too_{reason}_characters", len(text))
    split = LengthRules(max_characters=20, when_longer="split")
    assert characters.fitted(text, split) == ["first line", "second line here", "third"]
    truncate = LengthRules(max_characters=20, when_longer="truncate")
    assert characters.fitted(text, truncate) == ["first line"]
    assert characters.fitted("two words", LengthRules(max_characters=5, when_longer="split")) == ["two", "words"]
    assert characters.fitted("unbroken", LengthRules(max_characters=5, when_longer="split")) == ["unbro", "ken"]


def test_a_split_document_becomes_pieces_that_are_judged_alone() -> None:
    length = LengthRules(max_characters=350, when_longer="split")
    rules = Rules(length=length, repetition=None)
    judgements = judge_of(Normalisation(), rules)(f"{PROSE}\n{PROSE[:60]}")
    assert isinstance(judgements[0], Kept) and judgements[0].was_shortened
    assert judgements[1] == Drop("too_few_words", 13, rule="gopher")


def test_families_can_be_turned_off() -> None:
    nothing = Rules(gopher=None, repetition=None, characters=None)
    (judgement,) = judge_of(Normalisation(), nothing)("word! " * 3)
    assert isinstance(judgement, Kept)
    assert judge_of(Normalisation(), nothing)(" \n ") == [Drop("too_few_characters", 0, rule="length")]
