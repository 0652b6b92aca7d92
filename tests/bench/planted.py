"""A corpus in which every duplicate is known, and the truth about it computed without a line of Rayloom's code.

The unit: sets of word 5-shingles after case folding and collapsing white space; for Chinese, of character 5-shingles.
Quotes are straight and Unicode is NFC before that, as Rayloom's normalisation leaves text.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})
CURLY = str.maketrans({'"': "”", "'": "’"})
THRESHOLD = 0.9
MAX_DOCUMENTS_OF_A_RARE_SHINGLE = 60


def is_chinese(text: str) -> bool:
    return len(re.findall(r"[\u4e00-\u9fff]", text)) > 0.2 * len(text)


def shingles(text: str) -> frozenset[tuple[str, ...] | str]:
    folded = unicodedata.normalize("NFC", text.translate(QUOTES)).casefold().split()
    if is_chinese(text):
        joined = " ".join(folded)
        return frozenset(joined[i : i + 5] for i in range(len(joined) - 4)) or frozenset({joined})
    return frozenset(tuple(folded[i : i + 5]) for i in range(len(folded) - 4)) or frozenset({tuple(folded)})


def jaccard(first: frozenset[object], second: frozenset[object]) -> float:
    return len(first & second) / len(first | second)


def planted(bases: list[str], num_families: int, seed: int = 0) -> list[str]:
    """The bases and their families of copies, shuffled, so that copies lie in other files than what they copy."""
    dice = random.Random(seed)
    texts = list(bases)
    for base in dice.sample([base for base in bases if len(base) > 400], num_families):
        texts += _family(base, dice)
    dice.shuffle(texts)
    return texts


def _family(base: str, dice: random.Random) -> Iterator[str]:
    kind = dice.random()
    if kind < 0.45:  # one copy at a similarity between 0.7 and 1
        yield _changed(base, dice, dice.uniform(0.0, 0.18))
    elif kind < 0.65:  # a chain: each link is changed once more
        link = base
        for _ in range(dice.randrange(2, 6)):
            link = _changed(link, dice, dice.uniform(0.01, 0.045))
            yield link
    elif kind < 0.85:  # a cluster of up to twenty
        for _ in range(dice.randrange(1, 20)):
            yield _changed(base, dice, dice.uniform(0.0, 0.05))
    else:  # differs in nothing that counts
        yield dice.choice([
            base.upper() if base.isascii() else base.replace(" ", "  "),
            base.replace(" ", " \n "),
            base.translate(QUOTES).translate(CURLY),
            unicodedata.normalize("NFD", base),
        ])  # fmt: skip


def _changed(text: str, dice: random.Random, share: float) -> str:
    """Replaces so many units, spread evenly, that about `share` of the shingles of both texts are not shared."""
    units = list(text) if is_chinese(text) else text.split(" ")
    count = round(share / (2 - share) * len(units) / 5 * 2) if share else 0
    for place in dice.sample(range(len(units)), min(count, len(units))):
        units[place] = dice.choice("天地玄黄宇宙洪荒") if is_chinese(text) else f"w{dice.randrange(10**6)}"
    return ("" if is_chinese(text) else " ").join(units)


def true_clusters(texts: list[str]) -> list[set[int]]:
    """Clusters of two and more that exact pairs at the threshold connect (single link).

    Pairs are found by shared rare shingles: two sets that share 90 % of what they have share a rare one.
    """
    sets = [shingles(text) for text in texts]
    holders: dict[object, list[int]] = defaultdict(list)
    for number, found in enumerate(sets):
        for shingle in found:
            holders[shingle].append(number)
    candidates = {
        pair
        for numbers in holders.values()
        if 1 < len(numbers) <= MAX_DOCUMENTS_OF_A_RARE_SHINGLE
        for pair in combinations(numbers, 2)
    }
    cluster = {number: {number} for number in range(len(texts))}
    for first, second in candidates:
        if cluster[first] is not cluster[second] and jaccard(sets[first], sets[second]) >= THRESHOLD - 1e-12:
            cluster[first] |= cluster[second]
            for number in cluster[second]:
                cluster[number] = cluster[first]
    return [set(numbers) for numbers in {frozenset(found) for found in cluster.values()} if len(numbers) > 1]


def judged(texts: list[str], removed: set[int]) -> dict[str, float | int]:
    """Recall and precision of what was removed, and clusters of which nothing is left."""
    clusters = true_clusters(texts)
    clustered = set().union(*clusters) if clusters else set()
    gone_well = sum(min(len(found & removed), len(found) - 1) for found in clusters)
    return {
        "planted_documents": len(texts),
        "clusters": len(clusters),
        "recall": gone_well / sum(len(found) - 1 for found in clusters),
        "precision": len(removed & clustered) / max(1, len(removed)),
        "clusters_lost": sum(found <= removed for found in clusters),
    }
