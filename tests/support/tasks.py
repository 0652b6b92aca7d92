"""A small encoder with a WordPiece vocabulary, and made-up labelled texts that it can learn in a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

GOOD, BAD = ("fine", "great", "lovely"), ("dull", "poor", "awful")
NAMES, TOWNS = ("anna", "berta", "carl"), ("rome", "oslo", "lima")
FILLERS = ("the", "film", "was", "we", "saw", "it", "in", "and", "then", "very")
PIECES = ("##s", "##ly", "a", "b", "@", "#", "?", "who", "where", "went")


def wordpiece() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *NAMES, *TOWNS, *FILLERS, *PIECES]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def write_encoder(folder: Path, **changes: Any) -> Path:
    """A fresh two-layer BERT with its tokenizer, as masked language modelling leaves one: without a pooler."""
    torch.manual_seed(0)
    tokenizer = wordpiece()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    BertForMaskedLM(BertConfig(**(settings | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def without_weights(folder: Path, prefix: str) -> Path:
    """Takes the tensors whose names begin so out of a model's file."""
    file = folder / "model.safetensors"
    save_file({n: tensor for n, tensor in load_file(file).items() if not n.startswith(prefix)}, file, {"format": "pt"})
    return folder


def review_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts in which one word decides the label."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(random.integers(2))
        words = [str(word) for word in random.choice(FILLERS, int(random.integers(3, 9)))]
        words[int(random.integers(len(words)))] = str(random.choice((BAD, GOOD)[label]))
        rows.append({"text": " ".join(words), "label": label})
    return rows


def entity_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with a person and a place, by characters."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = [str(word) for word in random.choice(FILLERS, 5)]
        words[1], words[3] = str(random.choice(NAMES)), str(random.choice(TOWNS))
        starts = [sum(len(word) + 1 for word in words[:place]) for place in range(5)]
        spans = [
            {"start": starts[place], "end": starts[place] + len(words[place]), "label": label}
            for place, label in ((1, "person"), (3, "place"))
        ]
        rows.append({"text": " ".join(words), "entities": spans})
    return rows


def question_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Who went, and where; one question in five has no answer."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        name, town = str(random.choice(NAMES)), str(random.choice(TOWNS))
        fillers = " ".join(str(word) for word in random.choice(FILLERS, 4))
        context = f"{fillers} {name} went in {town} {fillers}"
        if random.random() < 0.2:
            rows.append({"context": f"{fillers} {fillers}", "question": "who went?", "answers": []})
            continue
        question, answer = (("who went?", name), ("where?", town))[int(random.integers(2))]
        rows.append({"context": context, "question": question, "answers": [{"text": answer}]})
    return rows


def write_jsonl(rows: list[dict[str, Any]], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def translation_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Each name means a town, and each good word a bad one."""
    random = np.random.default_rng(seed)
    words, meanings = (*NAMES, *GOOD), (*TOWNS, *BAD)
    rows = []
    for _ in range(count):
        chosen = [int(place) for place in random.integers(0, len(words), 3)]
        source, target = (" ".join(side[place] for place in chosen) for side in (words, meanings))
        rows.append({"source": source, "target": target})
    return rows


def write_encoder_decoder(folder: Path) -> Path:
    """A fresh T5 of two layers whose tokenizer ends every text."""
    torch.manual_seed(0)
    tokenizer = wordpiece()
    tokenizer.eos_token = "[SEP]"
    settings = {"d_model": 48, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
    ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **settings, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
