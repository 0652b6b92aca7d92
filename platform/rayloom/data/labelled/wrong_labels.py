"""Labels that are probably wrong: exact or near duplicates with different labels, to be reviewed by a person.

Northcutt, Athalye & Mueller 2021 (arXiv:2103.14749) found wrong labels in every common test set. This check needs no
model: it compares the labels inside each cluster of duplicates.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.dedup.duplicate_passes import DuplicatesPass, keepers_of, removed_of
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import array_of
from rayloom.data.passes import Passes, TaskCounts, summed

MEMBER = np.dtype([("cluster", "<u8"), ("id", "<u8"), ("label", "<u4")])
"""A document of a cluster of duplicates. `cluster`: the id of the document that is kept."""


@dataclass(frozen=True)
class LabelsPass:
    """Inputs of every task of these passes."""

    duplicates: DuplicatesPass
    labels: tuple[str, ...]
    """All labels, sorted; records hold the index of a label in this list."""
    num_groups: int
    """Of new chunks; earlier corpora have no labels."""


def find_doubtful(given: LabelsPass, passes: Passes) -> TaskCounts:
    """Writes the doubtful documents of each group of chunks to the work folder; returns how many clusters there are."""
    duplicates = given.duplicates
    groups, buckets = range(given.num_groups), range(duplicates.num_buckets)
    _, sent = passes.exchange(
        "collecting labels", groups, functools.partial(send_members, given), writes={"members": len(buckets)}
    )
    work = functools.partial(find, given)
    writes = {"doubtful": len(duplicates.groups)}
    found, sent = passes.exchange("comparing labels", buckets, work, reads=[sent["members"]], writes=writes)
    passes.exchange("marking labels", groups, functools.partial(mark, given), reads=[sent["doubtful"]])
    return summed(found)


def send_members(given: LabelsPass, group: int, mail: Mail) -> TaskCounts:
    """Sends the labels of the group's documents that are in a cluster."""
    duplicates = given.duplicates
    removed, keepers = removed_of(duplicates, group), keepers_of(duplicates, group)
    cluster = dict(zip(removed["id"].tolist(), removed["kept"].tolist(), strict=True)) | {
        k: k for k in keepers.tolist()
    }
    number = {label: index for index, label in enumerate(given.labels)}
    for chunk in duplicates.groups[group] if cluster else ():
        content = duplicates.work.read(f"documents/{duplicates.chunks.name(chunk)}")
        found = [
            (cluster[document], document, number[label])
            for batch in read_documents(content, ("label",))
            for document, label in zip(batch["id"].tolist(), batch["label"], strict=True)
            if document in cluster
        ]
        records = np.asarray(found, MEMBER)
        mail.send("members", "members", records, duplicates.bucket_of(records["cluster"]))
    return {}


def find(given: LabelsPass, _: int, mail: Mail) -> TaskCounts:
    """Sends every document of a cluster with several labels back to its group; returns how many clusters there are."""
    doubtful = in_doubt(mail.take("members", MEMBER))
    mail.send("doubtful", "doubtful", doubtful, given.duplicates.group_of(doubtful["id"]))
    return {"clusters": len(np.unique(doubtful["cluster"]))}


def mark(given: LabelsPass, group: int, mail: Mail) -> TaskCounts:
    """Writes the group's documents whose cluster has several labels, sorted by id."""
    doubtful = np.sort(mail.take("doubtful", MEMBER), order="id")
    given.duplicates.work.write_parts(f"doubtful/{group:06d}", {"members": doubtful.tobytes()})
    return {}


def doubtful_of(given: LabelsPass, group: int) -> NDArray[Any]:
    """The documents of a group of chunks whose cluster has several labels, by id."""
    return array_of(given.duplicates.work.read_parts(f"doubtful/{group:06d}")["members"], MEMBER)


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
