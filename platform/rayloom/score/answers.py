"""Greedy generation in batches, for decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def greedy_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_tokens: Collection[int],
    micro_batch_sequences: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[int]]:
    """Token ids of the greedy answer to each prompt, up to a stop token (left out) or `max_new_tokens`, in order.

    Prompts of similar length form a batch; shorter ones have masked padding on the left.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        batch_answers = _batch(model, [prompts[number] for number in numbers], max_new_tokens, sorted(stop_tokens))
        for number, answer in zip(numbers, batch_answers, strict=True):
            answers[number] = answer
        advance(len(numbers))
    return answers


def _batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: list[int]
) -> list[list[int]]:
    from rayloom.pretrained import GenerationConfig

    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    padding = stop_tokens[0] if stop_tokens else 0
    tokens = torch.full((len(prompts), width), padding, dtype=torch.int64)
    seen = torch.zeros((len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(list(prompt))
        seen[row, width - len(prompt) :] = 1
    # The model's own generation configuration may ask for sampling or for penalties.
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop_tokens or None, pad_token_id=padding
    )
    generating: Any = model
    output = generating.generate(input_ids=tokens.to(device), attention_mask=seen.to(device), generation_config=greedy)
    return [_until_stop(row, stop_tokens) for row in output[:, width:].tolist()]


def _until_stop(tokens: list[int], stop_tokens: Collection[int]) -> list[int]:
    end = next((position for position, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]


@torch.no_grad()
def written_texts(
    model: nn.Module, texts: Sequence[Sequence[int]], max_new_tokens: int, micro_batch_sequences: int
) -> list[list[int]]:
    """Token ids of an encoder-decoder's greedy output for each text, in the texts' order."""
    device = next(model.parameters()).device
    writing: Any = model
    padding = int(writing.config.pad_token_id or 0)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    written: list[list[int]] = [[] for _ in texts]
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        width = max(len(texts[number]) for number in numbers)
        tokens = torch.full((len(numbers), width), padding, dtype=torch.int64)
        seen = torch.zeros_like(tokens)
        for row, number in enumerate(numbers):
            tokens[row, : len(texts[number])] = torch.tensor(list(texts[number]))
            seen[row, : len(texts[number])] = 1
        output = writing.generate(
            input_ids=tokens.to(device), attention_mask=seen.to(device), max_new_tokens=max_new_tokens, do_sample=False
        )
        for number, answer in zip(numbers, output[:, 1:].tolist(), strict=True):
            written[number] = answer
    return written
