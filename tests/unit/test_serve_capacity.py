"""What fits into a replica, beside numbers that vLLM printed and cases worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rayloom.errors import InputError
from rayloom.serve.replicas.capacity import (
    GRAPHS_AND_CONTEXT_BYTES,
    ModelShape,
    cache_capacity,
    gpu_room,
    read_shape,
    replica_bytes,
    replicas_that_fit,
    serving_problems,
)
from rayloom.specs.serving.engine import EngineSpec, KvCache

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
KNOWN = frozenset({"LlamaForCausalLM"})


def model(folder: Path, weights_bytes: int = 1000, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(SMOLLM2 | changes))
    (folder / "model.safetensors").write_bytes(b"\0" * weights_bytes)
    return folder


def engine(size_bytes: int = 1 << 30, **changes: Any) -> EngineSpec:
    return EngineSpec(kv_cache=KvCache(size_bytes=size_bytes), **changes)


def test_the_cache_holds_as_many_tokens_as_vllm_says(tmp_path: Path) -> None:
    # vLLM 0.32 on this model: "CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens: 22.75x"
    room = cache_capacity(read_shape(model(tmp_path)), engine())
    assert room is not None
    assert room.tokens == 46_592
    assert room.full_length_requests == 22.75


def test_heads_of_their_own_size_and_full_precision_are_counted(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, num_key_value_heads=None, head_dim=128, dtype="float32"))
    # Key and value, 30 layers, 9 heads, 128 values, computed in 16 bits although the file holds 32.
    assert shape.kv_bytes_per_token == 2 * 30 * 9 * 128 * 2


def test_the_text_part_of_a_model_with_pictures_counts(tmp_path: Path) -> None:
    text = {key: value for key, value in SMOLLM2.items() if key != "architectures"}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"], "text_config": text}))
    assert read_shape(tmp_path).kv_bytes_per_token == 23_040


def test_other_cache_layouts_are_not_guessed(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, kv_lora_rank=512))
    assert shape.kv_bytes_per_token is None
    assert cache_capacity(shape, engine()) is None


def test_a_replica_takes_weights_cache_and_processes(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path, weights_bytes=5000))
    with_more = read_shape(model(tmp_path, weights_bytes=6000))
    assert replica_bytes(with_more, engine()) - replica_bytes(shape, engine()) == 1000
    assert replica_bytes(shape, engine(2 << 30)) - replica_bytes(shape, engine(1 << 30)) == 1 << 30
    assert replica_bytes(shape, engine(2 << 30, gpus_per_replica=1)) == replica_bytes(shape, engine(gpus_per_replica=1))


@pytest.mark.parametrize(
    ("available", "cores", "fit"),
    [(10, 8, 3), (10, 2, 1), (2, 8, 0), (12, 8, 4)],
    ids=["memory", "cores", "none", "all"],
)
def test_replicas_fit_by_memory_and_cores(available: int, cores: int, fit: int) -> None:
    assert replicas_that_fit(3, 2, available, cores) == fit


@pytest.mark.parametrize(
    ("changes", "wanted", "said"),
    [
        ({}, {"max_model_length_tokens": 9000}, "8192 positions"),
        ({"architectures": ["MyOwnModel"]}, {}, "does not know the architecture MyOwnModel"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, {}, "no loader for bitsandbytes"),
        ({}, {"size_bytes": 23_040 * 1024}, f"at least {23_040 * 2048} bytes"),
    ],
    ids=["too long", "unknown architecture", "bitsandbytes", "cache too small"],
)
def test_what_vllm_would_refuse_is_said_with_what_to_do(
    tmp_path: Path, changes: dict[str, Any], wanted: dict[str, Any], said: str
) -> None:
    found = serving_problems(read_shape(model(tmp_path, **changes)), engine(**wanted), KNOWN)
    assert len(found) == 1
    assert said in found[0]


def test_an_fp8_cache_on_a_gpu_holds_twice_the_tokens(tmp_path: Path) -> None:
    shape = read_shape(model(tmp_path))
    caches = [{"size_bytes": 1 << 30, "precision": precision} for precision in ("model", "fp8")]
    rooms = [cache_capacity(shape, EngineSpec.model_validate({"gpus_per_replica": 1, "kv_cache": c})) for c in caches]
    assert rooms[0] is not None
    assert rooms[1] is not None
    assert rooms[1].tokens == pytest.approx(2 * rooms[0].tokens, abs=16)
    with pytest.raises(ValidationError, match="needs GPUs"):
        EngineSpec.model_validate({"kv_cache": {"precision": "fp8"}})


def test_a_model_that_fits_has_no_problems(tmp_path: Path) -> None:
    assert serving_problems(read_shape(model(tmp_path)), engine(), KNOWN) == []


@pytest.mark.parametrize("text", [None, "{", '{"hidden_size": 3}'], ids=["missing", "not JSON", "no architecture"])
def test_a_folder_that_is_no_model_is_an_input_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read_shape(tmp_path)


def test_a_chat_template_is_found_in_either_place(tmp_path: Path) -> None:
    assert not read_shape(model(tmp_path)).has_chat_template
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert read_shape(tmp_path).has_chat_template


LLAMA_70B = ModelShape("LlamaForCausalLM", 131_072, 2 * 80 * 8 * 128 * 2, 141_000_000_000, None, True)


def test_what_is_left_of_a_gpu_is_cache() -> None:
    four = EngineSpec(gpus_per_replica=4, max_model_length_tokens=8192)
    room = gpu_room(LLAMA_70B, four, 80 * 10**9)
    assert room.weights_bytes == 35_250_000_000
    assert room.usable_bytes == int(80e9 * 0.92) - GRAPHS_AND_CONTEXT_BYTES
    assert room.cache_bytes == room.usable_bytes - room.weights_bytes
    assert room.request_bytes == 8192 * 327_680 // 4
    assert room.problem is None


def test_what_does_not_fit_a_gpu_is_said_before_it_starts() -> None:
    one = EngineSpec(gpus_per_replica=1, max_model_length_tokens=8192)
    problem = gpu_room(LLAMA_70B, one, 141 * 10**9).problem
    assert problem is not None and "raise gpus_per_replica" in problem
    told = EngineSpec(gpus_per_replica=4, kv_cache=KvCache(size_bytes=60 * 10**9))
    assert gpu_room(LLAMA_70B, told, 80 * 10**9).problem is not None
    long = EngineSpec(gpus_per_replica=2, max_model_length_tokens=131_072)
    assert gpu_room(LLAMA_70B, long, 80 * 10**9).problem is not None
    halved = EngineSpec(gpus_per_replica=2, max_model_length_tokens=8192, gpu_memory_share=0.5)
    assert gpu_room(LLAMA_70B, halved, 141 * 10**9).problem is not None


def test_a_gpu_is_named_as_in_the_table() -> None:
    assert EngineSpec(gpus_per_replica=1, gpu="H100-80GB").gpu == "H100-80GB"
    with pytest.raises(ValidationError, match="did you mean H100-80GB"):
        EngineSpec(gpus_per_replica=1, gpu="H100-80G")
