"""Pass 2 over the text: duplicates left out, the rest split, tokenised, and written down to be packed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rayloom.data.duplicates import DuplicatesPass, removed_of
from rayloom.data.ids import place_of
from rayloom.data.inputs import InputFile
from rayloom.data.judging import EXCERPT_CHARACTERS, read_documents, write_lines
from rayloom.data.samples import chosen
from rayloom.data.scratch import Scratch, write_whole
from rayloom.specs.clean import CleanSpec
from rayloom.text import bpe
from rayloom.text.shards import token_type

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenisingPass:
    """What every task of the pass is given."""

    spec: CleanSpec
    files: tuple[InputFile, ...]
    scratch: Scratch
    chunks: tuple[str, ...]
    duplicates: DuplicatesPass | None
    """None where duplicates are kept."""
    num_documents: int
    """Kept by the rules and not duplicates."""

    @property
    def tokenizer_folder(self) -> Path:
        return self.scratch.folder("tokenizer")


@dataclass(frozen=True)
class Document:
    """A document that stays."""

    id: int
    text: str
    split: Split


def split_of(split_hash: int, heldout_share: float) -> Split:
    """By the hash of the folded text: identical documents never stand on both sides."""
    return "heldout" if split_hash < heldout_share * 2.0**64 else "train"


def documents_of(given: TokenisingPass, chunk: int) -> Iterator[Document]:
    """The chunk's documents that are not duplicates, in order."""
    gone = removed_of(given.duplicates, chunk)["id"] if given.duplicates else np.zeros(0, np.uint64)
    for batch in read_documents(given.scratch.folder("judged") / f"{given.chunks[chunk]}.arrow"):
        stays = ~np.isin(batch["id"], gone)
        for index in np.flatnonzero(stays):
            split = split_of(int(batch["split_hash"][index]), given.spec.output.heldout_share)
            yield Document(int(batch["id"][index]), batch["text"][index], split)


# -- the tokenizer's sample --------------------------------------------------------------------------------------------


def sample(given: TokenisingPass, chunk: int, sample_documents: int) -> dict[str, int]:
    """Sets aside the chunk's share of about `sample_documents` training documents, chosen by a hash of the id."""
    limit = min(1.0, sample_documents / max(1, given.num_documents)) * 2.0**64
    texts = [d.text for d in documents_of(given, chunk) if d.split == "train" and _id_hash(d.id) < limit]
    write_lines(given.scratch.folder("sample") / f"{given.chunks[chunk]}.jsonl", [{"text": text} for text in texts])
    return {"sampled_documents": len(texts)}


def _id_hash(document: int) -> int:
    return document * 0x9E3779B97F4A7C15 % (1 << 64)


def train_tokenizer(given: TokenisingPass, vocabulary_size: int) -> dict[str, int]:
    """Learns the tokenizer from all that was set aside."""
    tokenizer = bpe.train(_sampled(given), vocabulary_size)
    bpe.save(tokenizer, given.tokenizer_folder)
    return {"vocabulary_size": tokenizer.get_vocab_size()}


def _sampled(given: TokenisingPass) -> Iterator[str]:
    for chunk in given.chunks:
        place = given.scratch.folder("sample") / f"{chunk}.jsonl"
        if place.exists():
            with place.open(encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)["text"]


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokenise(given: TokenisingPass, chunk: int) -> dict[str, Any]:
    """Writes the chunk's tokens by split; returns how many documents and tokens each source has in it."""
    name = given.chunks[chunk]
    finished = given.scratch.folder("tokens") / f"{name}.json"
    if finished.exists():
        return dict(json.loads(finished.read_text()))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one task, one core: Ray runs as many tasks as there are cores
    encode = Encoder(given.tokenizer_folder)
    parts: dict[Split, list[NDArray[Any]]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    for documents in _batches(documents_of(given, chunk)):
        for document, tokens in zip(documents, encode([d.text for d in documents]), strict=True):
            parts[document.split].append(tokens)
            place = _place(given, document.id)
            source = place["source"]
            counts[f"{source}/{document.split}/documents"] += 1
            counts[f"{source}/{document.split}/tokens"] += len(tokens)
            counts[f"{source}/{document.split}/bytes"] += len(document.text.encode())
            kept.append(place | {"reason": "kept", "text": document.text[:EXCERPT_CHARACTERS]})
        kept = chosen(kept, given.spec.sample_rows_per_reason)
    for split, arrays in parts.items():
        save_tokens(given.scratch.folder("tokens") / f"{name}.{split}", arrays, encode.dtype)
    rejects = _duplicate_rejects(given, chunk)
    per_reason = given.spec.sample_rows_per_reason
    write_lines(given.scratch.folder("tokens") / f"{name}.rejects.jsonl", rejects)
    write_lines(given.scratch.folder("tokens") / f"{name}.samples.jsonl", chosen([*rejects, *kept], per_reason))
    record = {"counts": dict(counts), "tokens": {s: int(sum(map(len, a))) for s, a in parts.items()}}
    record |= {"documents": {split: len(arrays) for split, arrays in parts.items()}}
    write_whole(finished, lambda file: file.write(json.dumps(record).encode()))
    return record


class Encoder:
    """A tokenizer folder as a function from texts to token ids, each text ended by the end-of-text token."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._end = self._tokenizer.token_to_id(end_token(folder))
        self.dtype = token_type(self._tokenizer.get_vocab_size())

    def __call__(self, texts: list[str]) -> list[NDArray[Any]]:
        return [self._ended(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def _ended(self, ids: list[int]) -> NDArray[Any]:
        return np.asarray(ids if ids[-1:] == [self._end] else [*ids, self._end], self.dtype)


def end_token(folder: Path) -> str:
    """The text of a tokenizer folder's end-of-text token."""
    token = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    return str(token["content"] if isinstance(token, dict) else token)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def save_tokens(stem: Path, arrays: list[NDArray[Any]], dtype: Any) -> None:
    sizes = np.asarray([len(array) for array in arrays], np.int64)
    tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
    write_whole(stem.with_name(f"{stem.name}.sizes"), lambda file: file.write(sizes.tobytes()))
    write_whole(stem.with_name(f"{stem.name}.tokens"), lambda file: file.write(tokens.tobytes()))


def _duplicate_rejects(given: TokenisingPass, chunk: int) -> list[dict[str, Any]]:
    """What was left out as a duplicate, and of which document."""
    if given.duplicates is None:
        return []
    gone = {int(row["id"]): row for row in removed_of(given.duplicates, chunk)}
    rejects = []
    path = given.scratch.folder("judged") / f"{given.chunks[chunk]}.arrow"
    for batch in read_documents(path) if gone else ():
        for index in np.flatnonzero(np.isin(batch["id"], np.fromiter(gone, np.uint64, len(gone)))):
            row = gone[int(batch["id"][index])]
            about: dict[str, Any] = {"reason": "exact_duplicate" if row["is_exact"] else "near_duplicate"}
            about |= {"kept": _place(given, int(row["kept"])), "text": batch["text"][index][:EXCERPT_CHARACTERS]}
            rejects.append(_place(given, int(row["id"])) | about)
    return rejects


def _place(given: TokenisingPass, document: int) -> dict[str, Any]:
    file, row, piece = place_of(document)
    about = given.files[file]
    place = {"source": given.spec.sources[about.source].name, "file": about.name, "row": row}
    return place | {"piece": piece} if piece else place
