"""How many positions a model has is what vLLM's own code says of the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, OPTConfig, PretrainedConfig

from rayloom.models.context_length import context_tokens, context_tokens_of


def of_vllm(config: PretrainedConfig) -> int:
    from vllm.config.model import _get_and_verify_max_len
    from vllm.transformers_utils.config import patch_rope_parameters
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    patch_rope_parameters(config)
    arch: Any = type("Arch", (), {})()
    arch.derived_max_model_len_and_key = ModelArchConfigConvertorBase(config, config).derive_max_model_len_and_key()
    return int(_get_and_verify_max_len(config, arch, None, -1, False, None))


def llama(**settings: Any) -> LlamaConfig:
    return LlamaConfig(max_position_embeddings=2048, **settings)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (llama(), 2048),
        (llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}), 8192),
        (llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}), 4096),
        (
            llama(
                rope_parameters={
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 512, "rope_theta": 10000.0,
                }
            ),
            2048,
        ),
        (GPT2Config(n_positions=512), 512),
        (OPTConfig(max_position_embeddings=256), 256),
    ],
)  # fmt: skip
def test_positions_are_those_of_the_server(tmp_path: Path, config: PretrainedConfig, tokens: int) -> None:
    config.save_pretrained(tmp_path)
    assert context_tokens_of(tmp_path) == tokens == of_vllm(config)


def test_the_older_name_of_scaling_and_configurations_inside_others() -> None:
    older = {"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 2}}
    assert context_tokens(older) == 200
    assert context_tokens({"text_config": older}) == 200
    assert context_tokens({"hidden_size": 4}) is None
    assert context_tokens({"n_positions": 512, "relative_attention_num_buckets": 32}) is None
    assert context_tokens({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": None}}) == 100
