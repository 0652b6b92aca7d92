"""Small real models and adapters as artifacts, made in milliseconds, for the tests of `export/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.specs.base import Content, JobSpec
from support.tokenizers import chatml

VOCABULARY_SIZE = 512
"""At least that of the test tokenizers."""


class MadeSpec(JobSpec):
    """Whatever a test puts into its folder."""

    kind: str = "made"
    seed: int = 0
    sequence_length_tokens: int = 64
    adapter: dict[str, Any] | None = None


def made(
    store: Store,
    name: str,
    content: Content,
    write: Callable[[Path], object],
    parents: dict[str, Artifact] | None = None,
    **spec: Any,
) -> Artifact:
    """An artifact with the files that `write` leaves in its folder."""

    def stage(_: JobSpec, build: Build) -> Outcome:
        write(build.directory)
        return Outcome(content, licences=("CC0-1.0",))

    return build(ResolvedJob(MadeSpec(name=name, **spec), 1, parents or {}, Path.cwd()), store, stage)[0]


def small_config(vocabulary_size: int, **changes: Any) -> LlamaConfig:
    """Two layers of 64."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaConfig(**({"vocab_size": vocabulary_size, "max_position_embeddings": 64} | sizes | changes))


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two layers of 64 with tied embeddings; random weights, larger than usual, so that logits differ clearly."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def write_model(folder: Path, seed: int = 0, **changes: Any) -> None:
    """A bf16 model folder with a ChatML tokenizer and generation defaults."""
    model = tiny_llama(seed, **changes).to(torch.bfloat16)
    tokenizer = chatml()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_adapter(folder: Path, base: Path, seed: int = 0, config: PeftConfig | None = None) -> None:
    """An adapter whose every trained value is random."""
    config = config or LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(str(folder))
    chatml().save_pretrained(folder)
