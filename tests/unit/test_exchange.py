"""Records that tasks send each other, files of several parts, and clusters in rounds, against the direct answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.passes import InProcess, work_files

from rayloom.data.dedup import clusters
from rayloom.data.dedup.clusters import EDGE, MEMBER, REMOVED, labelled, removed_members
from rayloom.data.dedup.duplicate_passes import DuplicatesPass
from rayloom.data.exchange import levels
from rayloom.data.exchange.levels import CuttingTask, Parcels, Sized
from rayloom.data.exchange.mail import Mail, Packet, joined, num_bytes, part_of, ranges
from rayloom.data.exchange.work_files import packed, unpacked
from rayloom.data.passes import summed
from rayloom.data.sources.chunk_table import CHUNK, ChunkTable
from rayloom.specs.clean import Deduplication

letters = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99)), max_size=30)


@given(st.lists(letters, min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 4))
def test_every_record_arrives_once_in_order_however_packets_were_cut_and_joined(
    senders: list[list[tuple[int, int]]], num_ranges: int, at_once: int
) -> None:
    packets = []
    for number, letters in enumerate(senders):
        mail = Mail()
        for home, value in letters[: len(letters) // 2]:
            mail.send("x", "pairs", np.asarray([(number, value)]), home)
        rest = letters[len(letters) // 2 :]
        mail.send("x", "pairs", np.asarray([(number, v) for _, v in rest]), np.asarray([home for home, _ in rest]))
        packets.append(mail.sent("x"))
    batches = [packets[begin : begin + at_once] for begin in range(0, len(packets), at_once)]
    cut = {where: [part_of(joined(batch), *where) for batch in batches] for where in ranges(0, 13, num_ranges)}
    for home in range(13):
        (mine,) = (parts for (low, high), parts in cut.items() if low <= home < high)
        found = Mail([part_of(part, home, home + 1) for part in mine]).take("pairs", np.int64)
        expected = [[n, v] for n, letters in enumerate(senders) for h, v in letters if h == home]
        assert found.tolist() == expected


@given(
    st.lists(letters, min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(16, 200),
    st.sampled_from([1, 64, 1 << 20]),
)
def test_every_record_arrives_once_in_order_through_levels(
    senders: list[list[tuple[int, int]]], max_parts: int, max_bytes: int, min_part: int
) -> None:
    """What tasks join and cut stays within the limit of bytes, unless one packet is larger."""

    def run(tasks: Sequence[CuttingTask]) -> list[list[Sized]]:
        made = []
        for task in tasks:
            assert len(task.packets) == 1 or sum(packet.num_bytes for packet in task.packets) <= max_bytes
            whole = joined([sized.packet for sized in task.packets])
            made.append([sized_of(part_of(whole, *where)) for where in task.cuts])
        return made

    def sized_of(packet: Packet) -> Sized:
        return Sized(packet, num_bytes(packet))

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_PARTS", max_parts), ("MAX_JOINED_BYTES", max_bytes), ("MIN_PART_BYTES", min_part)):
            patch.setattr(levels, name, value)
        parcels = Parcels({where: [] for where in levels.first_ranges(13, len(senders))})
        for number, sent in enumerate(senders):
            mail = Mail()
            records = np.asarray([(number, value) for _, value in sent], np.int64).reshape(-1, 2)
            mail.send("x", "pairs", records, np.asarray([home for home, _ in sent], np.int64))
            for where, parts in parcels.by_range.items():
                parts.append(sized_of(part_of(mail.sent("x"), *where)))
        levels.cut(parcels, run)
    for home in range(13):
        found = Mail(parcels.to(home)).take("pairs", np.int64)
        assert found.tolist() == [[n, v] for n, sent in enumerate(senders) for h, v in sent if h == home]


def test_packets_of_ten_terabytes_are_as_many_as_the_docstring_says() -> None:
    """1.4 TB of keys from 40,000 groups of chunks to 10,000 buckets."""
    counts: list[int] = []

    def run(tasks: Sequence[CuttingTask]) -> list[list[Sized]]:
        counts.append(sum(len(task.cuts) for task in tasks))
        sizes = [sum(packet.num_bytes for packet in task.packets) // len(task.cuts) for task in tasks]
        return [[Sized(None, size)] * len(task.cuts) for task, size in zip(tasks, sizes, strict=True)]

    (whole,) = levels.first_ranges(10_000, 40_000)
    levels.cut(Parcels({whole: [Sized(None, 34 << 20)] * 40_000}), run)
    assert [round(count, -4) for count in counts] == [680_000, 110_000]


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=200), max_size=4))
def test_parts_of_a_file_come_back(parts: dict[str, bytes]) -> None:
    assert {name: bytes(part) for name, part in unpacked(packed(parts)).items()} == parts


def test_files_of_a_pass_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    work = work_files(tmp_path)
    assert work.found_parts("a/b") is None and work.load_json("c") is None
    work.write_parts("a/b", {"x": b"1", "y": b""})
    work.save_json("c", {"d": 1})
    assert {name: bytes(part) for name, part in work.read_parts("a/b").items()} == {"x": b"1", "y": b""}
    assert work.load_json("c") == {"d": 1}


def test_records_are_added_lists_joined_and_dictionaries_merged() -> None:
    records: list[dict[str, Any]] = [{"n": 1, "of": {"a": 1}, "l": [1]}, {"n": 2, "of": {"a": 1, "b": 2}, "l": [2]}]
    assert summed(records) == {"n": 3, "of": {"a": 2, "b": 2}, "l": [1, 2]}
    assert records[0]["l"] == [1], "what is summed stays as it was"


def test_groups_are_single_chunks_at_first_and_then_runs_of_up_to_64() -> None:
    for number, largest in ((1, 1), (300, 1), (512, 2), (100_000, 64)):
        groups = ChunkTable(np.zeros(number, CHUNK)).groups
        assert [chunk for group in groups for chunk in group] == list(range(number))
        assert max(map(len, groups)) == largest


# -- clusters in rounds ------------------------------------------------------------------------------------------------


def _edges(pairs: list[tuple[int, int]]) -> Any:
    return np.asarray([(a, b, a % 7, b % 7, a % 5, b % 5) for a, b in pairs], EDGE)


def _given(num_buckets: int) -> DuplicatesPass:
    chunks = ChunkTable(np.asarray([(n, 0, n << 44, 0, 0, 0) for n in range(3)], CHUNK))
    return DuplicatesPass(Deduplication(), work_files(Path()), chunks, chunks.groups, num_buckets)


def _in_rounds(edges: Any, num_buckets: int, at_once: int) -> tuple[dict[str, Any], Any]:
    """Counts and removed documents, from edges that are spread over buckets by their first document."""
    given_, passes = _given(num_buckets), InProcess()

    def send(_: int, mail: Mail) -> dict[str, Any]:
        mail.send("edges", "edges", edges, given_.bucket_of(edges["first"]))
        return {}

    _, sent = passes.exchange("sending", [0], send, writes={"edges": num_buckets})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "EDGES_AT_ONCE", at_once)
        counts, chosen = clusters.cluster(passes, [sent["edges"]], len(edges), given_)
    found = [Mail([part_of(p, n, n + 1) for p in chosen]).take("removed", REMOVED) for n in range(3)]
    return summed(counts), np.sort(np.concatenate(found), order="id")


def many_graphs(count: int, random: np.random.Generator) -> Any:
    """Edges of many small graphs (random ones, paths, stars and trees) whose documents have random ids."""
    sizes = random.integers(2, 13, count)
    begins = np.cumsum(sizes) - sizes
    number = np.where(random.integers(0, 2, count), sizes - 1, random.integers(1, 2 * sizes))
    graph = np.repeat(np.arange(count), number)
    place = np.arange(len(graph)) - np.repeat(np.cumsum(number) - number, number)
    size, shape = sizes[graph], random.integers(0, 4, count)[graph]
    inside = (place < size - 1, place + 1)
    first = np.select(
        [(shape == 1) & inside[0], (shape == 2) & inside[0], (shape == 3) & inside[0]],
        [place, np.zeros_like(place), random.integers(0, np.maximum(1, inside[1]))],
        random.integers(0, size),
    )
    second = np.where((shape > 0) & inside[0], inside[1], random.integers(0, size))
    names = random.permutation(int(sizes.sum())).astype(np.uint64) * np.uint64(1 << 20)
    ends = np.sort(np.stack([names[begins[graph] + first], names[begins[graph] + second]]), axis=0)
    ends = ends[:, ends[0] != ends[1]]
    edges = np.zeros(ends.shape[1], EDGE)
    for side, ids in zip(("first", "second"), ends, strict=True):
        edges[side], edges[f"{side}_exact"], edges[f"{side}_characters"] = ids, ids % 7, ids // (1 << 20) % 5
    return edges


def check_many_graphs(count: int, seed: int) -> None:
    edges = many_graphs(count, np.random.default_rng(seed))
    expected = removed_members(labelled(edges))
    counts, found = _in_rounds(edges, 1 + seed % 5, 0)
    assert found.tolist() == expected.tolist()
    assert counts.get("clusters", 0) == len(np.unique(expected["kept"]))


def test_rounds_find_the_components_of_one_call() -> None:
    for seed in range(100):
        check_many_graphs(1, seed)
    check_many_graphs(10_000, 100)


@pytest.mark.full
def test_rounds_find_the_components_of_one_call_in_a_million_graphs() -> None:
    for seed in range(100):
        check_many_graphs(10_000, 1000 + seed)


def test_few_edges_are_clustered_at_once_with_the_same_result() -> None:
    edges = many_graphs(100, np.random.default_rng(5))
    assert _in_rounds(edges, 3, 1_000_000)[1].tolist() == _in_rounds(edges, 3, 0)[1].tolist()
    assert len(_in_rounds(np.zeros(0, EDGE), 3, 0)[1]) == 0


def test_members_of_a_long_path_meet_in_a_few_rounds() -> None:
    """A path, the worst case, takes a number of rounds that grows with the logarithm of its length."""
    names = random.Random(3).sample(range(1 << 40), 3000)
    edges = _edges([(min(p), max(p)) for p in itertools.pairwise(names)])
    passes, rounds = InProcess(), []
    stage = passes.exchange

    def counted(label: str, *given_: Any, **further: Any) -> Any:
        rounds.append(label)
        return stage(label, *given_, **further)

    passes.exchange = counted  # type: ignore[method-assign]
    given__ = _given(5)

    def send(_: int, mail: Mail) -> dict[str, Any]:
        mail.send("edges", "edges", edges, given__.bucket_of(edges["first"]))
        return {}

    _, sent = stage("sending", [0], send, writes={"edges": 5})
    members = clusters._labelled_in_rounds(passes, [sent["edges"]], given__)
    found = np.concatenate([Mail([part_of(p, n, n + 1) for p in members]).take("members", MEMBER) for n in range(5)])  # type: ignore[attr-defined]
    assert set(found["label"].tolist()) == {min(names)} and len(found) == len(names)
    assert len(rounds) < 30
