"""ZeRO-3 on three gloo workers over a base that no worker reads whole: its weights, and the memory of each worker."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.models import write_model
from support.workers import on_workers

NUM_WORKERS = 3
SHAPE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 4096}
SLACK_BYTES = 24 << 20
"""What DeepSpeed's modules and buffers take beside the weights."""


def anonymous_bytes() -> int:
    """Memory of this process without pages of files, which the kernel may drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) * 1024


def work(rank: int, num_workers: int, port: int, base: str, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(num_workers))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    import deepspeed
    from support.training_jobs import small_spec

    from rayloom.train.engines.zero import deepspeed_config, fill_in_shards
    from rayloom.train.process_group import current_group
    from rayloom.train.weights.model import sharded_model

    workers = {"num_workers": NUM_WORKERS}
    spec = small_spec(architecture=None, base=base, sharding={"zero_stage": 3}, global_batch_tokens=96, workers=workers)
    group = current_group(torch.device("cpu"))
    config = deepspeed_config(spec, NUM_WORKERS, 10**7, is_cuda=False)
    model, weights = sharded_model(spec, Path(base), Path(base))
    assert model is not None
    assert weights is not None
    before, peak = anonymous_bytes(), 0
    own = weights.fill

    class Watching:
        def fill(self, model: torch.nn.Module, shards: object) -> None:
            keep = shards.keep  # type: ignore[attr-defined]

            def watched(parameter: torch.nn.Parameter) -> None:
                nonlocal peak
                peak = max(peak, anonymous_bytes())
                keep(parameter)

            own(model, shards.__class__(**{**shards.__dict__, "keep": watched}))  # type: ignore[arg-type]

    fill_in_shards(model, Watching(), config, torch.bfloat16, group)
    whole = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            whole[name] = parameter.detach().clone()
    if group.is_first:
        from safetensors.torch import save_file

        save_file(whole, Path(out) / "whole.safetensors")
    (Path(out) / f"{rank}.json").write_text(json.dumps(peak - before))
    torch.distributed.destroy_process_group()


def test_each_worker_reads_its_part_and_together_they_have_the_base(tmp_path: Path) -> None:
    write_model(tmp_path / "base", **SHAPE)
    on_workers(NUM_WORKERS, work, str(tmp_path / "base"), str(tmp_path))
    stored, gathered = (load_file(tmp_path / name) for name in ("base/model.safetensors", "whole.safetensors"))
    assert stored.keys() == gathered.keys()
    for name, tensor in stored.items():
        assert torch.equal(tensor, gathered[name]), name
    size = sum(tensor.nbytes for tensor in stored.values())
    largest = max(tensor.nbytes for tensor in stored.values())
    for rank in range(NUM_WORKERS):
        taken = json.loads((tmp_path / f"{rank}.json").read_text())
        assert taken < size / NUM_WORKERS + 2 * largest + SLACK_BYTES < size, (rank, taken, size)
