"""Log-likelihoods of words behind prompts, and at the mask of a cloze.

A beginning that many prompts share is computed once: its keys and values are repeated for every batch. The words of a
row in turn share its prompt. Models whose caches are of another kind read every prompt with every word from its start.

Shapes: B rows, S positions, N labelled positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.score.label_loss import LabelLoss, has_virtual_tokens

SHARED_TOKENS = 16
"""A shorter shared beginning is not worth a computation of its own."""


@dataclass(frozen=True)
class AskedWords:
    """A prompt, and the words whose likelihood behind it is asked for, in token ids."""

    prompt: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]


@torch.no_grad()
def word_likelihoods(
    model: nn.Module,
    asked: Sequence[AskedWords],
    micro_batch_sequences: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Log-likelihood in nats of each word behind each prompt, in order."""
    found: list[list[float]] = [[] for _ in asked]
    one_by_one = not _has_plain_cache(model)
    for numbers, shared in groups([one.prompt for one in asked]):
        prefix = None if one_by_one or not shared else _prefix(model, asked[numbers[0]].prompt[:shared])
        read = shared if prefix is not None else 0
        numbers = sorted(numbers, key=lambda number: len(asked[number].prompt))
        for first in range(0, len(numbers), micro_batch_sequences):
            batch = numbers[first : first + micro_batch_sequences]
            rows = [AskedWords(asked[number].prompt[read:], asked[number].words) for number in batch]
            if one_by_one:
                values = [_whole(model, row, micro_batch_sequences) for row in rows]
            else:
                values = _behind(model, rows, prefix, micro_batch_sequences)
            for number, own in zip(batch, values, strict=True):
                found[number] = own
            advance(len(batch))
    return found


def groups(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], int]]:
    """Numbers of the prompts that begin alike, and by how many tokens; those that do not, by 0.

    At least a prompt's last token is not shared, since it is what the first word follows.
    """
    order = sorted(range(len(prompts)), key=lambda number: tuple(prompts[number]))
    alone: list[int] = []
    group, least = order[:1], 0
    for before, number in pairwise(order):
        common = min(_common(prompts[before], prompts[number]), len(prompts[before]) - 1, len(prompts[number]) - 1)
        if common >= SHARED_TOKENS:
            least = common if len(group) == 1 else min(least, common)
            group.append(number)
            continue
        if len(group) > 1:
            yield group, least
        else:
            alone += group
        group, least = [number], 0
    if len(group) > 1:
        yield group, least
    else:
        alone += group
    if alone:
        yield alone, 0


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _has_plain_cache(model: nn.Module) -> bool:
    """Whether every layer keeps keys and values of all tokens, and nothing else."""
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    has_window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    is_stateful = getattr(model, "_is_stateful", False)
    return not (has_virtual_tokens(model) or is_stateful or has_window or kinds != {"full_attention"})


def _prefix(model: nn.Module, tokens: Sequence[int]) -> Any:
    """The keys and values of a beginning, as a cache of one row."""
    from transformers import DynamicCache

    cache, device = DynamicCache(), next(model.parameters()).device
    ids = torch.tensor([list(tokens)], device=device)
    _hidden(
        model, ids, torch.ones_like(ids), torch.arange(len(tokens), device=device)[None], cache, ids.new_tensor([0])
    )
    return cache


def _of_rows(cache: Any, rows: Tensor) -> Any:
    """A copy of the cache for these of its rows."""
    from transformers import DynamicCache

    return DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in cache.layers])


def _behind(model: nn.Module, rows: Sequence[AskedWords], prefix: Any, most: int) -> list[list[float]]:
    """Likelihoods of the words of one batch of rows, whose prompts go on where the prefix ends."""
    from transformers import DynamicCache

    device = next(model.parameters()).device
    num_shared = 0 if prefix is None else prefix.get_seq_length()
    cache = (
        DynamicCache() if prefix is None else _of_rows(prefix, torch.zeros(len(rows), dtype=torch.long, device=device))
    )
    ids, seen = padded([row.prompt for row in rows], device)
    seen = torch.cat([seen.new_ones(len(rows), num_shared), seen], dim=1)
    positions = num_shared + torch.arange(ids.shape[1], device=device).expand(len(rows), -1)
    lengths = torch.tensor([len(row.prompt) for row in rows], device=device)
    last = torch.arange(len(rows), device=device) * ids.shape[1] + lengths - 1
    first = _log_p(model, _hidden(model, ids, seen, positions, cache, last))
    words = [(number, word) for number, row in enumerate(rows) for word in row.words]
    totals = [float(first[number, word[0]]) for number, word in words]
    longer = [place for place, (_, word) in enumerate(words) if len(word) > 1]
    for begin in range(0, len(longer), most):
        places = longer[begin : begin + most]
        own = torch.tensor([words[place][0] for place in places], device=device)
        behind = [words[place][1] for place in places]
        ids, counts = padded([word[:-1] for word in behind], device)
        positions = num_shared + lengths[own][:, None] + torch.arange(ids.shape[1], device=device)
        mask = torch.cat([seen[own], counts], dim=1)
        targets, _ = padded([word[1:] for word in behind], device)
        chosen = counts.flatten().nonzero().flatten()
        log_p = _log_p(model, _hidden(model, ids, mask, positions, _of_rows(cache, own), chosen))
        values = torch.zeros(counts.shape, device=device).flatten()
        values[chosen] = log_p.gather(1, targets.flatten()[chosen][:, None]).flatten()
        for place, value in zip(places, values.view(counts.shape).sum(dim=1).tolist(), strict=True):
            totals[place] += value
    given = iter(totals)
    return [[next(given) for _ in row.words] for row in rows]


def _whole(model: nn.Module, row: AskedWords, most: int) -> list[float]:
    """Likelihoods of a row's words, each read behind the whole prompt."""
    device = next(model.parameters()).device
    values: list[float] = []
    for begin in range(0, len(row.words), most):
        words = row.words[begin : begin + most]
        ids, seen = padded([(*row.prompt, *word[:-1]) for word in words], device)
        starts = [number * ids.shape[1] + len(row.prompt) - 1 for number in range(len(words))]
        places = [start + n for start, word in zip(starts, words, strict=True) for n in range(len(word))]
        positions = None if has_virtual_tokens(model) else torch.arange(ids.shape[1], device=device).expand_as(ids)
        log_p = _log_p(model, _hidden(model, ids, seen, positions, None, torch.tensor(places, device=device)))
        targets = torch.tensor([token for word in words for token in word], device=device)
        own = torch.split(log_p.gather(1, targets[:, None]).flatten(), [len(word) for word in words])
        values += [float(part.sum()) for part in own]
    return values


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, S) ids with zeros behind each row, and which of them are its own."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, seen


def _hidden(
    model: nn.Module, ids: Tensor, seen: Tensor, positions: Tensor | None, cache: Any, places: Tensor
) -> Tensor:
    """(N, D) the inputs of the output head at these places of the flattened batch. The cache grows by the batch."""
    inputs = {"input_ids": ids, "attention_mask": seen, "use_cache": cache is not None}
    further = {"position_ids": positions, "past_key_values": cache}
    inputs |= {name: value for name, value in further.items() if value is not None}
    return LabelLoss(model).eval().hidden_of(inputs, ids.shape[1], places)


def _log_p(model: nn.Module, hidden: Tensor) -> Tensor:
    """(N, V)"""
    return LabelLoss(model).logits(hidden).log_softmax(dim=-1)


# At the mask of a cloze.


@torch.no_grad()
def masked_likelihoods(
    model: nn.Module,
    texts: Sequence[Sequence[int]],
    mask_token: int,
    words: Sequence[int],
    micro_batch_sequences: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Log-probability of each word, a token, at the mask of each text, in order."""
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found: list[list[float]] = [[] for _ in texts]
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        ids, seen = padded([texts[number] for number in numbers], device)
        places = [n * ids.shape[1] + list(texts[number]).index(mask_token) for n, number in enumerate(numbers)]
        inputs = {"input_ids": ids, "attention_mask": seen}
        hidden = LabelLoss(model).eval().hidden_of(inputs, ids.shape[1], torch.tensor(places, device=device))
        chosen = _log_p(model, hidden)[:, torch.tensor(list(words), device=device)]
        for number, values in zip(numbers, chosen.tolist(), strict=True):
            found[number] = values
        advance(len(numbers))
    return found
