"""Each kind of parallelism on two gloo workers against data parallelism, and tensors' against transformers' DTensors.

All sides compute the same rows, forward and backward, in turns in one run; those with DTensors the same matrices cut by
the same plan. Of a mixture, data parallelism sums the gradients of all experts, and expert parallelism exchanges tokens
instead. The last line is one JSON object: medians of seconds for each way, and ratios above 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hardware import hardware
from results_file import save
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.training_jobs import small_spec

from rayloom.score.batches import Batch
from rayloom.score.document_attention import use_documents
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.train.engines.engine import engine_for
from rayloom.train.process_group import Group
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.parts import part_of

NUM_WORKERS = 2
NUM_ROWS = 8
"""Of a step in micro-batches of one row."""
SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 4}
EXPERTS = {"moe_intermediate_size": 352, "num_experts": 16, "num_experts_per_tok": 4, "head_dim": 64}


def rows(length: int, first: int, count: int) -> Batch:
    """Rows of two documents each."""
    tokens = torch.randint(0, 4096, (NUM_ROWS, length + 1), generator=torch.Generator().manual_seed(1))[
        first : first + count
    ]
    positions = torch.cat([torch.arange(length // 4), torch.arange(length - length // 4)]).expand(count, -1)
    return Batch(tokens[:, :-1].contiguous(), positions.contiguous(), tokens[:, 1:].contiguous(), count * length)


def ways(num_layers: int, length: int, axis: Axis) -> dict[str, Callable[[], Any]]:
    """One pass over two rows by each way. Of `…_layers`, without the head, which transformers' plan gathers."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=4096, num_hidden_layers=num_layers, **SHAPE)
    model = LlamaForCausalLM(config)
    use_documents(model)
    cut, by_plan = copy.deepcopy(model), copy.deepcopy(model)
    make_parts(cut, None, axis, torch.device("cpu"), torch.float32)
    layers = {name: style for name, style in by_plan.tp_plan.items() if "layers" in name}
    apply_tensor_parallelism(by_plan, init_device_mesh("cpu", (NUM_WORKERS,)), layers)

    def summed(model: Any) -> None:
        for parameter in model.parameters():
            axis.summed(parameter.grad)

    def whole(own: Batch, has_sums: bool) -> Callable[[], Any]:
        def run() -> None:
            LabelLoss(model)(own).backward()
            if has_sums:
                summed(model)

        return run

    def of_layers(model: Any) -> Callable[[], Any]:
        batch = rows(length, 0, 2)

        def run() -> None:
            out: Tensor = model.model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False)[0]
            out.square().mean().backward()

        return run

    return {
        "data": whole(rows(length, axis.rank, 1), has_sums=True),
        "context": whole(rows(length, 0, 2).part(axis), has_sums=True),
        "tensor": lambda: LabelLoss(cut)(rows(length, 0, 2)).backward(),
        "tensor_layers": of_layers(cut),
        "dtensor_layers": of_layers(by_plan),
        **steps(model, length, axis),
    }


def steps(model: Any, length: int, axis: Axis) -> dict[str, Callable[[], Any]]:
    """One step of all rows, with the update: each worker half of the rows, or half of the layers."""

    def step(group: Group, numbers: range) -> Callable[[], Any]:
        engine = engine_for(small_spec(), LabelLoss(copy.deepcopy(model)), group)
        batches = [rows(length, number, 1) for number in numbers]

        def run() -> None:
            engine.accumulate(batches, NUM_ROWS * length, math.inf, lambda _: None)
            engine.step(1e-4)

        return run

    alike = Group(axis.rank, NUM_WORKERS, torch.device("cpu"))
    return {
        "data_step": step(alike, range(axis.rank, NUM_ROWS, NUM_WORKERS)),
        "pipeline_step": step(replace(alike, pipeline=axis), range(NUM_ROWS)),
    }


def mixture_ways(num_layers: int, length: int, axis: Axis) -> dict[str, Callable[[], Any]]:
    """One pass over a row of each worker through a mixture, with sums of the gradients that several workers have."""
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=4096, num_hidden_layers=num_layers, **SHAPE, **EXPERTS))
    use_documents(model)
    spread = copy.deepcopy(model)
    make_parts(spread, None, ALONE, torch.device("cpu"), torch.float32, axis)

    def of(model: Any) -> Callable[[], Any]:
        def run() -> None:
            LabelLoss(model)(rows(length, axis.rank, 1)).backward()
            for parameter in model.parameters():
                if part_of(parameter) is None:
                    axis.summed(parameter.grad)

        return run

    return {"mixture_data": of(model), "mixture_expert": of(spread)}


def work(rank: int, port: int, num_layers: int, length: int, rounds: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(NUM_WORKERS))
    dist.init_process_group("gloo")
    seconds: dict[str, list[float]] = {}
    axis = Axis(rank, NUM_WORKERS)
    chosen = ways(num_layers, length, axis) | mixture_ways(max(1, num_layers // 2), length, axis)
    for turn in range(rounds + 1):
        for name, run in chosen.items():
            dist.barrier()
            started = time.perf_counter()
            run()
            if turn:  # the first is a warm-up
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    if rank == 0:
        Path(out).write_text(json.dumps({name: statistics.median(each) for name, each in seconds.items()}))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = Path(f"/tmp/rayloom-bench-layouts-{os.getpid()}.json")
    mp.spawn(work, args=(port, asked.layers, asked.length, asked.rounds, str(out)), nprocs=NUM_WORKERS)
    seconds = json.loads(out.read_text())
    out.unlink()
    result = {
        "hardware": hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "layers": asked.layers,
        "length_tokens": asked.length,
        "rounds": asked.rounds,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "tensor_ratio_vs_dtensor": round(seconds["dtensor_layers"] / seconds["tensor_layers"], 3),
        "tensor_ratio_vs_data": round(seconds["data"] / seconds["tensor"], 3),
        "context_ratio_vs_data": round(seconds["data"] / seconds["context"], 3),
        "expert_ratio_vs_data": round(seconds["mixture_data"] / seconds["mixture_expert"], 3),
        "pipeline_ratio_vs_data": round(seconds["data_step"] / seconds["pipeline_step"], 3),
    }
    if asked.save:
        save("layouts", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
