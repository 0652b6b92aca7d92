"""Linear baselines for tasks: TF-IDF and logistic regression for texts, word features and logistic regression for tags.

A fine-tuned model should beat them. They take seconds on one core.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

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
