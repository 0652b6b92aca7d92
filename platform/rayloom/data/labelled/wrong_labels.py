"""Labels that are probably wrong: exact or near duplicates with different labels, to be reviewed by a person.

Northcutt, Athalye & Mueller 2021 (arXiv:2103.14749) found wrong labels in every common test set. This check needs no
model: it compares the labels inside each cluster of duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup.duplicate_passes import DuplicatesPass, keepers_of, removed_of
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.scratch import receive, send

MEMBER = np.dtype([("cluster", "<u8"), ("id", "<u8"), ("label", "<u4")])
"""A document of a cluster of duplicates. `cluster`: the id of the document that is kept."""


@dataclass(frozen=True)
class LabelsPass:
    """Inputs of every task of these passes."""

    duplicates: DuplicatesPass
    labels: tuple[str, ...]
    """All labels, sorted; records hold the index of a label in this list."""


def send_members(given: LabelsPass, chunk: int) -> dict[str, Any]:
    """Sends the labels of the chunk's documents that are in a cluster."""
    duplicates = given.duplicates
    removed, keepers = removed_of(duplicates, chunk), keepers_of(duplicates, chunk)
    cluster = dict(zip(removed["id"].tolist(), removed["kept"].tolist(), strict=True)) | {
        k: k for k in keepers.tolist()
    }
    number = {label: index for index, label in enumerate(given.labels)}
    path = duplicates.scratch.folder("judged") / f"{duplicates.chunks[chunk]}.arrow"
    found = [
        (cluster[document], document, number[label])
        for batch in (read_documents(path, ("label",)) if cluster else ())
        for document, label in zip(batch["id"].tolist(), batch["label"], strict=True)
        if document in cluster
    ]
    records = np.asarray(found, MEMBER)
    homes = (records["cluster"] % np.uint64(duplicates.num_buckets)).astype(np.int64)
    send(duplicates.scratch.folder("members"), duplicates.chunks[chunk], records, homes, duplicates.num_buckets)
    return {}


def find(given: LabelsPass, bucket: int) -> dict[str, Any]:
    """Sends every document of a cluster with several labels back to its chunk; returns how many clusters there are."""
    duplicates = given.duplicates
    folder = duplicates.scratch.folder("members")
    members = receive(folder, duplicates.chunks, bucket, duplicates.num_buckets, MEMBER)
    doubtful = in_doubt(members)
    homes = duplicates.chunk_of(doubtful["id"])
    name = duplicates.buckets[bucket]
    send(duplicates.scratch.folder("doubtful"), name, doubtful, homes, len(duplicates.chunks))
    return {"clusters": len(np.unique(doubtful["cluster"]))}


def in_doubt(members: NDArray[Any]) -> NDArray[Any]:
    """The members of clusters that have more than one label."""
    if not len(members):
        return members
    members = np.sort(members, order=("cluster", "label", "id"))
    begins = np.flatnonzero(np.append(True, members["cluster"][1:] != members["cluster"][:-1]))
    ends = np.append(begins[1:], len(members)).astype(np.int64)
    differ = members["label"][begins] != members["label"][ends - 1]  # sorted by label within a cluster
    found: NDArray[Any] = members[np.repeat(differ, ends - begins)]
    return found


def doubtful_of(given: LabelsPass, chunk: int) -> NDArray[Any]:
    """The chunk's documents whose cluster has several labels, by id."""
    duplicates = given.duplicates
    found = receive(duplicates.scratch.folder("doubtful"), duplicates.buckets, chunk, len(duplicates.chunks), MEMBER)
    ordered: NDArray[Any] = np.sort(found, order="id")
    return ordered
