"""The tokenizer of a run, the tokens that it adds (for its objective, or terms of a domain), and their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rayloom.errors import InputError
from rayloom.score.label_loss import output_head
from rayloom.specs.training.objectives import Causal, Masked, SpanCorruption
from rayloom.specs.training.training_data import ConversationData

MASK_TOKEN = "<|mask|>"


def sentinel_tokens(count: int) -> list[str]:
    """Names of sentinel tokens, as in T5."""
    return [f"<extra_id_{number}>" for number in range(count)]


def tokenizer_for(objective: Causal | Masked | SpanCorruption, tokenizer: Path, work: Path) -> Path:
    """The tokenizer's folder, or a copy under `work` with the mask or sentinel tokens that the objective needs.

    New tokens get the highest ids, so that text is tokenised as before.
    """
    from rayloom.pretrained import AutoTokenizer

    if isinstance(objective, Causal):
        return tokenizer
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    if isinstance(objective, Masked):
        if loaded.mask_token_id is not None:
            return tokenizer
        loaded.add_special_tokens({"mask_token": MASK_TOKEN})
    else:
        names = sentinel_tokens(objective.num_sentinels)
        if loaded.eos_token_id is None:
            what = "The tokenizer has no end token, which ends what an encoder-decoder writes"
            raise InputError(what, where=str(tokenizer), fix="Set eos_token in its tokenizer_config.json.")
        if set(names) <= set(loaded.get_vocab()):
            return tokenizer
        loaded.add_tokens(names, special_tokens=True)
    folder = work / "tokenizer"
    loaded.save_pretrained(folder)
    return folder


def corpus_tokenizer(base: Path | None, corpus: Path) -> Path:
    """The folder of the corpus' tokenizer if it extends the base's or there is no base; else the base's."""
    if base is None:
        return corpus
    from rayloom.pretrained import AutoTokenizer

    extended = is_extension(AutoTokenizer.from_pretrained(corpus), AutoTokenizer.from_pretrained(base))
    return corpus if extended else base


def templated_tokenizer(data: ConversationData, base: Path, work: Path) -> Path:
    """The base's folder, or one under `work` with its tokenizer and the chat template that the spec names."""
    if data.template is None:
        return base
    from rayloom.pretrained import AutoTokenizer
    from rayloom.text.conversations.chat_template import templates_of
    from rayloom.text.templates import adopt

    tokenizer = AutoTokenizer.from_pretrained(base)
    if templates_of(tokenizer):
        what = f"data.template names {data.template}, but the base brings a chat template of its own"
        raise InputError(what, where=str(base), fix="Leave data.template out: the server uses the base's.")
    adopt(tokenizer, data.template)
    tokenizer.save_pretrained(work / "tokenizer")
    return work / "tokenizer"


def is_extension(tokenizer: Any, base: Any) -> bool:
    """Whether the tokenizer is the base's with added tokens: all tokens of the base keep their ids."""
    known, more = base.get_vocab(), tokenizer.get_vocab()
    added = set(more) - set(known)
    whole = set(tokenizer.get_added_vocab())
    return (
        len(more) > len(known) and added <= whole and all(more.get(token) == number for token, number in known.items())
    )


def extend_embeddings(model: nn.Module, tokenizer: Any, base: Any) -> int:
    """Adds embeddings, and rows of the output head, for tokens that `base` lacks; returns how many.

    Each is the mean over the pieces that `base` splits the token into, so that the loss hardly rises at first (Hewitt
    2021; Sachidananda et al. 2021). Special tokens get the mean over all tokens.
    """
    added = [token for token, number in tokenizer.get_vocab().items() if number >= len(base)]
    if not added:
        return 0
    engine: Any = model
    old = len(base)
    if len(tokenizer) > engine.config.vocab_size:
        engine.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    head = output_head(model)
    tables = [engine.get_input_embeddings().weight]
    if isinstance(head, nn.Linear) and head.weight is not tables[0]:
        tables.append(head.weight)
    special = set(tokenizer.all_special_tokens)
    with torch.no_grad():
        for token in added:
            pieces = [] if token in special else base.encode(token, add_special_tokens=False)
            for table in tables:
                rows = table[pieces] if pieces else table[:old]
                table[tokenizer.convert_tokens_to_ids(token)] = rows.float().mean(dim=0).to(table.dtype)
    return len(added)
