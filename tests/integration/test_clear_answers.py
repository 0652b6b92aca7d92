"""What the tests of services ask SmolLM2 has one answer on every processor: each token of it leads clearly."""

from __future__ import annotations

import pytest
import torch
from support.likelihoods import CLEAR_LEAD_NATS, leads
from support.service import CAPITAL, CAPITAL_ANSWER, COUNTING, COUNTING_ANSWER
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayloom.artifacts.store import Artifact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_token_of_the_answers_leads_clearly(smollm2: Artifact, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(smollm2.path)
    question = tokenizer.apply_chat_template(CAPITAL, add_generation_prompt=True, return_dict=False)
    asked = [(question, CAPITAL_ANSWER), (tokenizer(COUNTING)["input_ids"], COUNTING_ANSWER)]
    for prompt, answer in asked:
        assert min(leads(model, prompt, tokenizer(answer)["input_ids"])) > CLEAR_LEAD_NATS
