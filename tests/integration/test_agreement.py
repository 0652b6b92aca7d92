"""Agreement of two models, on models small enough to be read."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rayloom.score.agreement import compare, compare_answers, logits_of
from rayloom.score.answers import greedy_answers

ROWS = [[1, 5, 9, 3], [2, 7]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    # Where a caller gives no stop token, transformers would take the model's own.
    model.generation_config.eos_token_id = None
    return model


def test_a_model_agrees_with_itself(model: LlamaForCausalLM) -> None:
    agreement = compare(logits_of(model, ROWS), logits_of(copy.deepcopy(model), ROWS))
    assert agreement.max_logit_difference == agreement.mean_logit_difference == 0.0
    assert agreement.next_token_share == 1.0
    assert agreement.num_positions == 6


def test_a_known_change_of_the_logits_is_measured(model: LlamaForCausalLM) -> None:
    logits = logits_of(model, ROWS)
    changed = [row.clone() for row in logits]
    place = int(changed[0][2].argmin())
    changed[0][2, place] += 1000.0
    agreement = compare(logits, changed)
    assert agreement.max_logit_difference == pytest.approx(1000.0, rel=1e-4)
    assert agreement.mean_logit_difference == pytest.approx(1000.0 / (6 * 32), rel=1e-4)
    assert agreement.next_token_share == pytest.approx(5 / 6)


def test_logits_that_are_not_finite_never_agree(model: LlamaForCausalLM) -> None:
    logits = logits_of(model, ROWS)
    broken = [row.clone() for row in logits]
    broken[1][0, 0] = math.nan
    difference = compare(logits, broken).max_logit_difference
    assert not difference <= 1e9


def test_greedy_answers_are_the_likeliest_token_again_and_again(model: LlamaForCausalLM) -> None:
    """Also of rows of different lengths that are computed together."""
    found = greedy_answers(model, ROWS, 12, (), micro_batch_sequences=2)
    for row, answer in zip(ROWS, found, strict=True):
        tokens = list(row)
        for _ in range(12):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert answer == tokens[len(row) :]


def test_an_answer_ends_before_its_stop_token(model: LlamaForCausalLM) -> None:
    whole = greedy_answers(model, ROWS, 8, (), micro_batch_sequences=1)[0]
    stopped = greedy_answers(model, ROWS, 8, [whole[3]], micro_batch_sequences=2)[0]
    assert stopped == whole[: whole.index(whole[3])]


def test_answers_are_compared_up_to_the_first_difference() -> None:
    agreement = compare_answers([[1, 2, 3], [4, 5, 6, 7]], [[1, 2, 3], [4, 5, 9, 7]])
    assert agreement.same_answers_share == 0.5
    assert agreement.same_tokens_share == pytest.approx(5 / 7)
    assert compare_answers([[]], [[]]).same_tokens_share == 1.0
