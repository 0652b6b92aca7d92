"""The second pass over the text: drops duplicates, splits the rest into train and heldout, and tokenises it.

Of each chunk it leaves `tokens/CHUNK` and, last, `tokenised/CHUNK` with counts and what is for people.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayloom.data.corpus.encoding import encoder_of, fitted
from rayloom.data.exchange.judged_documents import as_lines
from rayloom.data.exchange.mail import Mail
from rayloom.data.exchange.work_files import WorkFiles
from rayloom.data.filter_pass import EXCERPT_CHARACTERS
from rayloom.data.kept_documents import JudgedCorpus, duplicate_rejects, origin_of
from rayloom.data.passes import TaskCounts
from rayloom.data.row_counts import chosen
from rayloom.data.rules.examined_text import Drop
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.output import TokensOutput
from rayloom.text import tokenizer_files
from rayloom.text.bulk_tokenizer import use_one_thread

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenisingPass:
    """Inputs of every task of the pass."""

    judged: JudgedCorpus

    @property
    def spec(self) -> CleanSpec:
        return self.judged.spec

    @property
    def work(self) -> WorkFiles:
        return self.judged.work

    def name(self, chunk: int) -> str:
        return self.judged.chunks.name(chunk)

    @property
    def output(self) -> TokensOutput:
        assert isinstance(self.spec.output, TokensOutput)
        return self.spec.output

    @property
    def tokenizer_folder(self) -> Path:
        """On this node's disk."""
        return self.work.here("tokenizer")


TOKENISED = np.dtype([("id", "<u8"), ("hash", "<u8"), ("tokens", "<u4"), ("bytes", "<u4")])
"""A tokenised document: its id, the hash of its folded text, and its size."""


@dataclass(frozen=True)
class Document:
    """A document that was not dropped."""

    id: int
    text: str
    split_hash: int
    split: Split


def split_of(split_hash: int, heldout_share: float) -> Split:
    """The split of a document, from the hash of its folded text: identical documents get the same one."""
    return "heldout" if split_hash < heldout_share * 2.0**64 else "train"


def documents_of(given: TokenisingPass, chunk: int) -> Iterator[Document]:
    """The chunk's documents that were not dropped, in order."""
    removed = given.judged.removed_ids(chunk)
    for batch in given.judged.documents(chunk):
        stays = ~np.isin(batch["id"], removed)
        for index in np.flatnonzero(stays):
            split_hash = int(batch["split_hash"][index])
            split = split_of(split_hash, given.output.heldout_share)
            yield Document(int(batch["id"][index]), batch["text"][index], split_hash, split)


# -- the tokenizer's sample --------------------------------------------------------------------------------------------


def sample(given: TokenisingPass, sample_documents: int, chunk: int, mail: Mail) -> TaskCounts:
    """Sends the chunk's part of a sample of about `sample_documents` training documents, chosen by hash of the id."""
    limit = min(1.0, sample_documents / max(1, given.judged.num_left)) * 2.0**64
    texts = [d.text for d in documents_of(given, chunk) if d.split == "train" and _id_hash(d.id) < limit]
    mail.send("sample", "texts", np.frombuffer(as_lines([{"text": text} for text in texts]), np.uint8), 0)
    return {}


def _id_hash(document: int) -> int:
    return document * 0x9E3779B97F4A7C15 % (1 << 64)


def train_tokenizer(given: TokenisingPass, vocabulary_size: int, _: int, mail: Mail) -> TaskCounts:
    """Trains the tokenizer on the sample, in one task: it holds the sample's text."""
    lines = mail.take("texts", np.uint8).tobytes().splitlines()
    tokenizer = tokenizer_files.train((json.loads(line)["text"] for line in lines), vocabulary_size)
    with tempfile.TemporaryDirectory(prefix="rayloom-") as folder:
        tokenizer_files.save(tokenizer, Path(folder))
        given.work.put_folder("tokenizer", Path(folder))
    return {"vocabulary_size": tokenizer.get_vocab_size()}


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokenise(given: TokenisingPass, chunk: int) -> dict[str, Any]:
    """Writes the chunk's tokens by split; returns the counts of documents, tokens and bytes."""
    name, work = given.name(chunk), given.work
    finished = work.found_parts(f"tokenised/{name}") if given.judged.is_resumed else None
    if finished is not None:
        return dict(json.loads(bytes(finished["record"])))
    use_one_thread()  # Ray runs as many tasks as there are cores
    encode = encoder_of(given.tokenizer_folder)
    parts: dict[Split, list[NDArray[Any]]] = {split: [] for split in SPLITS}
    about: dict[Split, list[tuple[int, int, int, int]]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    shortened: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    rejects = duplicate_rejects(given.judged, chunk)
    for documents in _batches(documents_of(given, chunk)):
        for document, tokens in zip(documents, encode([d.text for d in documents]), strict=True):
            place = origin_of(given.judged, document.id)
            excerpt = {"text": document.text[:EXCERPT_CHARACTERS]}
            pieces = fitted(tokens, given.output)
            if isinstance(pieces, Drop):
                dropped[f"{place['source']}/{pieces.reason}"] += 1
                rejects.append(place | {"reason": pieces.reason, "value": pieces.value} | excerpt)
                continue
            is_whole = len(pieces[0]) == len(tokens)
            shortened[place["source"]] += 0 if is_whole else len(pieces)
            for piece in pieces:
                num_bytes = len(document.text.encode()) if is_whole else encode.num_bytes(piece)
                parts[document.split].append(piece)
                about[document.split].append((document.id, document.split_hash, len(piece), num_bytes))
                count(counts, f"{place['source']}/{document.split}", 1, len(piece), num_bytes)
            kept.append(place | {"reason": "kept"} | excerpt)
        kept = chosen(kept, given.spec.sample_rows_per_reason)
    files: dict[str, bytes] = {}
    for split, arrays in parts.items():
        files |= tokens_of(split, arrays, encode.dtype)
        files[f"{split}.documents"] = np.asarray(about[split], TOKENISED).tobytes()
    work.write_parts(f"tokens/{name}", files)
    samples = chosen([*rejects, *kept], given.spec.sample_rows_per_reason)
    lines = {"rejects": as_lines(rejects), "samples": as_lines(samples)}
    record = {"counts": dict(counts), "rejects_bytes": len(lines["rejects"])}
    record |= {"documents": {split: len(arrays) for split, arrays in parts.items()}}
    record |= {"dropped": dict(dropped), "shortened": dict(+shortened)}
    record |= {"chunks": [[sum(map(len, parts[split])) for split in SPLITS]]}
    work.write_parts(f"tokenised/{name}", {"record": json.dumps(record).encode(), **lines})
    return record


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def tokens_of(split: Split, arrays: list[NDArray[Any]], dtype: Any) -> dict[str, bytes]:
    """The documents of a split as parts of a file: their tokens one after the other, and their sizes."""
    sizes = np.asarray([len(array) for array in arrays], np.int64)
    tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
    return {f"{split}.sizes": sizes.tobytes(), f"{split}.tokens": tokens.tobytes()}


def count(counts: Counter[str], where: str, documents: int, tokens: int, num_bytes: int) -> None:
    """Adds to the counts of `where`, a `source/split`."""
    counts[f"{where}/documents"] += documents
    counts[f"{where}/tokens"] += tokens
    counts[f"{where}/bytes"] += num_bytes
