"""lm-evaluation-harness on rows that `prompted.py` wrote; run with the interpreter of the harness' environment.

Reads a JSON object on standard input: model (a folder), tasks (a folder with a YAML file for each task), names,
num_fewshot, batch_size, threads. Prints, for each task, its score, seconds without loading, and first prompt.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main() -> None:
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    model = HFLM(job["model"], device="cpu", dtype="float32", batch_size=job["batch_size"])
    found = {}
    with contextlib.chdir(job["tasks"]):
        manager = TaskManager(include_path=job["tasks"])
        for name in job["names"]:
            started = time.perf_counter()
            result = simple_evaluate(
                model, tasks=[name], num_fewshot=job["num_fewshot"], task_manager=manager, bootstrap_iters=0
            )
            seconds = time.perf_counter() - started
            samples = result["samples"][name]
            scores = [float(sample[sample["metrics"][0]]) for sample in samples]
            found[name] = {
                "score": sum(scores) / len(scores),
                "seconds": seconds,
                "prompt": samples[0]["arguments"]["gen_args_0"]["arg_0"]
                if isinstance(samples[0]["arguments"], dict)
                else samples[0]["arguments"][0][0],
                "scores": [score for _, score in sorted(zip((s["doc_id"] for s in samples), scores, strict=True))],
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
