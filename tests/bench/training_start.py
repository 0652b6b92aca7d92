"""CPU seconds of a training that is over at once, by process, beside the same by Ray Train, transformers and DeepSpeed.

Both train a decoder of two layers for 12 steps on two workers with ZeRO-2, on a cluster of their own, in turns. What
they take is what starting takes; on the clock it depends on who else is on the machine. Prints, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml
from hardware import hardware
from results_file import save

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.training_jobs import made_up_corpus, small_spec

from rayloom.artifacts.store import Store

NUM_WORKERS = 2
SYSTEM = ("gcs_server", "raylet/raylet", "log_monitor", "monitor.py", "dashboard/dashboard.py")
SECONDS_BETWEEN_LOOKS = 0.2
PEER = f"""
import os
os.environ["DS_ACCELERATOR"] = "cpu"
import ray, ray.train
from ray.train.torch import TorchTrainer

def work():
    import deepspeed, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    sizes = dict(vocab_size=67, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    config = dict(train_micro_batch_size_per_gpu=2, zero_optimization=dict(stage=2), zero_force_ds_cpu_optimizer=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    for _ in range(12):
        rows = torch.randint(67, (2, 16))
        engine.backward(engine(input_ids=rows, labels=rows).loss)
        engine.step()

ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
scaling = ray.train.ScalingConfig(num_workers={NUM_WORKERS})
TorchTrainer(work, scaling_config=scaling, run_config=ray.train.RunConfig(storage_path=os.getcwd())).fit()
"""


def seconds_of(command: list[str], folder: Path, **environment: str) -> dict[str, float]:
    """CPU seconds of a command's processes by their titles, as they were last seen."""
    seen: dict[int, tuple[str, float]] = {}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "passive"}
    with (folder / "output.log").open("ab") as log:
        running = psutil.Popen(command, cwd=folder, env=os.environ | quiet | environment, stdout=log, stderr=log)
        while running.poll() is None:
            for process in (running, *running.children(recursive=True)):
                try:
                    times, title = process.cpu_times(), " ".join(process.cmdline())
                except psutil.NoSuchProcess:
                    continue
                if title:  # a zombie has none
                    seen[process.pid] = (kind_of(title, process == running), times.user + times.system)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command, (folder / "output.log").read_text()[-3000:])
    found: Counter[str] = Counter()
    for kind, seconds in seen.values():
        found[kind] += seconds
    return dict(found.most_common())


def kind_of(title: str, is_driver: bool) -> str:
    if is_driver:
        return "driver"
    if title.startswith("ray::"):
        return title.removeprefix("ray::").partition(".")[0].strip()
    return next((name.rpartition("/")[2] for name in SYSTEM if name in title), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    ours, peer = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = Store(str(folder / "store"))
        made_up_corpus(store)
        for number in range(options.rounds):
            changes = {"name": f"tiny-{number}", "workers": {"num_workers": NUM_WORKERS}, "sharding": {"zero_stage": 2}}
            file = folder / f"tiny-{number}.yaml"
            file.write_text(yaml.safe_dump(small_spec(**changes).model_dump(mode="json", exclude_none=True)))
            run = [sys.executable, "-m", "rayloom", "run", str(file)]
            ours.append(seconds_of(run, folder, RAYLOOM_STORE=store.root))
            (folder / "peer.py").write_text(PEER)
            peer.append(seconds_of([sys.executable, "peer.py"], folder))
    ours_seconds, peer_seconds = (statistics.median(sum(one.values()) for one in side) for side in (ours, peer))
    result = {
        "cpu_seconds": round(ours_seconds, 1),
        "peer_cpu_seconds": round(peer_seconds, 1),
        "ratio_vs_ray_train": round(ours_seconds / peer_seconds, 2),
        "of_processes": {kind: round(seconds, 1) for kind, seconds in ours[-1].items()},
        "peer_of_processes": {kind: round(seconds, 1) for kind, seconds in peer[-1].items()},
        "rounds": options.rounds,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.save:
        save("training-start", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
