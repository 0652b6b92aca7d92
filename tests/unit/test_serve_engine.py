"""From a served model's spec to vLLM's arguments, and the text by which requests that begin alike are recognised."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from rayloom.models import vllm_process
from rayloom.serve.gateway.deployment import text_of
from rayloom.serve.replicas.capacity import ModelShape, serving_problems
from rayloom.serve.replicas.engine_internals import engine_arguments_known, tool_parsers
from rayloom.serve.replicas.engine_settings import EngineSettings, engine_arguments, precision_here
from rayloom.specs.serve import ServedModel
from rayloom.specs.serving.engine import EngineSpec

SHAPE = ModelShape("LlamaForCausalLM", 8192, 1000, 1 << 20, None, True)


def arguments(max_answer_tokens: int | None = None, **model: Any) -> dict[str, Any]:
    served = ServedModel.model_validate({"name": "m", "model": "artifact:m"} | model)
    return engine_arguments(EngineSettings(served, "store", "m", "0", (), max_answer_tokens))


def test_what_is_not_asked_for_is_not_turned_on() -> None:
    found = arguments()
    assert not {"enable_lora", "speculative_config", "tool_call_parser", "override_generation_config"} & set(found)
    assert found["trust_remote_code"] is False


def test_on_a_cpu_the_defaults_are_a_small_machines() -> None:
    found = arguments()
    assert (found["max_num_seqs"], found["kv_cache_memory_bytes"], found["enforce_eager"]) == (32, 1 << 30, True)


def test_on_a_gpu_the_defaults_are_vllms() -> None:
    found = arguments(engine={"gpus_per_replica": 1})
    ours = {"max_num_seqs", "kv_cache_memory_bytes", "gpu_memory_utilization", "max_num_batched_tokens"}
    assert not ours & set(found)
    assert found["enforce_eager"] is False
    assert serving_problems(SHAPE, EngineSpec(gpus_per_replica=1), frozenset()) == []


def test_what_an_operator_sets_reaches_vllm() -> None:
    engine = {
        "gpus_per_replica": 2, "gpu_memory_share": 0.8, "max_sequences": 256, "max_batched_tokens": 8192,
        "chunked_prefill": False, "expert_parallel": True, "compiled": False, "reasoning_parser": "qwen3",
        "chat_template_kwargs": {"enable_thinking": False}, "kv_cache": {"offload_bytes": 2 << 30, "precision": "fp8"},
        "extra": {"seed": 7},
    }  # fmt: skip
    assert arguments(engine=engine).items() >= {
        "gpu_memory_utilization": 0.8, "max_num_seqs": 256, "max_num_batched_tokens": 8192,
        "enable_chunked_prefill": False, "enable_expert_parallel": True, "enforce_eager": True,
        "reasoning_parser": "qwen3", "kv_offloading_size": 2.0, "kv_cache_dtype": "fp8", "seed": 7,
        "tensor_parallel_size": 2,
    }.items()  # fmt: skip
    assert arguments(engine=engine)["default_chat_template_kwargs"] == {"enable_thinking": False}


def test_a_processor_without_bf16_serves_in_fp32_unless_the_file_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_process, "multiplies_bf16", lambda: False)
    assert precision_here(EngineSpec(), SHAPE) == "fp32"
    assert precision_here(EngineSpec(precision="bf16"), SHAPE) == "bf16"
    assert precision_here(EngineSpec(gpus_per_replica=1), SHAPE) is None
    assert precision_here(EngineSpec(), replace(SHAPE, quantization="compressed-tensors", is_w8a8=True)) is None
    monkeypatch.setattr(vllm_process, "multiplies_bf16", lambda: True)
    assert precision_here(EngineSpec(), SHAPE) is None
    assert "dtype" not in arguments()
    twice = SHAPE.in_fp32()
    assert (twice.weights_bytes, twice.kv_bytes_per_token) == (
        2 * SHAPE.weights_bytes,
        2 * (SHAPE.kv_bytes_per_token or 0),
    )


def test_an_engine_argument_that_vllm_does_not_have_is_a_problem() -> None:
    known = engine_arguments_known()
    assert serving_problems(SHAPE, EngineSpec(extra={"seed": 7}), frozenset(), known_arguments=known) == []
    (problem,) = serving_problems(SHAPE, EngineSpec(extra={"sed": 7}), frozenset(), known_arguments=known)
    assert "sed" in problem


def test_the_longest_answer_is_the_engines_to_enforce() -> None:
    assert arguments(max_answer_tokens=64)["override_generation_config"] == {"max_new_tokens": 64}


def test_adapters_take_the_room_they_are_given() -> None:
    found = arguments(adapters={"max_rank": 32, "max_at_once": 2, "max_loaded": 5})
    assert found["enable_lora"] is True
    assert (found["max_lora_rank"], found["max_loras"], found["max_cpu_loras"]) == (32, 2, 5)


def test_guessing_by_ngrams_and_tools() -> None:
    engine = {"tool_parser": "hermes", "speculation": {"type": "ngram", "num_tokens": 3}}
    found = arguments(engine=engine)
    assert found["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    assert (found["enable_auto_tool_choice"], found["tool_call_parser"]) == (True, "hermes")


def test_guessing_by_a_small_model() -> None:
    guessing = {"type": "draft_model", "model": "artifact:small", "num_tokens": 3}
    served = ServedModel.model_validate({"name": "m", "model": "artifact:m", "engine": {"speculation": guessing}})
    settings = EngineSettings(served, "store", "m", "0", draft=("small", "1"))
    found = engine_arguments(settings, "/a/folder")["speculative_config"]
    assert found["model"] == "/a/folder"
    assert (found["method"], found["num_speculative_tokens"]) == ("draft_model", 3)
    assert found["draft_tensor_parallel_size"] == 1


def test_a_model_that_guesses_takes_memory_and_needs_the_same_vocabulary() -> None:
    engine = EngineSpec.model_validate({"speculation": {"type": "draft_model", "model": "artifact:small"}})
    large = replace(SHAPE, vocabulary=100)
    both = large.with_draft(replace(SHAPE, weights_bytes=7, kv_bytes_per_token=200, vocabulary=100))
    assert (both.weights_bytes, both.kv_bytes_per_token) == (SHAPE.weights_bytes + 7, 1200)
    assert serving_problems(both, engine, frozenset()) == []
    (found,) = serving_problems(large.with_draft(replace(SHAPE, vocabulary=90)), engine, frozenset())
    assert "90" in found
    assert "100" in found
    assert "same tokenizer" in found


def test_stages_divide_the_gpus() -> None:
    found = arguments(engine={"gpus_per_replica": 8, "pipeline_stages": 2})
    assert (found["tensor_parallel_size"], found["pipeline_parallel_size"]) == (4, 2)
    assert not {"pipeline_parallel_size", "tensor_parallel_size"} & set(arguments(engine={"gpus_per_replica": 1}))


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"gpus_per_replica": 3, "pipeline_stages": 2}, "does not divide"),
        ({"pipeline_stages": 2}, "does not divide"),
        ({"gpus_per_replica": 2, "pipeline_stages": 2, "speculation": {"type": "ngram"}}, "pipeline_stages: 1"),
    ],
)
def test_stages_that_cannot_be(engine: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EngineSpec.model_validate(engine)


def test_an_unknown_tool_parser_is_said_with_the_known_ones() -> None:
    assert "hermes" in tool_parsers()
    assert serving_problems(SHAPE, EngineSpec(tool_parser="hermes"), frozenset(), tool_parsers()) == []
    (found,) = serving_problems(SHAPE, EngineSpec(tool_parser="herms"), frozenset(), tool_parsers())
    assert "hermes" in found


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, "a\nb"),
        ({"messages": [{"content": [{"type": "text", "text": "a"}]}]}, '[{"type": "text", "text": "a"}]'),
        ({"messages": [3]}, "null"),
        ({"prompt": "a"}, "a"),
        ({"prompt": [1, 2]}, ""),
        ([], ""),
    ],
)
def test_the_text_of_a_request(body: Any, text: str) -> None:
    assert text_of(json.dumps(body).encode()) == text


def test_what_is_no_json_has_no_text() -> None:
    assert text_of(b"\xff{") == ""
