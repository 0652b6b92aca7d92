"""Perplexity of each document under a language model, and removal of documents outside their domain's limits.

Documents are ordered by mean loss in nats a token (the logarithm of the perplexity), rounded to 0.0001: documents are
scored in batches, so the last bits of a loss depend on how chunks are cut.

Shapes: N documents of a chunk.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rayloom.artifacts.store import Artifact
from rayloom.data.exchange.cutoff import EVERYTHING, RANKING, Ranking, ranked, send_ranked
from rayloom.data.exchange.judged_documents import as_lines
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import array_of
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.kept_documents import JudgedCorpus, origin_of
from rayloom.data.passes import Passes, TaskCounts
from rayloom.data.row_counts import chosen
from rayloom.errors import InputError
from rayloom.specs.clean import PerplexityFilter, PerplexityLimits

SCORED = np.dtype([("id", "<u8"), ("nats", "<f8")])
"""A document and its mean loss."""
MAX_NATS = 32.0
NATS_DIGITS = 4


@dataclass(frozen=True)
class ScoringPass:
    """Inputs of every task of these passes."""

    judged: JudgedCorpus
    model: Artifact

    @property
    def spec(self) -> PerplexityFilter:
        assert self.judged.spec.perplexity is not None
        return self.judged.spec.perplexity

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted({source.domain for source in self.judged.spec.sources}))

    def domain_of(self, chunk: int) -> int:
        return self.domains.index(self.judged.source_of(chunk).domain)

    def scores(self, chunk: int) -> NDArray[Any]:
        parts = self.judged.work.read_parts(f"scored/{self.judged.chunks.name(chunk)}")
        return array_of(parts["scores"], SCORED)


class Scorer:
    """Scores chunks with the model, which is loaded once in a process."""

    def __init__(self, given: ScoringPass) -> None:
        from rayloom.models.loading import load

        self.given = given
        model = given.model.path
        self._model = load(model)
        place = model / "tokenizer.json"
        if not place.exists():
            fix = "Load it with transformers.AutoTokenizer and save it again: that writes tokenizer.json."
            raise InputError("The model has no fast tokenizer (tokenizer.json)", where=str(model), fix=fix)
        self._tokenizer = Tokenizer.from_file(str(place))
        self._tokenizer.enable_truncation(given.spec.max_tokens)
        self._tokenizer.no_padding()
        self._context = context_token(model, self._tokenizer)

    def __call__(self, group: int) -> TaskCounts:
        """Writes the scores of a group's chunks to the work folder."""
        for chunk in self.given.judged.chunks.groups[group]:
            self._score(chunk)
        return {}

    def _score(self, chunk: int) -> None:
        from rayloom.score.perplexity import document_losses

        judged, spec = self.given.judged, self.given.spec
        place = f"scored/{judged.chunks.name(chunk)}"
        if judged.is_resumed and judged.work.found_parts(place) is not None:
            return
        found: list[tuple[int, float]] = []
        for ids, texts in _remaining(judged, chunk):
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            tokens = [np.asarray(encoding.ids, np.int64) for encoding in encodings]
            losses = document_losses(self._model, tokens, self._context, spec.micro_batch_sequences)
            found += [
                (document, round(min(loss.mean_nats, MAX_NATS), NATS_DIGITS))
                for document, loss in zip(ids, losses, strict=True)
            ]
        judged.work.write_parts(place, {"scores": np.asarray(found, SCORED).tobytes()})


def context_token(model: Path, tokenizer: Tokenizer) -> int:
    """The token put before a document: begin-of-text if the model has one, otherwise end-of-text."""
    config = json.loads((model / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token"):
        token = config.get(name)
        number = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
        if number is not None:
            return int(number)
    fix = "Set eos_token in its tokenizer_config.json."
    raise InputError("The tokenizer has no token that begins or ends a text", where=str(model), fix=fix)


def _remaining(judged: JudgedCorpus, chunk: int) -> Iterator[tuple[list[int], list[str]]]:
    removed = judged.removed_ids(chunk)
    for batch in judged.documents(chunk):
        places = np.flatnonzero(~np.isin(batch["id"], removed))
        if len(places):
            yield batch["id"][places].tolist(), [batch["text"][place] for place in places]


# -- limits ------------------------------------------------------------------------------------------------------------


def order_of(nats: NDArray[np.float64]) -> NDArray[np.uint64]:
    """(N,) positions in the order of losses: units of 0.0001 nats, scaled to 64 bits."""
    steps: NDArray[np.uint64] = np.round(np.clip(nats, 0, MAX_NATS) * 10**NATS_DIGITS).astype(np.uint64)
    steps *= np.uint64((EVERYTHING - 1) // (int(MAX_NATS) * 10**NATS_DIGITS))
    return steps


def order_limits(given: ScoringPass, passes: Passes) -> list[tuple[int, int]]:
    """For each domain, the range of positions that are kept."""
    num_buckets = given.judged.num_buckets

    def rank(chunk: int, mail: Mail) -> TaskCounts:
        order = order_of(given.scores(chunk)["nats"])
        send_ranked(mail, ranked(order, given.domain_of(chunk), 1), num_buckets)
        return {}

    documents = given.judged.exchanged(passes, "ranking", rank, RANKING, num_buckets)
    ranking = Ranking(documents, len(given.domains), num_buckets, passes)
    weights = ranking.weights()
    sizes = weights.sum(axis=0).tolist()
    limits = [given.spec.limits_of(domain) for domain in given.domains]
    targets = [
        (domain, int((100 if percentile is None else percentile) / 100 * size))
        for wanted, default in (("min_percentile", 0), ("max_percentile", 100))
        for domain, size in enumerate(sizes)
        for percentile in (_or(getattr(limits[domain], wanted), default),)
    ]
    below = [cut.below for cut in ranking.cuts(weights, targets)]
    lowest, highest = below[: len(limits)], below[len(limits) :]
    return [_combined(*three) for three in zip(limits, lowest, highest, strict=True)]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _combined(limits: PerplexityLimits, lowest: int, highest: int) -> tuple[int, int]:
    """The intersection of the limits by percentile and by perplexity."""
    low = lowest if limits.min_percentile is not None else 0
    if limits.min_perplexity is not None:
        low = max(low, _order_of_perplexity(limits.min_perplexity))
    if limits.max_perplexity is not None:
        highest = min(highest, _order_of_perplexity(limits.max_perplexity) + 1)
    return low, highest


def _order_of_perplexity(perplexity: float) -> int:
    return int(order_of(np.asarray([math.log(perplexity)]))[0])


def sift(given: ScoringPass, limits: list[tuple[int, int]], chunk: int) -> dict[str, Any]:
    """Writes the ids of the chunk's documents outside their domain's limits; returns counts."""
    judged, name = given.judged, given.judged.chunks.name(chunk)
    low, high = limits[given.domain_of(chunk)]
    scores = given.scores(chunk)
    reasons = {}
    positions = order_of(scores["nats"]).tolist()
    for document, nats, position in zip(scores["id"].tolist(), scores["nats"], positions, strict=True):
        if not low <= position < high:
            reason = "perplexity_too_low" if position < low else "perplexity_too_high"
            reasons[document] = {"reason": reason, "value": round(math.exp(nats), 3)}
    rejects = [
        origin_of(judged, document) | reasons[document] | {"text": text[:EXCERPT_CHARACTERS]}
        for ids, texts in (_remaining(judged, chunk) if reasons else ())
        for document, text in zip(ids, texts, strict=True)
        if document in reasons
    ]
    lines = {"rejects": as_lines(rejects)}
    lines["samples"] = as_lines(chosen(rejects, judged.spec.sample_rows_per_reason))
    removed = np.asarray(sorted(reasons), np.uint64)
    judged.work.write_parts(f"sifted/{name}", {"removed": removed.tobytes()} | lines)
    counts = Counter(f"{row['source']}/{row['reason']}" for row in rejects)
    return {"dropped": dict(counts), "rejects_bytes": len(lines["rejects"])}
