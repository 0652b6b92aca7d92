"""The linear baseline of a task: trained on the very rows that the model was trained on, cut where the model's were."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import TypeAdapter

from rayloom.artifacts.files import matching_files
from rayloom.artifacts.lineage import field_in_training, training_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.models.responders.responder import Predictor
from rayloom.reading.files import RowFile
from rayloom.reading.files_in_place import files_in_place
from rayloom.score.linear_baseline import text_labels, word_tags
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence, TextClassification, TokenClassification
from rayloom.text.labelled.dataset import split_examples
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example, spans_of_tokens, tags_of_tokens

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def linear_predictions(
    predictor: Predictor, rows_of: Artifact, examples: Sequence[Example], store: Store
) -> list[Prediction]:
    """What a linear model says about the texts. Raises InputError where the task has none."""
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


def training_examples(predictor: Predictor, rows_of: Artifact, store: Store) -> list[Example]:
    """The texts that a training job was trained on, read and split again as it did."""
    training = training_of(rows_of.manifest)
    data = TypeAdapter(LabelledData).validate_python(training["data"])
    files: dict[str, list[RowFile]] = {
        f"data.sources.{number}.dataset": [*files_in_place(source.uri, source.files)]
        for number, source in enumerate(data.sources)
        if source.uri is not None
    }
    for parent in rows_of.manifest.parents:
        field = field_in_training(parent.field)
        if field.startswith("data.sources."):
            manifest = store.manifest(parent.name, parent.version)
            if manifest is None:
                what = f"The data of {rows_of.id}, {parent.name}@{parent.version}, is no longer in the store"
                raise InputError(what, where=store.uri, fix="Run the job that makes it, or leave linear_baseline out.")
            pattern = data.sources[int(field.split(".")[2])].files
            files[field] = [*matching_files(store.open(manifest).path, pattern)]
    return split_examples(data, files, predictor.encoder, int(training["seed"]))[0]


def _entities(train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
    """Words are what stands between spaces; in scripts without them, characters."""
    places = [[match.span() for match in _WORD.finditer(example.text)] for example in (*train, *examples)]
    words = [[e.text[a:b] for a, b in found] for e, found in zip((*train, *examples), places, strict=True)]
    tags = [tags_of_tokens(found, example.spans) for example, found in zip(train, places, strict=False)]
    found = word_tags(words[: len(train)], tags, words[len(train) :])
    return [
        Prediction(spans=tuple(spans_of_tokens(offsets, said)))
        for offsets, said in zip(places[len(train) :], found, strict=True)
    ]
