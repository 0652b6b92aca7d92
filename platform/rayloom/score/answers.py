"""Greedy answers to many prompts at once."""

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
    """The most likely next token, again and again, until a stop token (left out) or the length; in the prompts' order.

    Prompts of like length are computed together, the shorter ones behind padding that nobody attends to.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        found = _batch(model, [prompts[number] for number in numbers], max_new_tokens, sorted(stop_tokens))
        for number, answer in zip(numbers, found, strict=True):
            answers[number] = answer
        advance(len(numbers))
    return answers


def _batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: list[int]
) -> list[list[int]]:
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    padding = stop_tokens[0] if stop_tokens else 0
    tokens = torch.full((len(prompts), width), padding, dtype=torch.int64)
    seen = torch.zeros((len(prompts), width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(list(prompt))
        seen[row, width - len(prompt) :] = 1
    # A configuration of our own: a model's may ask for sampling, or for penalties that change what is likeliest.
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop_tokens or None, pad_token_id=padding
    )
    generating: Any = model
    output = generating.generate(input_ids=tokens.to(device), attention_mask=seen.to(device), generation_config=greedy)
    return [_until_stop(row, stop_tokens) for row in output[:, width:].tolist()]


def _until_stop(tokens: list[int], stop_tokens: Collection[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]


@torch.no_grad()
def written_texts(
    model: nn.Module, texts: Sequence[Sequence[int]], max_new_tokens: int, micro_batch_sequences: int
) -> list[list[int]]:
    """What an encoder-decoder writes for each text, the likeliest token again and again, in the texts' order."""
    device = next(model.parameters()).device
    writing: Any = model
    padding = int(writing.config.pad_token_id or 0)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: list[list[int]] = [[] for _ in texts]
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
            found[number] = answer
    return found
