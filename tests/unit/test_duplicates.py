"""Hashes, candidates, verification and clusters, each against an answer computed the slow way."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom.data.dedup import clusters
from rayloom.data.dedup.clusters import EDGE, labelled, removed_members
from rayloom.data.dedup.dedup_keys import KEY
from rayloom.data.dedup.duplicate_passes import NEIGHBOURS, candidate_pairs, exact_edges
from rayloom.text.minhash import Bands, is_similar, jaccard
from rayloom.text.text_views import Folded, SpanHasher

words = st.lists(st.sampled_from(["red", "green", "blue", "élan", "日本", "x"]), max_size=30)


def _shingles(text: str, length: int = 5) -> set[tuple[str, ...]]:
    units = text.casefold().split()
    return {tuple(units[i : i + length]) for i in range(len(units) - length + 1)} or (
        {tuple(units)} if units else set()
    )


# -- hashes of ranges --------------------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.data())
def test_equal_ranges_have_equal_hashes_and_others_do_not(content: bytes, data: st.DataObject) -> None:
    hasher = SpanHasher(content)
    bounds = [(a, b) for a in range(len(content) + 1) for b in range(a, len(content) + 1)]
    starts, ends = (np.asarray(side, np.int64) for side in zip(*bounds, strict=True))
    hashes = hasher.spans(starts, ends)
    by_hash: dict[int, bytes] = {}
    for value, (a, b) in zip(hashes.tolist(), bounds, strict=True):
        assert by_hash.setdefault(value, content[a:b]) == content[a:b]
    assert len(by_hash) == len({content[a:b] for a, b in bounds})


@given(words, st.integers(1, 6))
def test_ngrams_are_those_of_the_words(some: list[str], length: int) -> None:
    text = "  ".join(some)
    expected = [" ".join(some[i : i + length]) for i in range(len(some) - length + 1)]
    found = Folded(text.upper(), False).ngrams(length)
    assert len(found) == len(expected)
    assert len(set(found.tolist())) == len(set(expected))
    for (a, x), (b, y) in combinations(zip(found.tolist(), expected, strict=True), 2):
        assert (a == b) == (x == y)


def test_units_of_scripts_without_spaces_are_characters() -> None:
    folded = Folded("清晨 的 海A", True)
    assert folded.num_units == 7  # the collapsed spaces count
    assert len(folded.shingles(5)) == 3
    assert (
        Folded("清晨的海港很安静", True).shingles(5).tolist() == Folded("清晨的海港很安静", True).shingles(5).tolist()
    )


def test_folding_ignores_case_and_white_space_only() -> None:
    first, second = Folded("Straße \n Nr 1", False), Folded("STRASSE nr  1", False)
    assert first.exact_key == second.exact_key
    assert first.exact_key != Folded("strasse nr 2", False).exact_key


@given(st.text())
def test_known_words_give_the_text_folded_whole(text: str) -> None:
    whole = " ".join(text.casefold().split()).encode()
    assert Folded(text, False, text.split()).content == Folded(text, False).content == whole


@given(words, st.integers(1, 3))
def test_shingles_are_the_different_ngrams_in_order(some: list[str], length: int) -> None:
    folded = Folded(" ".join(some), False)
    if folded.num_units >= length:
        assert folded.shingles(length).tolist() == sorted(set(folded.ngrams(length).tolist()))


def test_a_short_document_is_one_shingle() -> None:
    assert (
        Folded("only four words here", False).shingles(5).tolist()
        != Folded("only 4 words here", False).shingles(5).tolist()
    )
    assert len(Folded("only four words here", False).shingles(5)) == 1
    assert len(Folded("", False).shingles(5)) == 0


# -- similarity --------------------------------------------------------------------------------------------------------


@given(words, words)
def test_jaccard_is_that_of_the_sets(first: list[str], second: list[str]) -> None:
    a, b = _shingles(" ".join(first)), _shingles(" ".join(second))
    expected = len(a & b) / len(a | b) if a | b else 1.0
    found = jaccard(Folded(" ".join(first), False).shingles(5), Folded(" ".join(second), False).shingles(5))
    assert found == pytest.approx(expected)


def test_nine_of_ten_is_similar_at_nine_tenths() -> None:
    first, second = np.arange(9, dtype=np.uint64), np.arange(10, dtype=np.uint64)
    assert is_similar(first, second, 0.9)
    assert not is_similar(first[:8], second, 0.9)


def test_bands_collide_as_often_as_theory_says() -> None:
    """1 − (1 − s^rows)^bands, and a signature's matches are the similarity on average."""
    random = np.random.default_rng(7)
    bands = Bands(16, 8)
    hits, matches, pairs = 0, [], 300
    for _ in range(pairs):
        base = random.integers(0, 1 << 63, 115, np.uint64)
        first, second = np.sort(base[:100]), np.sort(base[15:])  # 85 of 115 shared
        matches.append((bands.signature(first) == bands.signature(second)).mean())
        hits += bool((bands.keys(first) == bands.keys(second)).any())
    similarity = 85 / 115
    assert np.mean(matches) == pytest.approx(similarity, abs=0.01)
    assert hits / pairs == pytest.approx(1 - (1 - similarity**8) ** 16, abs=0.08)


def test_bands_do_not_collide_across_bands() -> None:
    keys = Bands(4, 1).keys(np.asarray([12345], np.uint64))
    assert len(set(keys.tolist())) == 4


# -- candidates --------------------------------------------------------------------------------------------------------


def _keys(rows: list[tuple[int, int, int, int]]) -> Any:
    """Records of (key, id, exact, shingles)."""
    return np.asarray([(key, number, exact, 100, shingles) for key, number, exact, shingles in rows], KEY)


def test_identical_documents_are_linked_to_the_first() -> None:
    edges = exact_edges(_keys([(1, 30, 9, 0), (1, 10, 9, 0), (1, 20, 9, 0), (1, 5, 8, 0), (2, 6, 9, 0)]))
    assert [(int(edge["first"]), int(edge["second"])) for edge in edges] == [(10, 20), (10, 30)]


def test_candidates_share_a_key_and_could_be_similar_enough() -> None:
    rows = [(1, 3, 1, 100), (1, 1, 2, 95), (1, 2, 3, 80), (2, 1, 2, 95), (2, 9, 4, 95), (3, 1, 2, 95), (3, 3, 1, 100)]
    pairs = candidate_pairs(_keys(rows), 0.9)
    # 80 of 95 is less than 0.9, whatever they share; the pair 1-3 has two common keys and counts once.
    assert [tuple(map(int, pair)) for pair in pairs] == [(1, 3), (1, 9)]


def test_of_identical_documents_only_the_first_is_a_candidate() -> None:
    pairs = candidate_pairs(_keys([(1, 1, 7, 10), (1, 2, 7, 10), (1, 3, 8, 10)]), 0.9)
    assert [tuple(map(int, pair)) for pair in pairs] == [(1, 3)]


def test_a_group_of_up_to_65_is_compared_in_full_and_a_larger_one_stays_linked() -> None:
    full = candidate_pairs(_keys([(1, n, n, 10) for n in range(NEIGHBOURS + 1)]), 0.9)
    assert len(full) == (NEIGHBOURS + 1) * NEIGHBOURS // 2
    large = candidate_pairs(_keys([(1, n, n, 10) for n in range(1000)]), 0.9)
    assert len(large) < 1000 * NEIGHBOURS
    assert {int(pair["second"]) for pair in large} == set(range(1, 1000))


@given(st.permutations([(n % 3, n, n % 5, 10 + n % 2) for n in range(12)]))
@settings(max_examples=30)
def test_candidates_do_not_depend_on_order(rows: list[tuple[int, int, int, int]]) -> None:
    ordered = sorted(rows)
    assert candidate_pairs(_keys(rows), 0.9).tolist() == candidate_pairs(_keys(ordered), 0.9).tolist()
    assert exact_edges(_keys(rows)).tolist() == exact_edges(_keys(ordered)).tolist()


# -- clusters ----------------------------------------------------------------------------------------------------------


def _edges(pairs: list[tuple[int, int]], characters: dict[int, int], exact: dict[int, int] | None = None) -> Any:
    exact = exact or {}
    return np.asarray([(a, b, exact.get(a, a), exact.get(b, b), characters[a], characters[b]) for a, b in pairs], EDGE)


def _removed(edges: Any) -> Any:
    return removed_members(labelled(edges))


def test_chains_are_one_cluster_and_the_longest_stays() -> None:
    characters = {1: 10, 2: 30, 3: 20, 4: 30, 8: 5, 9: 5}
    gone = _removed(_edges([(1, 2), (2, 3), (3, 4), (8, 9)], characters))
    assert [(int(row["id"]), int(row["kept"])) for row in gone] == [(1, 2), (3, 2), (4, 2), (9, 8)]
    assert not gone["is_exact"].any()


def test_exact_duplicates_are_told_from_near_ones() -> None:
    # 1 and 2 are identical, 3 is near and longer, 4 is identical to 3.
    gone = _removed(_edges([(1, 2), (1, 3), (3, 4)], {1: 10, 2: 10, 3: 12, 4: 12}, {1: 7, 2: 7, 3: 8, 4: 8}))
    assert [(int(row["id"]), int(row["kept"]), bool(row["is_exact"])) for row in gone] == [
        (1, 3, False), (2, 3, True), (4, 3, True),
    ]  # fmt: skip


def test_no_edges_no_clusters() -> None:
    assert len(_removed(np.zeros(0, EDGE))) == 0


pairs_of_numbers = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda p: p[0] < p[1]), max_size=25
)


@given(pairs_of_numbers, st.randoms())
def test_every_cluster_keeps_exactly_one(pairs: list[tuple[int, int]], random: Any) -> None:
    characters = {number: (number * 7) % 5 for number in range(16)}
    gone = _removed(_edges(pairs, characters)) if pairs else np.zeros(0, clusters.REMOVED)
    cluster = {number: {number} for pair in pairs for number in pair}
    for a, b in pairs:
        cluster[a] |= cluster[b]
        for member in cluster[a]:
            cluster[member] = cluster[a]
    for members in {frozenset(found) for found in cluster.values()}:
        best = min(members, key=lambda n: (-characters[n], n))
        assert {int(row["id"]) for row in gone if int(row["id"]) in members} == members - {best}
    shuffled = list(pairs)
    random.shuffle(shuffled)
    again = _removed(_edges(shuffled, characters)) if pairs else gone
    assert again.tolist() == gone.tolist()
