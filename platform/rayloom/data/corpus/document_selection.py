"""Selection of tokenised documents: each source is cut at its token quota, its documents ordered by hash."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.corpus.mixing import Supply, settled
from rayloom.data.corpus.tokenize_pass import SPLITS, TOKENISED, Split, TokenisingPass, count
from rayloom.data.duplicate_rejects import origin_of
from rayloom.data.exchange import cutoff
from rayloom.data.exchange.cutoff import Cut, Each, Ranking, is_below, ranked, shuffled
from rayloom.data.exchange.judged_documents import write_lines
from rayloom.data.exchange.scratch import write_whole
from rayloom.data.sources.chunks import ChunkName
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.output import TokensOutput

REASON = "not_sampled"


def is_wanted(spec: CleanSpec) -> bool:
    """Whether the spec can take less than all documents: unequal weights, or a limit on tokens."""
    assert isinstance(spec.output, TokensOutput)
    mixture = spec.output.mixture
    weights = {source.weight for source in spec.sources}
    capped = any(source.max_tokens is not None for source in spec.sources)
    return capped or len(weights) > 1 or mixture.total_tokens is not None or bool(mixture.max_domain_share)


@dataclass(frozen=True)
class SelectingPass:
    """Inputs of every task of the pass."""

    tokens: TokenisingPass
    num_buckets: int
    dtype: Any
    """Of the token ids."""

    @property
    def ranking(self) -> Ranking:
        return Ranking(self.tokens.scratch, "mixture", len(self.tokens.spec.sources), self.num_buckets)

    def documents(self, chunk: int, split: Split) -> NDArray[Any]:
        return np.fromfile(
            self.tokens.scratch.folder("tokens") / f"{self.tokens.chunks[chunk]}.{split}.documents", TOKENISED
        )

    def source_of(self, chunk: int) -> int:
        return self.tokens.judged.files[ChunkName.of(self.tokens.chunks[chunk]).file].source

    def order(self, documents: NDArray[Any]) -> NDArray[np.uint64]:
        return shuffled(documents["hash"], self.tokens.output.mixture.seed)


def rank(given: SelectingPass, chunk: int) -> dict[str, Any]:
    """Sends the hash and token count of each of the chunk's documents to the exchange."""
    documents = np.concatenate([given.documents(chunk, split) for split in SPLITS])
    records = ranked(given.order(documents), given.source_of(chunk), documents["tokens"])
    given.ranking.send(given.tokens.chunks[chunk], records)
    return {}


def source_cuts(given: SelectingPass, each: Each) -> list[Cut]:
    """The cut of each source, in order of the sources."""
    spec, chunks = given.tokens.spec, given.tokens.chunks
    each("ranking", range(len(chunks)), lambda chunk: rank(given, chunk))
    weights = cutoff.weighed(given.ranking, chunks, each)
    cuts: list[Cut] = []

    def take(quotas: list[int]) -> list[int]:
        cuts[:] = cutoff.cuts(given.ranking, chunks, weights, list(enumerate(quotas)), each)
        return [cut.weight for cut in cuts]

    totals = [int(value) for value in weights.sum(axis=0)]
    supplies = [
        Supply(source.domain, tokens, source.weight, min(tokens, source.max_tokens or tokens))
        for source, tokens in zip(spec.sources, totals, strict=True)
    ]
    settled(supplies, given.tokens.output.mixture, take)
    return cuts


def select(given: SelectingPass, below: list[int], chunk: int) -> dict[str, Any]:
    """Writes those of the chunk's documents that lie below its source's cut; returns counts like `tokenise`."""
    tokens, name = given.tokens, given.tokens.chunks[chunk]
    tokens_folder, selected_folder = tokens.scratch.folder("tokens"), tokens.scratch.folder("selected")
    finished = selected_folder / f"{name}.json"
    if finished.exists():
        return dict(json.loads(finished.read_text()))
    source = given.source_of(chunk)
    counts: Counter[str] = Counter()
    rejects: list[dict[str, Any]] = []
    for split in SPLITS:
        documents = given.documents(chunk, split)
        taken = is_below(given.order(documents), below[source])
        content = np.fromfile(tokens_folder / f"{name}.{split}.tokens", given.dtype)[
            np.repeat(taken, documents["tokens"])
        ]
        mine = documents[taken]
        _save(selected_folder / f"{name}.{split}.tokens", content)
        _save(selected_folder / f"{name}.{split}.sizes", mine["tokens"].astype(np.int64))
        where = f"{tokens.spec.sources[source].name}/{split}"
        count(counts, where, len(mine), int(mine["tokens"].sum()), int(mine["bytes"].sum()))
        rejects += [
            origin_of(tokens.judged, int(row["id"])) | {"reason": REASON, "tokens": int(row["tokens"])}
            for row in documents[~taken]
        ]
    write_lines(
        selected_folder / f"{name}.rejects.jsonl", sorted(rejects, key=lambda row: (row["row"], row.get("piece", 0)))
    )
    source_name = tokens.spec.sources[source].name
    record = {"counts": dict(counts), "dropped": {f"{source_name}/{REASON}": len(rejects)} if rejects else {}}
    record |= {"documents": {split: counts[f"{source_name}/{split}/documents"] for split in SPLITS}}
    write_whole(finished, lambda file: file.write(json.dumps(record).encode()))
    return record


def _save(path: Any, array: NDArray[Any]) -> None:
    write_whole(path, lambda file: file.write(array.tobytes()))
