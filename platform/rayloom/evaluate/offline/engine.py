"""Text by vLLM's offline engine on Ray Data (`ray.data.llm`), from prompts that are rendered and tokenised here.

So the ids are those of training and of the server, and an answer ends where the server's would.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from rayloom.models.compile_cache import keep_compiled
from rayloom.models.responders.responder import TextResponder
from rayloom.models.responders.subject import Subject
from rayloom.models.vllm_adapter import room_for_rank
from rayloom.models.vllm_process import cpu_arguments, vllm_environment
from rayloom.specs.text_generation import Generation

Row = dict[str, Any]

_FAILED = "__inference_error__"
CPUS_BESIDE = 0.25
"""Of a task beside the engine: on a machine whose cores it has all of, it would wait for a whole one for ever."""


@dataclass(frozen=True)
class EngineUse:
    """How an engine answers, and what it gets."""

    subject: Subject
    generation: Generation
    micro_batch_sequences: int
    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    stop_tokens: frozenset[int] = frozenset()
    """Where answers end. Default: where the chat template's do."""

    def asked(self, prompt: Sequence[int], stop_tokens: Sequence[int], **position: int) -> Row:
        """A prompt as the engine takes it; `place` comes back with its answer."""
        generation = self.generation
        sampling = {
            "temperature": generation.temperature,
            "top_p": generation.top_p if generation.temperature else 1.0,
            "max_tokens": generation.max_new_tokens,
            "stop_token_ids": list(stop_tokens),
            "seed": generation.seed,
            "detokenize": False,
        }
        return {**position, "tokenized_prompt": list(prompt), "sampling_params": sampling}


def answers(use: EngineUse, prompts: Sequence[Sequence[int]]) -> list[Row]:
    """For each prompt `answer` and `num_tokens`, or `failed` with the reason."""
    stop_tokens = sorted(use.stop_tokens or use.subject.renderer.stop_tokens)
    asked = [use.asked(prompt, stop_tokens, row=number) for number, prompt in enumerate(prompts)]
    answers_in_order: list[Row] = [{} for _ in prompts]
    for answer in answered(use, asked):
        answers_in_order[answer.pop("row")] = answer
    return answers_in_order


def answered(use: EngineUse, items: Sequence[Row], expand: Callable[[Row], list[Row]] | None = None) -> Iterator[Row]:
    """Answers in no order, each with its place. `items`: what is asked, or what `expand` makes that of on the cluster.

    Raises nothing for a prompt that the engine refuses; its answer says so.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # By default each row is a block, and as many processes as fit begin by importing Ray's stages, for nothing.
    rows_a_block = 1 if expand else use.micro_batch_sequences
    rows = ray.data.from_items(list(items), override_num_blocks=max(1, math.ceil(len(items) / rows_a_block)))
    beside = {"num_cpus": CPUS_BESIDE, "concurrency": use.num_workers}
    asked = rows.flat_map(expand, **beside) if expand else rows
    processor = build_processor(
        _config(use),
        preprocess=_as_it_is,
        postprocess=_Answer(use),
        preprocess_map_kwargs=beside,
        postprocess_map_kwargs=beside,
    )
    engine = processor.get_stage_by_name("vLLMEngineStage")
    engine.fn_constructor_kwargs["subject"] = use.subject
    # Not by assignment, at which the stage would work out its resources again and ask for a GPU.
    engine.__dict__["fn"] = _NodesEngine
    for row in processor(asked).iter_rows():
        yield _plain(row)


def _config(use: EngineUse) -> vLLMEngineProcessorConfig:
    generation, is_on_gpu = use.generation, bool(use.gpus_per_worker)
    arguments: Row = {
        "max_model_len": generation.max_length_tokens,
        "max_num_seqs": use.micro_batch_sequences,
        "trust_remote_code": False,
    }
    if not is_on_gpu:
        arguments |= cpu_arguments(use.subject.base, generation.kv_cache_bytes)
    if use.subject.adapter is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": room_for_rank(use.subject.adapter), "max_loras": 1}
    cores = None if is_on_gpu else use.cpus_per_worker
    bundle = {"CPU": use.cpus_per_worker} | ({"GPU": use.gpus_per_worker} if is_on_gpu else {})
    return vLLMEngineProcessorConfig(
        model_source=str(use.subject.base),
        engine_kwargs=arguments,
        concurrency=(use.num_workers, use.num_workers),
        batch_size=use.micro_batch_sequences,
        placement_group_config={"bundles": [bundle]},
        runtime_env={"env_vars": vllm_environment(cores, in_one_process=cores is not None)},
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )


class _NodesEngine(vLLMEngineStageUDF):  # type: ignore[misc]
    """The engine of Ray's stage with the files of the node that it starts on; Ray's would look for the driver's."""

    def __init__(self, *, subject: Subject, **arguments: Any) -> None:
        keep_compiled()
        super().__init__(**arguments | {"model": str(subject.base)})
        self._adapter = subject.adapter

    async def udf(self, batch: list[Row]) -> AsyncIterator[Row]:
        if self._adapter is not None:
            for row in batch:
                row["model"] = str(self._adapter)
        async for answer in super().udf(batch):
            yield answer


def _as_it_is(row: Row) -> Row:
    return row


@dataclass(frozen=True)
class _Answer:
    """What the engine gave, as text without its stop token."""

    use: EngineUse

    def __call__(self, row: Row) -> Row:
        position = {name: row[name] for name in ("part", "row") if name in row}
        tokens, stop_tokens = [int(token) for token in row["generated_tokens"]], self.use.stop_tokens
        if stop_tokens:
            return position | self._until(tokens, stop_tokens)
        return position | TextResponder(self.use.subject, self.use.generation).answer(tokens)

    def _until(self, tokens: Sequence[int], stop_tokens: frozenset[int]) -> Row:
        """Of a model that may have no chat template."""
        end = next((place for place, token in enumerate(tokens) if token in stop_tokens), len(tokens))
        text = self.use.subject.tokenizer.decode(list(tokens[:end]), skip_special_tokens=True)
        return {"answer": str(text), "num_tokens": end}


def _plain(row: Mapping[str, Any]) -> Row:
    position = {name: int(row[name]) for name in ("part", "row") if row.get(name) is not None}
    failed = row.get(_FAILED) or ""
    if failed:
        return position | {"failed": str(failed).splitlines()[0]}
    return position | {"answer": str(row["answer"]), "num_tokens": int(row["num_tokens"])}
