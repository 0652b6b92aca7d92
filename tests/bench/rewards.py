"""Learning from rewards measured: `make bench-rewards`.

The recipe jobs/recipes/rewards/verifiable.yaml by GRPO, RLOO and PPO: the share of held-out questions to which the
likeliest answer is right, before and after. Beside it TRL's GRPOTrainer in a process of its own, on the same prompts
with the same group size, learning rate and precision: answers written and trained on in a second of training, and the
share of right answers after as many steps. The reward model of the recipes: in how many held-out pairs it gives the
better answer more. The recipe with the rewards' sign turned, for ten steps: how many answers hold the right word then.
Mismatch: the mean of |log p by the engine − log p by the trainer| over all tokens of a run. Hand-over: the part of the
steps' time in which new weights go to the engine. What was not measured is null, and `why_null` says why. The last line
is one JSON object; with --save, what was measured earlier that day is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from hardware import hardware
from results_file import save, with_earlier

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.models.processor import multiplies_bf16
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.prompt_rows import PromptRows
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "jobs/recipes/rewards"
PARTS = ("policies", "peer", "turned", "bf16", "reward_model")
TURNED = tuple(f"rewards.{number}.weight={weight}" for number, weight in enumerate((-1, -0.5, -0.5)))
METHODS = {
    "grpo": ("policy.type=grpo", "policy.group_size=8"),
    "rloo": ("policy.type=rloo", "policy.group_size=8"),
    "ppo": ("policy.type=ppo", "policy.group_size=8"),
}
KEYS = (
    *("score_before", "score_after_grpo", "score_after_rloo", "score_after_ppo", "ratio_vs_trl"),
    *("mismatch_bf16", "mismatch_fp32", "handover_fraction", "reward_model_accuracy"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="interpreter of an environment with TRL")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="steps of each run; default: the recipe's")
    parser.add_argument("--peer-steps", type=int, default=20, help="steps of TRL's run; ours is scored after as many")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one field")
    parser.add_argument("--save", action="store_true", help="also write the result under tests/bench/results")
    options = parser.parse_args()
    rows = RECIPES / "rows" / "one-word.jsonl"
    rows.parent.mkdir(exist_ok=True)
    rows.write_bytes(subprocess.run([sys.executable, RECIPES / "one_word.py"], check=True, capture_output=True).stdout)
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), **dict.fromkeys(KEYS)}
    methods = options.methods if "policies" in options.parts else []
    measured = {method: [trained(method, seed, options) for seed in options.seeds] for method in methods}
    for method, runs in measured.items():
        after = [one["after"] for one in runs]
        result |= {
            f"score_after_{method}": statistics.mean(after),
            f"score_after_{method}_range": [min(after), max(after)],
        }
    every = [one for runs in measured.values() for one in runs]
    if every:
        result |= {
            "score_before": statistics.mean(one["before"] for one in every),
            "mismatch_fp32": max(one["mismatch"] for one in every),
            "handover_fraction": max(one["handover_fraction"] for one in every),
        }
    result |= {f"runs_{method}": runs for method, runs in measured.items()}
    why = {}
    if "turned" in options.parts:
        # Longer answers are worth more then, until all are cut off.
        changes = ("name=one-word-turned", "num_steps=10", "policy.cut_answers=judged", *TURNED)
        result["turned"] = trained("grpo", 0, options, *changes)["parts"]
    if options.save:
        save("rewards", result)  # what follows takes as long again
    if "peer" in options.parts and options.peer and measured.get("grpo"):
        result["trl"] = beside_trl(options)
        ours = measured["grpo"][0]
        result["ratio_vs_trl"] = round(ours["answers_per_second"] / result["trl"]["answers_per_second"], 3)
        result["score_ours_then"] = ours["by_step"].get(options.peer_steps)
    else:
        why["ratio_vs_trl"] = "not asked for: it wants --peer, the part peer and the method grpo"
    if "bf16" in options.parts and multiplies_bf16():
        short = ("name=one-word-bf16", "precision=bf16", "num_steps=5")
        result["mismatch_bf16"] = trained("grpo", 0, options, *short)["mismatch"]
    else:
        why["mismatch_bf16"] = "the part bf16 was not asked for, or this processor does not multiply bf16"
    if "reward_model" in options.parts:
        result |= reward_model()
    else:
        why["reward_model_accuracy"] = "not asked for: it is the part reward_model"
    if options.save:
        result = with_earlier("rewards", result)
    result["why_null"] = {key: said for key, said in why.items() if result[key] is None}
    if options.save:
        save("rewards", result)
    print(json.dumps(result))


def overrides(method: str, seed: int, options: argparse.Namespace) -> tuple[str, ...]:
    steps = () if options.steps is None else (f"num_steps={options.steps}",)
    return (*METHODS[method], f"name=one-word-{method}", f"seed={seed}", *steps, *options.set)


def trained(method: str, seed: int, options: argparse.Namespace, *further: str) -> dict[str, Any]:
    """One run of the recipe, with `further` overrides; taken from the store where it is finished."""
    job = load_job(RECIPES / "verifiable.yaml", (*overrides(method, seed, options), *further))
    artifact, _ = run(job, Store.beside(job.directory))
    found = figures(artifact)
    print(f"{method}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def figures(artifact: Artifact) -> dict[str, Any]:
    events = list(read_log(artifact.path / "metrics.jsonl"))
    of = {kind: [event for event in events if event["event"] == kind] for kind in ("step", "rollout", "heldout")}
    seconds, answers = sum(e["seconds"] for e in of["step"]), sum(e["answers"] for e in of["rollout"])
    first = of["step"][0]["seconds"]
    return {
        "before": of["heldout"][0]["parts"]["exact"],
        "after": of["heldout"][-1]["parts"]["exact"],
        "by_step": {event["step"]: event["parts"]["exact"] for event in of["heldout"]},
        "parts": [of["heldout"][0]["parts"], of["heldout"][-1]["parts"]],
        "steps": len(of["step"]),
        # The first step has the engine's own warm-up, and so has TRL's.
        "answers_per_second": round((answers - of["rollout"][0]["answers"]) / (seconds - first), 3),
        "seconds": round(seconds, 1),
        "writing_seconds": round(sum(event["writing_seconds"] for event in of["rollout"]), 1),
        "handover_fraction": round(sum(event["handover_seconds"] for event in of["rollout"]) / seconds, 5),
        "mismatch": statistics.mean(event["mismatch"] for event in of["step"]),
        "mismatch_p99": max(event["mismatch_p99"] for event in of["step"]),
        "entropy": [of["step"][0]["entropy"], of["step"][-1]["entropy"]],
    }


def reward_model() -> dict[str, Any]:
    """The recipe's reward model on the pairs that its training held out."""
    metrics: dict[str, Any] = {}
    for name in ("imports/preferences", "rewards/reward_model", "rewards/evaluate_reward_model"):
        job = load_job(RECIPES.parent / f"{name}.yaml")
        metrics = run(job, Store.beside(job.directory))[0].manifest.metrics
    (by_role,) = metrics["checks"].values()
    found = by_role["model"]
    return {
        "reward_model_accuracy": found["score"],
        "reward_model": {key: found[key] for key in ("interval", "calibration_error", "longer_is_better", "num_rows")},
    }


def beside_trl(options: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer on the prompts of our run with the first seed."""
    loaded = load_job(RECIPES / "verifiable.yaml", overrides("grpo", options.seeds[0], options))
    resolved = resolve(loaded, Store.beside(loaded.directory))
    spec = resolved.spec
    assert isinstance(spec, TrainSpec)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        job = job_of(spec, resolved.parents, Path(folder) / "work", Path(folder) / "out")
        rows = {name: PromptRows(path) for name, path in (("train", job.train[0]), ("heldout", job.heldout["heldout"]))}
        plain = {
            name: [{"prompt": row.messages, "answer": row.row["answer"]} for row in map(found.row, range(len(found)))]
            for name, found in rows.items()
        }
        assert spec.policy is not None and spec.rollouts is not None
        asked = {
            "model": str(job.base), "rows": plain, "out": folder, "group_size": spec.policy.group_size,
            "answers_a_step": spec.global_batch_sequences, "at_once": spec.micro_batch_sequences,
            "steps": options.peer_steps, "learning_rate": spec.peak_learning_rate, "seed": spec.seed,
            "max_answer_tokens": spec.rollouts.max_answer_tokens, "rank": spec.adapter.rank,  # type: ignore[union-attr]
        }  # fmt: skip
        command = [str(options.peer), str(Path(__file__).parent / "trl_rewards_peer.py")]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[1]} failed:\n{done.stderr[-4000:]}")
    found_by_trl: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found_by_trl


if __name__ == "__main__":
    main()
