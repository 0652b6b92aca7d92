"""What augmentation gains on a small labelled set: 100 film reviews, with and without copies, on 4,000 unseen ones.

A bag of words and logistic regression, as that is what so few rows can train; mean and spread over ten draws of the 100
rows. `unchanged_copies` shows how much comes from more rows weighing more against the regression's penalty, and is no
gain of augmentation. Prints one JSON object. Needs no cluster.
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
from pathlib import Path
from statistics import fmean, stdev

from real_text import ROOT
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from rayloom.artifacts.store import Store
from rayloom.data.labelled.augmentation import Augmenter
from rayloom.dispatch import load_job, run
from rayloom.specs.cleaning.augmentation import Augmentation

NUM_ROWS, NUM_TEST_ROWS, NUM_DRAWS, COPIES = 100, 4000, 10, 4
METHODS = {
    "none": [],
    "deletion": [{"type": "deletion", "share": 0.1}],
    "sentence_shuffle": [{"type": "sentence_shuffle"}],
    "both": [{"type": "deletion", "share": 0.1}, {"type": "sentence_shuffle"}],
}
Row = tuple[str, int]


def main() -> None:
    rows = _reviews()
    random.Random(0).shuffle(rows)
    test, rest = rows[:NUM_TEST_ROWS], rows[NUM_TEST_ROWS:]
    draws = [random.Random(seed).sample(rest, NUM_ROWS) for seed in range(NUM_DRAWS)]
    found = {}
    for name, methods in METHODS.items():
        scores = [_accuracy(_augmented(draw, methods), test) for draw in draws]
        found[name] = {"accuracy": round(fmean(scores), 4), "spread": round(stdev(scores), 4)}
    repeated = [_accuracy(draw * (COPIES + 1), test) for draw in draws]
    found["unchanged_copies"] = {"accuracy": round(fmean(repeated), 4), "spread": round(stdev(repeated), 4)}
    print(json.dumps({"rows": NUM_ROWS, "copies": COPIES, "test_rows": NUM_TEST_ROWS, "draws": NUM_DRAWS} | found))


def _reviews() -> list[Row]:
    csv.field_size_limit(10**9)
    with tempfile.TemporaryDirectory() as folder:
        job = load_job(ROOT / "jobs" / "recipes" / "imports" / "movie-reviews.yaml")
        (path,) = run(job, Store(str(Path(folder) / "store")))[0].path.rglob("*.csv")
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["text"], int(row["label"])) for row in csv.DictReader(file)]


def _augmented(rows: list[Row], methods: list[dict[str, object]]) -> list[Row]:
    if not methods:
        return rows
    augmenter = Augmenter(Augmentation.model_validate({"methods": methods, "copies_per_row": COPIES}), {})
    copies = [(made, label) for n, (text, label) in enumerate(rows) for made, _ in augmenter.copies(text, n)]
    return rows + copies


def _accuracy(train: list[Row], test: list[Row]) -> float:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000))
    texts, labels = zip(*train, strict=True)
    model.fit(texts, labels)
    return float(model.score([text for text, _ in test], [label for _, label in test]))


if __name__ == "__main__":
    main()
