"""Quality rules for text with their published thresholds. A document that breaks a rule is dropped for its reason.

Every family can be turned off (`c4: null`) and every threshold set, for all domains or for one.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rayloom.specs.base import DatasetRef, Share, Spec

Count = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0)]


class LengthRules(Spec):
    """Limits on the length in characters, after normalisation."""

    min_characters: Annotated[int, Field(ge=1)] = 1
    """Documents with fewer characters are dropped, as `too_few_characters`."""
    max_characters: Annotated[int, Field(ge=1)] | None = None
    """Longest document; `when_longer` says what happens to a longer one. Default: no limit."""
    when_longer: Literal["drop", "split", "truncate"] = "drop"
    """drop: `too_many_characters`. split: before a line or word, each piece its own document. truncate: the rest is
    left out. Split and truncated documents are counted."""


class GopherRules(Spec):
    """Gopher's quality filters (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

    Words are separated by white space; in scripts without spaces, a word is one character.
    """

    min_words: Count = 50
    """Documents with fewer words are dropped, as `too_few_words`."""
    max_words: Count = 100_000
    """Documents with more words are dropped, as `too_many_words`."""
    min_mean_word_characters: Ratio = 3.0
    """Documents with a smaller mean word length are dropped, as `words_too_short`; not in scripts without spaces."""
    max_mean_word_characters: Ratio = 10.0
    """Documents with a larger mean word length are dropped, as `words_too_long`; not in scripts without spaces."""
    max_symbols_per_word: Ratio = 0.1
    """`too_many_hashes` and `too_many_ellipses`: occurrences for each word."""
    max_bullet_lines_share: Share = 0.9
    """`too_many_bullet_lines`: lines that begin with a bullet point."""
    max_ellipsis_lines_share: Share = 0.3
    """`too_many_ellipsis_lines`: lines that end with an ellipsis."""
    min_alphabetic_words_share: Share = 0.8
    """`too_few_alphabetic_words`: words with at least one letter."""
    min_stop_words: Count = 2
    """`too_few_stop_words`: different words of `stop_words` that occur."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Frequent words of the language that real sentences contain."""
    stop_characters: tuple[str, ...] = ("的", "一", "是", "不", "了", "在", "有", "和", "の", "に", "は", "を")
    """Frequent characters, which are counted instead of `stop_words` in scripts without spaces."""


class RepetitionRules(Spec):
    """Gopher's repetition filters (Rae et al. 2021, table A1): limits on repeated text."""

    max_duplicate_lines_share: Share | None = 0.30
    """`too_many_duplicate_lines`: lines that occurred before, of all lines."""
    max_duplicate_paragraphs_share: Share | None = 0.30
    """`too_many_duplicate_paragraphs`: paragraphs that occurred before, of all paragraphs."""
    max_duplicate_line_characters_share: Share | None = 0.20
    """`too_many_duplicate_line_characters`: characters in lines that occurred before, of all characters."""
    max_duplicate_paragraph_characters_share: Share | None = 0.20
    """`too_many_duplicate_paragraph_characters`: characters in paragraphs that occurred before, of all characters."""
    max_top_ngram_characters_share: dict[Annotated[int, Field(ge=2, le=4)], Share] = Field(
        default={2: 0.20, 3: 0.18, 4: 0.16}
    )
    """`repeats_one_{n}_gram`: characters of the most frequent word n-gram, where it occurs more than once."""
    max_duplicate_ngram_characters_share: dict[Annotated[int, Field(ge=5, le=10)], Share] = Field(
        default={
            5: 0.15,
            6: 0.14,
            7: 0.13,
            8: 0.12,
            9: 0.11,
            10: 0.10,
        }
    )
    """`repeats_{n}_grams`: characters within all word n-grams that occur more than once, each character once."""


class C4Rules(Spec):
    """C4's filters (Raffel et al. 2020, arXiv:1910.10683, section 2.2), for web text.

    Lines are filtered first, then the rest of the document.
    """

    min_words_per_line: Count = 5
    """A shorter line is left out."""
    max_word_characters: Annotated[int, Field(ge=1)] = 1000
    """A line with a longer word is left out."""
    line_needs_end_mark: bool = True
    """A line that does not end in . ? ! or a quotation mark, or that ends in an ellipsis, is left out."""
    remove_citation_marks: bool = True
    """`[1]`, `[edit]` and `[citation needed]` are cut out."""
    drop_javascript_lines: bool = True
    """Lines that contain the word JavaScript."""
    drop_policy_lines: bool = True
    """Lines about cookies, terms of use and privacy policies."""
    drop_lorem_ipsum: bool = True
    """Drop pages that contain "lorem ipsum", as `lorem_ipsum`."""
    drop_curly_brackets: bool = True
    """Drop pages that contain {, which are taken for code, as `curly_bracket`."""
    min_sentences: Count = 3
    """Documents with fewer sentences are dropped, as `too_few_sentences`."""


class FineWebRules(Spec):
    """FineWeb's own filters (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    min_end_mark_lines_share: Share = 0.12
    """`too_few_ended_lines`: lines that end in a mark that ends a sentence."""
    max_short_lines_share: Share = 0.67
    """`too_many_short_lines`: lines of at most `short_line_characters`."""
    short_line_characters: Count = 30
    """A line of at most so many characters is short."""
    max_duplicate_line_characters_share: Share = 0.10
    """`too_many_repeated_line_characters`: characters in lines that occurred before, of all characters."""
    max_lines_per_word: Ratio = 0.3
    """`too_many_lines`: line ends for each word (in the authors' published code, datatrove, not in the paper)."""


class CharacterRules(Spec):
    """Limits on the characters in the text."""

    max_special_characters_share: Share = 0.25
    """`too_many_special_characters`: neither letter, digit nor white space. Ordinary prose has 2 to 6 %."""


class LanguageRules(Spec):
    """Language identification by fastText's lid.176 (Joulin et al. 2017), offline."""

    allowed: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")], ...] = ()
    """ISO 639 codes, such as en, de, zh; other languages are dropped, as `wrong_language`. An empty list allows all."""
    min_confidence: Share = 0.65
    """Documents whose language is less certain are dropped, as `unsure_language` (FineWeb's threshold, Penedo et
    al. 2024)."""
    sample_characters: Annotated[int, Field(ge=100)] = 1500
    """Of a longer text, this many characters are looked at, from its beginning, middle and end together."""


Action = Literal["keep", "mask", "drop"]


class SensitiveRules(Spec):
    """Personal data and listed words. `mask` replaces it by its kind; `drop` drops the document (`has_email`, …)."""

    email: Action = "mask"
    """E-mail addresses."""
    phone: Action = "mask"
    """Telephone numbers, by form only: with a country code, in brackets, in the American grouping, or a Chinese mobile
    number."""
    ip_address: Action = "mask"
    """Public addresses, IPv4 and IPv6."""
    iban: Action = "mask"
    """Bank account numbers (IBAN) with the right checksum (ISO 13616)."""
    payment_card: Action = "mask"
    """Payment card numbers with the right check digit (Luhn)."""
    chinese_id: Action = "mask"
    """Chinese identity numbers with the right check digit (GB 11643)."""
    words: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Words and phrases, found as whole words in any case. Documents with more than `max_listed_words` of them are
    dropped, as `listed_words`."""
    word_lists: tuple[DatasetRef, ...] = ()
    """Files with further `words`, one per line; lines that begin with # are not read."""
    max_listed_words: Count = 0
    """Listed words and phrases that a document may have before it is dropped."""


class Rules(Spec):
    """All rules for a domain, applied in this order; null turns a family off."""

    length: LengthRules = LengthRules()
    """Limits on the length of a document."""
    characters: CharacterRules | None = CharacterRules()
    """Limits on what characters a document consists of."""
    language: LanguageRules | None = None
    """Which languages are kept. Default: languages are not looked at."""
    sensitive: SensitiveRules | None = None
    """Personal data and listed words. Default: they stay as they are."""
    c4: C4Rules | None = None
    """C4's filters for web pages. Default: off."""
    gopher: GopherRules | None = GopherRules()
    """Gopher's quality filters."""
    repetition: RepetitionRules | None = RepetitionRules()
    """Gopher's limits on repeated text."""
    fineweb: FineWebRules | None = None
    """FineWeb's filters for web pages. Default: off."""
