"""vLLM's engine as a writer of answers: in an actor's process, from token ids to token ids, with weights by version."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.models.compile_cache import keep_compiled
from rayloom.models.processor import multiplies_bf16
from rayloom.models.vllm_adapter import LORA_RANKS
from rayloom.models.vllm_process import CPU_BLOCK_TOKENS, vllm_environment
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.train.rollouts.answers import AskedPrompt, Files, WrittenTokens

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
MEMORY = Path("/dev/shm")


class OldWeightsError(Exception):
    """The engine does not have the weights by which it is asked to answer: its process was started anew."""


@dataclass(frozen=True)
class EngineOrder:
    """All that an engine needs to start on any node."""

    spec: TrainSpec
    base: Artifact
    stop_tokens: tuple[int, ...]

    @property
    def num_cores(self) -> int | None:
        """CPU cores to compute with; None on GPUs."""
        rollouts = self.spec.rollouts
        assert rollouts is not None
        return None if rollouts.gpus_per_engine else rollouts.cpus_per_engine

    def environment(self) -> dict[str, str]:
        """Variables of the engine's process, which must be set before vLLM is imported."""
        return vllm_environment(self.num_cores, in_one_process=True)


def engine_arguments(spec: TrainSpec) -> dict[str, Any]:
    """vLLM's engine arguments for a training job, without the model's path."""
    rollouts, precision = spec.rollouts, spec.precision
    assert rollouts is not None
    is_on_gpu = rollouts.gpus_per_engine > 0
    if precision == "bf16" and not is_on_gpu and not multiplies_bf16():
        precision = "fp32"  # as the trainer does there
    arguments: dict[str, Any] = {
        "dtype": PRECISIONS[precision],
        "max_model_len": spec.sequence_length_tokens,
        "max_num_seqs": rollouts.max_sequences,
        "enable_prefix_caching": True,
        "enforce_eager": not is_on_gpu,
        "trust_remote_code": False,
        # What is trained is the probability at the temperature of sampling.
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
    }
    if is_on_gpu:
        arguments |= {"gpu_memory_utilization": rollouts.gpu_memory_share}
        arguments |= {"tensor_parallel_size": rollouts.gpus_per_engine, "enable_sleep_mode": rollouts.sleeps}
    else:
        arguments |= {"kv_cache_memory_bytes": rollouts.kv_cache_bytes, "block_size": CPU_BLOCK_TOKENS}
    if isinstance(spec.adapter, LoraAdapter):
        rank = next(rank for rank in LORA_RANKS if rank >= spec.adapter.rank)
        arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": 1}
    return arguments


class AnswerEngine:
    """An engine. One call at a time."""

    def __init__(self, order: EngineOrder) -> None:
        os.environ.update(order.environment())
        keep_compiled()
        import rayloom.pretrained  # noqa: F401 - for what vLLM imports of transformers

        os.dup2(2, 1)  # engines write to standard output, which is for the command's own
        from vllm import LLM

        self._order, self._version, self._adapter, self._num_loaded = order, -1, None, 0
        self._is_asleep = False
        self._engine = LLM(model=str(order.base.path), seed=order.spec.seed, **engine_arguments(order.spec))

    def sleep(self) -> None:
        """Brings the weights into main memory, and drops the cache."""
        if not self._is_asleep:
            self._engine.sleep(level=1)
            self._is_asleep = True

    def wake(self) -> None:
        if self._is_asleep:  # one that was started anew is awake
            self._engine.wake_up()
            self._is_asleep = False

    def load(self, version: int, files: Files) -> None:
        """Takes new weights: an adapter under a new name, whose old one goes, or all weights in place."""
        engine: Any = self._engine
        folder = Path(tempfile.mkdtemp(prefix="rayloom-weights-", dir=MEMORY if MEMORY.is_dir() else None))
        try:
            for name, content in files.items():
                content.tofile(folder / name)
            if self._order.spec.adapter.type == "lora":
                from vllm.lora.request import LoRARequest

                if self._adapter is not None:
                    engine.llm_engine.remove_lora(self._adapter.lora_int_id)
                # A run that went back has other weights at the same step; the cache knows adapters by their names.
                self._num_loaded += 1
                self._adapter = LoRARequest(f"step-{version}-{self._num_loaded}", self._num_loaded, str(folder))
                if not engine.llm_engine.add_lora(self._adapter):
                    raise RuntimeError(f"vLLM did not take the adapter of step {version}")
            else:
                engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._version = version

    def write(
        self, version: int, asked: Sequence[AskedPrompt], goes_on: bool = False
    ) -> tuple[list[WrittenTokens], float]:
        """The answers in order, and the seconds for them. Raises OldWeightsError if it has other weights."""
        if version != self._version:
            raise OldWeightsError(f"step {version} is asked, step {self._version} is loaded")
        from vllm import SamplingParams, TokensPrompt

        started, rollouts = time.perf_counter(), self._order.spec.rollouts
        assert rollouts is not None
        # Blocks of earlier weights are wrong, and an empty cache makes a resumed run compute in the same pieces.
        if not goes_on:
            self._engine.reset_prefix_cache()
        sampling = [
            SamplingParams(
                temperature=0.0 if one.seed is None else rollouts.temperature,
                seed=one.seed,
                max_tokens=min(rollouts.max_answer_tokens, self._order.spec.sequence_length_tokens - len(one.tokens)),
                stop_token_ids=list(self._order.stop_tokens),
                logprobs=0,
                detokenize=False,
            )
            for one in asked
        ]
        prompts = [TokensPrompt(prompt_token_ids=one.tokens) for one in asked]
        outputs = self._engine.generate(prompts, sampling, use_tqdm=False, lora_request=self._adapter)
        return [_written(output.outputs[0]) for output in outputs], time.perf_counter() - started


def _written(output: Any) -> WrittenTokens:
    tokens = [int(token) for token in output.token_ids]
    log_p = [float(found[token].logprob) for token, found in zip(tokens, output.logprobs, strict=True)]
    return WrittenTokens(tokens, log_p, output.finish_reason == "length")
