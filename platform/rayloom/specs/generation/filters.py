"""Filters of a generating job: why a written instruction or row is dropped. Each can be turned off by null."""

from typing import Annotated

from pydantic import Field, StringConstraints

from rayloom.specs.base import Spec
from rayloom.specs.cleaning.rules import LanguageRules

Phrase = Annotated[str, StringConstraints(min_length=1)]


class LengthFilter(Spec):
    """Limits on lengths. A word is a run of letters or digits; in scripts without spaces, a character."""

    min_words: Annotated[int, Field(ge=0)] = 3
    """Shorter new instructions are dropped, as `too_few_words`."""
    max_words: Annotated[int, Field(ge=1)] = 150
    """Longer new instructions are dropped, as `too_many_words`."""
    min_answer_characters: Annotated[int, Field(ge=0)] = 1
    """Shorter answers are dropped, as `answer_too_short`."""
    max_answer_characters: Annotated[int, Field(ge=1)] | None = None
    """Longer answers are dropped, as `answer_too_long`. Default: no limit."""


class UnanswerableFilter(Spec):
    """Drops new instructions that ask for what a language model cannot see or do, as `unanswerable`."""

    words: tuple[Phrase, ...] = (
        *("image", "images", "picture", "pictures", "photo", "photos", "graph", "graphs", "chart", "diagram", "map"),
        *("maps", "file", "files", "video", "audio", "music", "flowchart", "draw", "plot", "go to", "website"),
    )
    """Words and phrases, found as whole words in any case."""


class SeedWordsFilter(Spec):
    """Drops rows that repeat a passage of a seed instead of writing something new, as `copies_a_seed`."""

    max_copied_words: Annotated[int, Field(ge=1)] = 12
    """So many words in a row may be a seed's."""


class RefusalFilter(Spec):
    """Drops rows whose answer declines to answer, as `refusal`."""

    phrases: tuple[Phrase, ...] = (
        *("as an ai", "as a language model", "as a large language model", "i am an ai", "i'm an ai"),
        *("i cannot help", "i can't help", "i cannot assist", "i can't assist", "i'm sorry, but", "i am sorry, but"),
        *("i cannot fulfill", "i'm unable to", "i am unable to", "i do not have the ability", "i don't have access"),
    )
    """Looked for in the first 200 characters of an answer, in any case."""


class DebrisFilter(Spec):
    """Drops texts with left-overs of a prompt's or chat template's form, as `template_debris`."""

    phrases: tuple[Phrase, ...] = (
        *("<|", "|>", "[INST]", "[/INST]", "<<SYS>>", "### Instruction", "### Response", "{{", "}}"),
        *("Instruction:", "Class label:", "Task 1:", "Come up with", "#Given Prompt#", "#Rewritten Prompt#"),
    )
    """Looked for anywhere, in this case."""
    drop_cut_off: bool = True
    """Also drop answers that end only because they were as long as allowed, as `cut_off`."""


class SimilarFilter(Spec):
    """Drops new instructions that are too similar to a seed or to one that was kept, as `too_similar`."""

    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """From this ROUGE-L on (Lin 2004; the threshold of Wang et al. 2022)."""


class NearDuplicateFilter(Spec):
    """Drops rows that are nearly the same as one that was kept, as `near_duplicate`; rows with the same prompt and
    another answer as `same_prompt`."""

    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of two sets of shingles, computed exactly on candidates from MinHash."""
    shingle_words: Annotated[int, Field(ge=1, le=50)] = 3
    """Words in a shingle."""


class GenerateFilters(Spec):
    """All filters in the order in which they are applied, to new instructions before anything is made of them, and then
    to rows. Prompts that were given are not judged."""

    length: LengthFilter | None = LengthFilter()
    """Lengths of new instructions and of answers."""
    debris: DebrisFilter | None = DebrisFilter()
    """Left-overs of forms."""
    unanswerable: UnanswerableFilter | None = UnanswerableFilter()
    """What a language model cannot see or do."""
    refusals: RefusalFilter | None = RefusalFilter()
    """Answers that decline."""
    language: LanguageRules | None = None
    """Which languages are kept (`wrong_language`, `unsure_language`). Default: not looked at."""
    seed_words: SeedWordsFilter | None = SeedWordsFilter()
    """Passages of seeds."""
    similar: SimilarFilter | None = SimilarFilter()
    """ROUGE-L to everything that was kept so far."""
    near_duplicates: NearDuplicateFilter | None = NearDuplicateFilter()
    """Rows that are nearly the same."""
