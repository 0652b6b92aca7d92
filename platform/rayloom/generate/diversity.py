"""What a set of instructions is about: its verbs and nouns, and clusters of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayloom.score.rouge_index import rouge_words

NUM_CLUSTERS = 10
NUM_TERMS = 4
MOST_CLUSTERED = 20_000
_POLITE = re.compile(
    r"(?:please|kindly|(?:can|could|would) you|i (?:want|need) you to|you (?:should|need to)|your task is to)\b",
    re.IGNORECASE,
)
_FUNCTION_WORDS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "some", "any", "all", "each", "every", "both", "one"),
        *("to", "of", "in", "on", "at", "for", "from", "by", "with", "about", "into", "and", "or", "as"),
        *("your", "my", "our", "their", "his", "her", "its", "me", "us", "you", "it", "them"),
        *("how", "what", "why", "when", "where", "which", "who", "whose", "is", "are", "was", "were", "be"),
        *("two", "three", "four", "five", "following", "given", "new", "short", "long", "simple", "good", "brief"),
    )
)


def verb_and_noun(instruction: str) -> tuple[str, str]:
    """The first word, behind forms of politeness, and the next that is no function word: `write`, `poem`.

    A parser would find the root and its object (Wang et al. 2022, figure 3). This needs no model, and is wrong where an
    adjective stands before the noun.
    """
    text = instruction.strip()
    while match := _POLITE.match(text):
        text = text[match.end() :].lstrip(" ,:")
    verb, *rest = rouge_words(text) or [""]
    return verb, next((word for word in rest if word not in _FUNCTION_WORDS), "")


def verb_noun_counts(instructions: Sequence[str], num_verbs: int = 20, num_nouns: int = 4) -> dict[str, dict[str, int]]:
    """The most frequent nouns of the most frequent verbs; nouns that are left out count as an empty word."""
    pairs = Counter(map(verb_and_noun, instructions))
    verbs: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        verbs[verb] += count
    found = {}
    for verb, total in verbs.most_common(num_verbs):
        nouns = Counter({noun: count for (one, noun), count in pairs.items() if one == verb and noun})
        most = dict(nouns.most_common(num_nouns))
        found[verb] = most | {"": total - sum(most.values())}
    return found


def cluster_shares(texts: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Clusters (k-means on TF-IDF), the largest first: share of the texts, and the words that are typical of it."""
    texts = texts[:MOST_CLUSTERED]
    if len(set(texts)) < 2 * NUM_CLUSTERS:
        return []
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(analyzer=rouge_words, max_features=5000, max_df=0.2 if len(texts) > 100 else 1.0)
    vectors = words.fit_transform(texts)
    model = MiniBatchKMeans(NUM_CLUSTERS, random_state=seed, n_init=3).fit(vectors)
    names = words.get_feature_names_out()
    sizes = Counter(model.labels_.tolist())
    return [
        {
            "share": round(size / len(texts), 4),
            "terms": [str(names[place]) for place in model.cluster_centers_[cluster].argsort()[::-1][:NUM_TERMS]],
        }
        for cluster, size in sizes.most_common()
    ]
