"""Prompts, jobs that learn from rewards, and a writer that samples from a model in this process: one function of ours
where vLLM's engine would stand (its own test is tests/integration/test_policy_engine.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from rayloom.specs.train import TrainSpec
from rayloom.train.rollouts.answers import AskedPrompt, Files, WrittenTokens
from support.models import tiny_llama
from support.tokenizers import chatml

LENGTH, ANSWER = 48, 8
ENVIRONMENT = """
def reply(messages, row):
    turns = sum(message["role"] == "assistant" for message in messages)
    return None if turns > len(row["wanted"]) else "And then?"
"""
"""A file `talk.py`: what an environment says to the model's turns."""


def write_prompts_file(folder: Path, count: int = 24) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"Tell me {number} jokes", "wanted": ["a", "e", "i", "o", "n", "t"]} for number in range(count)]
    (folder / "x.json").write_text(json.dumps(rows))
    return folder


def write_ending_model(folder: Path, **changes: Any) -> None:
    """A model with random weights that ends each answer soon: about every third token is the end of a turn."""
    model = tiny_llama(tie_word_embeddings=False, **changes)
    tokenizer = chatml()
    with torch.no_grad():
        # One place of the hidden state is large for every text, and only the end of a turn reads it.
        model.model.embed_tokens.weight[:, 0] = 2.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 3.2
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_engine_model(folder: Path) -> None:
    """The same for vLLM, whose attention on CPUs begins at heads of 32."""
    write_ending_model(folder, num_attention_heads=2, num_key_value_heads=1)


TURNS: dict[str, Any] = {
    "sequence_length_tokens": 2 * LENGTH,
    "global_batch_tokens": 16 * LENGTH,
    "rollouts": {
        "max_answer_tokens": 6, "max_sequences": 16, "kv_cache_bytes": 1 << 26, "placement": "own",
        "environment": {"function": "talk:reply", "max_turns": 3},
    },
}  # fmt: skip
"""Changes to a job for answers of several turns."""


def policy_spec(policy: dict[str, Any], **changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "kind": "train", "name": "rewarded", "base": "./base", "policy": policy,
        "rewards": [{"type": "contains", "field": "wanted"}],
        "rollouts": {"max_answer_tokens": ANSWER, "max_sequences": 16, "kv_cache_bytes": 1 << 26},
        "data": {"type": "prompts", "sources": [{"dataset": "./data"}], "heldout_rows": 4},
        "sequence_length_tokens": LENGTH, "micro_batch_sequences": 4, "global_batch_tokens": 8 * LENGTH,
        "num_steps": 3, "learning_rate": 3e-3, "precision": "fp32", "adapter": {"type": "lora", "rank": 4},
        "optimizer": {"type": "adamw", "weight_decay": 0}, "checkpoints": {"every_steps": 1},
    }  # fmt: skip
    return TrainSpec.model_validate(values | changes)


def write_turns_job(folder: Path, name: str, rollouts: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A job file for answers of several turns by vLLM's engine, whose base and data are beside it."""
    policy = {"type": "grpo", "group_size": 4, "cut_answers": "judged", "kl": {"coefficient": 0.02}}
    turns = TURNS | {"rollouts": {**TURNS["rollouts"], "placement": "shared", **(rollouts or {})}}
    spec = policy_spec(policy, name=name, **turns, **changes)
    (folder / "talk.py").write_text(ENVIRONMENT)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    return file


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def same_training(events: list[dict[str, Any]], leave_out: Sequence[str] = ()) -> list[Any]:
    """What must be equal, step by step, whatever happened to the run. `leave_out`: names of numbers."""
    kept = {
        "step": ("step", "loss", "gradient_norm", "mismatch", "entropy"),
        "rollout": ("step", "version", "reward", "samples"),
    }
    wanted = {kind: [name for name in names if name not in leave_out] for kind, names in kept.items()}
    return [[event[name] for name in wanted[event["event"]]] for event in events if event["event"] in wanted]


def first_difference(expected: list[Any], found: list[Any]) -> str:
    """Where two runs part, in words; empty if they are equal."""
    for number, (wanted, got) in enumerate(zip(expected, found, strict=False)):
        if wanted != got:
            return f"event {number} is {got}, and should be {wanted}"
    return "" if len(expected) == len(found) else f"{len(found)} events instead of {len(expected)}"


@dataclass
class _Done:
    written: list[WrittenTokens]

    def result(self) -> tuple[list[WrittenTokens], float]:
        return self.written, 0.1


class ModelWriters:
    """Samples token by token from the base with the newest weights."""

    def __init__(self, spec: TrainSpec, base: Path, stop_tokens: Sequence[int], scratch: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.spec, self.stops, self.scratch = spec, set(stop_tokens), scratch
        self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.versions: list[int] = []
        self.num_asked = 0
        self.is_asleep, self.num_sleeps = False, 0

    def sleep(self) -> None:
        assert not self.is_asleep
        self.is_asleep, self.num_sleeps = True, self.num_sleeps + 1

    def wake(self) -> None:
        self.is_asleep = False

    def load(self, version: int, files: Files) -> None:
        from peft import PeftModel

        folder = self.scratch / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            content.tofile(folder / name)
        if (folder / "adapter_config.json").exists():
            base = self.model.unload() if isinstance(self.model, PeftModel) else self.model
            self.model = PeftModel.from_pretrained(base, str(folder)).eval()
        else:
            self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        self.versions.append(version)

    def ask(self, asked: Sequence[AskedPrompt], goes_on: bool = False) -> _Done:
        assert not self.is_asleep
        self.num_asked += len(asked)
        return _Done([self._written(one) for one in asked])

    @torch.no_grad()
    def _written(self, one: AskedPrompt) -> WrittenTokens:
        assert self.spec.rollouts is not None
        random = None if one.seed is None else np.random.default_rng(one.seed)
        tokens: list[int] = []
        found: list[float] = []
        room = min(self.spec.rollouts.max_answer_tokens, self.spec.sequence_length_tokens - len(one.tokens))
        while len(tokens) < room:
            logits = self.model(torch.tensor([[*one.tokens, *tokens]])).logits[0, -1].double()
            log_p = (logits / self.spec.rollouts.temperature).log_softmax(-1)
            p = log_p.exp().numpy()
            token = int(p.argmax()) if random is None else int(random.choice(len(p), p=p / p.sum()))
            tokens.append(token)
            found.append(float(log_p[token]))
            if token in self.stops:
                return WrittenTokens(tokens, found, False)
        return WrittenTokens(tokens, found, True)
