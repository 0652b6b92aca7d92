"""The list of removed duplicates for people to read, each with the origin of the document kept instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayloom.data.dedup.document_ids import place_of
from rayloom.data.dedup.duplicate_passes import removed_of
from rayloom.data.exchange.judged_documents import read_documents
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.kept_documents import JudgedCorpus


def origin_of(judged: JudgedCorpus, document: int) -> dict[str, Any]:
    """Source, file, row and (if the row was split) piece of a document; of an earlier corpus, name, shard and index."""
    file, row, piece = place_of(document)
    if file >= len(judged.files):
        shard = next(one for one in judged.earlier if one.name.file == file)
        return {"source": shard.corpus, "file": f"{shard.split}/{shard.shard:05d}", "row": row}
    about = judged.files[file]
    origin = {"source": judged.spec.sources[about.source].name, "file": about.name, "row": row}
    return origin | {"piece": piece} if piece else origin


def duplicate_rejects(judged: JudgedCorpus, chunk: int) -> list[dict[str, Any]]:
    """The chunk's removed duplicates, each with the document that was kept instead."""
    if judged.duplicates is None:
        return []
    removed = {int(row["id"]): row for row in removed_of(judged.duplicates, chunk)}
    rejects = []
    path = judged.scratch.folder("judged") / f"{judged.chunks[chunk]}.arrow"
    for batch in read_documents(path) if removed else ():
        for index in np.flatnonzero(np.isin(batch["id"], np.fromiter(removed, np.uint64, len(removed)))):
            row = removed[int(batch["id"][index])]
            about: dict[str, Any] = {"reason": "exact_duplicate" if row["is_exact"] else "near_duplicate"}
            about |= {"kept": origin_of(judged, int(row["kept"])), "text": batch["text"][index][:EXCERPT_CHARACTERS]}
            rejects.append(origin_of(judged, int(row["id"])) | about)
    return rejects
