"""The linear baseline of a task: trained on the very rows that the model was trained on, cut where the model's were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from rayloom.artifacts.lineage import field_in_training, training_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.models.responders.prompted_rows import PromptPredictor
from rayloom.models.responders.responder import Predictor
from rayloom.reading.sources import row_files
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence, TextClassification, TokenClassification
from rayloom.text.labelled.dataset import split_examples
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example, spans_of_tokens, tags_of_tokens

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def linear_predictions(
    predictor: Predictor | PromptPredictor, rows_of: Artifact, examples: Sequence[Example], store: Store
) -> list[Prediction]:
    """What a linear model says about the texts. Raises InputError if there is none for the task."""
    task = predictor.task
    if isinstance(task, QuestionAnswering | SequenceToSequence) or (
        isinstance(task, TextClassification) and task.multiple
    ):
        what = (
            f"There is no linear baseline for {'several labels' if task.type == 'text_classification' else task.type}"
        )
        raise InputError(what, where="linear_baseline", fix="Leave it out.")
    train = training_examples(predictor, rows_of, store)
    if isinstance(task, TokenClassification):
        return _entities(train, examples)
    cut = predictor.encoder.cut
    labels = text_labels(cut(train), [example.labels[0] for example in train], cut(examples))
    return [Prediction((label,)) for label in labels]


def training_examples(predictor: Predictor | PromptPredictor, rows_of: Artifact, store: Store) -> list[Example]:
    """The texts that a training job was trained on, read and split again as it did."""
    training = training_of(rows_of.manifest)
    data = TypeAdapter(LabelledData).validate_python(training["data"])
    datasets: dict[str, Artifact] = {}
    for parent in rows_of.manifest.parents:
        field = field_in_training(parent.field)
        if field.startswith("data.sources."):
            manifest = store.manifest(parent.name, parent.version)
            if manifest is None:
                what = f"The data of {rows_of.id}, {parent.name}@{parent.version}, is no longer in the store"
                raise InputError(what, where=store.uri, fix="Run the job that makes it, or leave linear_baseline out.")
            datasets[field] = store.open(manifest)
    fields = [f"data.sources.{number}.dataset" for number in range(len(data.sources))]
    files = {field: row_files(source, datasets.get(field)) for field, source in zip(fields, data.sources, strict=True)}
    return split_examples(data, files, predictor.encoder, int(training["seed"]))[0]


def _entities(train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
    """Words are what stands between spaces; in scripts without them, characters."""
    places = [[match.span() for match in _WORD.finditer(example.text)] for example in (*train, *examples)]
    words = [[e.text[a:b] for a, b in found] for e, found in zip((*train, *examples), places, strict=True)]
    tags = [tags_of_tokens(found, example.spans) for example, found in zip(train, places, strict=False)]
    found = word_tags(words[: len(train)], tags, words[len(train) :])
    return [
        Prediction(spans=tuple(spans_of_tokens(offsets, tags_of_text)))
        for offsets, tags_of_text in zip(places[len(train) :], found, strict=True)
    ]


# The models: TF-IDF and logistic regression for texts, word features and logistic regression for tags.
#
# They take seconds on one core.


MAX_ITERATIONS = 1000
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def text_labels(train: Sequence[str], labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Predicted labels of `texts`, from word 1- to 2-grams; in scripts without spaces, character 1- to 3-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    unspaced = sum(bool(_UNSPACED.search(text)) for text in train) > len(train) / 2
    settings: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 3)} if unspaced else {"ngram_range": (1, 2)}
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, **settings)
    model = LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS)
    model.fit(vectors.fit_transform(train), list(labels))
    return [str(label) for label in model.predict(vectors.transform(texts))]


def word_tags(
    train: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Predicted tag of every word of `texts`, each on its own from the word and its neighbours."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = DictVectorizer()
    seen = vectors.fit_transform([features for words in train for features in _features(words)])
    model = LogisticRegression(C=10.0, max_iter=MAX_ITERATIONS)
    model.fit(seen, [tag for of_text in tags for tag in of_text])
    return [
        [str(tag) for tag in model.predict(vectors.transform(_features(words)))] if words else [] for words in texts
    ]


def _features(words: Sequence[str]) -> list[dict[str, Any]]:
    padded = ["<s>", "<s>", *words, "</s>", "</s>"]
    features = []
    for position, word in enumerate(words, 2):
        features.append(
            {
                "word": word.casefold(),
                "shape": re.sub(r"\d", "0", re.sub(r"[a-z]", "x", re.sub(r"[A-Z]", "X", word)))[:8],
                "prefix": word[:3].casefold(),
                "suffix": word[-3:].casefold(),
                **{f"{offset:+d}": padded[position + offset].casefold() for offset in (-2, -1, 1, 2)},
                "-1 and word": f"{padded[position - 1]} {word}".casefold(),
                "word and +1": f"{word} {padded[position + 1]}".casefold(),
                "is capital": word[:1].isupper(),
                "bias": 1,
            }
        )
    return features
