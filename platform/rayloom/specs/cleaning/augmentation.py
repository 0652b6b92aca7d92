"""Augmentation: changed copies of the training rows of a labelled data set."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rayloom.specs.base import DatasetRef, Rule, Spec

PartOfWords = Annotated[float, Field(gt=0, lt=1)]


class SynonymReplacement(Spec):
    """Words replaced by synonyms (Wei & Zou 2019, EDA, arXiv:1901.11196)."""

    type: Literal["synonyms"]
    words: DatasetRef
    """Text files: one group a line, words set apart by commas."""
    share: PartOfWords = 0.1
    """Part of the words with a listed synonym that is replaced."""


class SentenceShuffle(Spec):
    """The sentences of the text in random order."""

    type: Literal["sentence_shuffle"]


class RandomDeletion(Spec):
    """Random words deleted (Wei & Zou 2019); in scripts without spaces, characters."""

    type: Literal["deletion"]
    share: PartOfWords = 0.1
    """Part of the words that is left out."""


class BackTranslation(Spec):
    """The text translated into another language and back by a chat model (Sennrich et al. 2016, arXiv:1511.06709)."""

    type: Literal["back_translation"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://"), Rule("must be a URL such as http://host:8000/v1")]
    """Address of an OpenAI-compatible endpoint, such as `rayloom run` of a `serve` job starts."""
    model: str
    """Name of the chat model, as the endpoint lists it."""
    language: str = "English"
    """The language of the texts."""
    through: str = "German"
    """The language that texts are translated into before they are translated back."""
    api_key_variable: str | None = None
    """The environment variable that holds the key; the key itself never stands in a job file."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest translation, in tokens."""


class Augmentation(Spec):
    """Changed copies of training rows. They carry `augmented_from` and `augmented_by`, and are never in validation or
    test."""

    methods: Annotated[
        tuple[
            Annotated[
                SynonymReplacement | SentenceShuffle | RandomDeletion | BackTranslation, Field(discriminator="type")
            ],
            ...,
        ],
        Field(min_length=1),
    ]
    """How copies are changed."""
    copies_per_row: Annotated[int, Field(ge=1, le=100)] = 1
    """Copies of each row; the methods take turns. A copy that differs only in case and white space is left out."""
    labels: tuple[str, ...] = ()
    """Only rows with these labels are changed; an empty list means all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed makes other copies."""
