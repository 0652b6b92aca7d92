"""Nodes lost with their disks under a cleaning job, a search and a service, and what became of them.

`tests/cluster` asserts on the results, `make chaos-cluster` prints them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import yaml

from rayloom.artifacts.store import Artifact, Store
from rayloom.serve import api_keys
from rayloom.submit.local_cluster import kill_node, lose_node
from rayloom.train.loop.run_log import read_log
from rayloom.tune.results import read_trials
from support.fleet_jobs import CLEAN, write_texts
from support.models import made, write_model
from support.policies import first_difference, same_training, write_engine_model, write_prompts_file, write_turns_job
from support.training_cluster import ENDS_WITHIN_SECONDS, NUM_NODES, TrainingCluster
from support.training_faults import Result
from support.training_jobs import LENGTH, small_spec

NUM_TEXTS = 2000
PASSES = ("judged", "duplicates", "tokenizer", "tokens", "mixture", "selected", "packed-train", "packed-heldout")
"""In their order; each leaves a record of this name when it is finished."""
STRUCK_PASSES = (("judged", "tokens"), ("duplicates", "mixture"), ("tokenizer", "selected"), PASSES[-2:])
"""In each run both worker nodes are lost, one after the other, each in one of these passes."""
STEPS, EVERY_STEPS, STRUCK_AT_STEP = 240, 40, 80
SEARCH: dict[str, Any] = {
    "kind": "tune", "seed": 3, "budget": {"num_trials": 4}, "searcher": {"type": "random"},
    "space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-1}}, "scheduler": {"type": "none"},
    "train": small_spec(
        num_steps=STEPS, evaluate_every_steps=EVERY_STEPS, checkpoints={"every_steps": EVERY_STEPS},
        global_batch_tokens=16 * LENGTH, workers={"num_workers": 1, "cpus_per_worker": 2},
    ).model_dump(mode="json", exclude_none=True),
}  # fmt: skip
POLICY_STEPS, POLICY_STRUCK_AT = 20, 3
POLICIES: dict[str, dict[str, Any]] = {
    "policy-alone": {"num_engines": 2},  # they share the trainer's CPUs, of which a small machine has two
    "policy-on-nodes": {"num_engines": 2, "placement": "own"},
    "policy-struck": {"num_engines": 2, "placement": "own"},
}
SERVICE_PORT, AFTERWARDS_SECONDS = 8469, 20.0
SERVICE: dict[str, Any] = {
    "kind": "serve", "name": "service", "host": "0.0.0.0", "port": SERVICE_PORT, "doors": {"keys_required": True},
    "gateway_replicas": 3, "gateway_nodes": "several",
    # Two CPUs of a node's two or three: no two replicas are on one node.
    "predictors": [{
        "name": "writer", "model": "artifact:base", "generation": {"max_new_tokens": 4}, "cpus_per_replica": 2,
        "autoscaling": {"min_replicas": 2, "max_replicas": 2},
    }],
}  # fmt: skip


def nodes_lost_while_cleaning(here: TrainingCluster) -> Result:
    """In every pass a node, of which each run loses two; the head goes on alone in the end."""
    if not (here.folder / "pages").exists():
        write_texts(here.folder / "pages", NUM_TEXTS)
    _submit(here, CLEAN | {"name": "clean-undisturbed"})
    assert here.ended("clean-undisturbed").status == "SUCCEEDED", here.rayloom("jobs", "logs", "clean-undisturbed")
    expected = _digests(here, "clean-undisturbed")
    wrong, struck = [], 0
    for passes in STRUCK_PASSES:
        name = f"clean-{'-'.join(passes)}"
        _submit(here, CLEAN | {"name": name})
        for node, of_pass in enumerate(passes, 1):
            if _await(here, name, lambda of_pass=of_pass, name=name: _has_begun(here, name, of_pass)):  # type: ignore[misc]
                _lose(here, node)
                struck += 1
        job = here.ended(name)
        here.mend()
        if job.status != "SUCCEEDED":
            wrong.append(f"{name} {job.status.lower()}: {job.reason}")
        elif _digests(here, name) != expected:
            wrong.append(f"{name} gave other files")
    return Result(
        f"a worker node is lost with its disk in {struck} of {len(PASSES)} passes of cleaning, two a job",
        "; ".join(wrong) or "every corpus is the undisturbed one, byte for byte",
        "what was not in the store or with the other nodes",
        is_as_it_should_be=not wrong and struck == len(PASSES),
    )


def node_lost_while_searching(here: TrainingCluster) -> Result:
    _submit(here, SEARCH | {"name": "search-undisturbed"})
    assert here.ended("search-undisturbed").status == "SUCCEEDED", here.rayloom("jobs", "logs", "search-undisturbed")
    _submit(here, SEARCH | {"name": "search-lost"})
    assert _await(here, "search-lost", lambda: len(_checkpoints(here, "search-lost")) > 1)
    nodes = {node for node, _ in here.processes("ImplicitFunc")} - {0}
    assert nodes, "no trial runs on a worker"
    known = _checkpoints(here, "search-lost")
    _lose(here, max(nodes))
    job = here.ended("search-lost")
    here.mend()
    fault = "a worker node is lost with its disk under a search"
    if job.status != "SUCCEEDED":
        return Result(fault, f"{job.status.lower()}: {job.reason}", "unknown", is_as_it_should_be=False)
    expected, found = _trial_losses(here, "search-undisturbed"), _trial_losses(here, "search-lost")
    trials = read_trials(here.artifact("search-lost"))
    crashed = [trial.number for trial in trials if trial.crashes]
    resumed = {
        number: next((e["step"] for e in _log(here, "search-lost", number) if e["event"] == "resumed"), 0)
        for number in crashed
    }
    # The node may have been lost while a checkpoint was on its way: then the one before it counts.
    kept = all(step >= known.get(number, 0) - EVERY_STEPS for number, step in resumed.items())
    losses = "all losses are the undisturbed search's" if found == expected else "losses differ"
    return Result(
        fault,
        f"trials {crashed} went on at steps {list(resumed.values())}; {losses}",
        f"at most {EVERY_STEPS} steps a trial" if kept else "more than one interval",
        is_as_it_should_be=bool(crashed) and found == expected and kept,
    )


def node_lost_while_learning_from_rewards(here: TrainingCluster) -> Result:
    """Two engines and a trainer on three nodes, undisturbed against one machine, and with an engine's node lost.

    What is written, rewarded and learned must be one machine's. Its engines, which have no CPU of their own, give
    log-probabilities that differ by 1e-7, and so the mean by which they are off the trainer's is another one there.
    """
    write_engine_model(here.folder / "base")
    write_prompts_file(here.folder / "data")
    for name, places in POLICIES.items():
        write_turns_job(here.folder, name, places, num_steps=POLICY_STEPS)
    alone = Store(str(here.folder / "one-machine"))
    ended = here.rayloom("run", "policy-alone.yaml", RAYLOOM_STORE=alone.root)
    assert ended.returncode == 0, ended.stderr
    trained = {"policy-alone": alone.open(alone.resolve("policy-alone"))}
    wrong = []
    for name, same_as, leave_out in (
        ("policy-on-nodes", "policy-alone", ("mismatch",)),
        ("policy-struck", "policy-on-nodes", ()),
    ):
        ended = here.rayloom("submit", f"{name}.yaml")
        assert ended.returncode == 0, ended.stderr
        assert _await(here, name, lambda name=name: _newest_checkpoint(here, name) >= POLICY_STRUCK_AT)  # type: ignore[misc]
        nodes = {node for node, _ in here.processes("ray::AnswerEngine")}
        assert nodes - {0}, "no engine runs on a worker"
        if name == "policy-struck":
            _lose(here, max(nodes))
        job = here.ended(name)
        here.mend()
        assert job.status == "SUCCEEDED", f"{name} {job.status.lower()}: {job.reason}"
        trained[name] = here.artifact(name)
        if difference := first_difference(_policy(trained[same_as], leave_out), _policy(trained[name], leave_out)):
            wrong.append(f"{name} is not {same_as}: {difference}")
    return Result(
        "a worker node is lost with its disk and an engine of a policy on three nodes",
        "; ".join(wrong) or "with and without it answers, rewards and losses are one machine's, bit for bit",
        "the step that the engine wrote for",
        is_as_it_should_be=not wrong,
    )


def node_lost_while_serving(here: TrainingCluster) -> Result:
    """Asked at the gateway of another worker; one of both replicas goes with the lost node."""
    made(here.store, "base", "model", write_model)
    _, key = api_keys.create(here.store, "tester")
    _submit(here, SERVICE)
    networks = here.cluster.networks
    assert networks is not None, "this machine does not allow networks for nodes"
    answers: list[tuple[float, bool]] = []
    assert _await(here, "service", lambda: all(_answers(networks.address(node), key) for node in range(NUM_NODES)))
    lost = max({node for node, _ in here.processes("ServeReplica:service.writer")} - {0})
    asked, is_over = networks.address(3 - lost), threading.Event()

    def ask() -> None:
        while not is_over.wait(0.1):
            answers.append((time.monotonic(), _answers(asked, key)))

    with ThreadPoolExecutor(1) as asking:
        asking.submit(ask)
        _await(here, "service", lambda: len(answers) > 10)
        _lose(here, lost)
        gone = time.monotonic()
        time.sleep(AFTERWARDS_SECONDS)
        is_over.set()
    here.rayloom("jobs", "stop", "service")
    here.mend()
    after = [is_right for moment, is_right in answers if moment > gone]
    failed = sum(not is_right for _, is_right in answers)
    return Result(
        "a worker node is lost with its disk, a replica and a gateway of a service on three nodes",
        f"{len(answers) - failed} of {len(answers)} requests to another node answered, {sum(after)} after the loss",
        f"{failed} requests" if failed else "none",
        is_as_it_should_be=sum(after) > 0 and failed == 0,
    )


FLEET_FAULTS = (
    nodes_lost_while_cleaning,
    node_lost_while_searching,
    node_lost_while_learning_from_rewards,
    node_lost_while_serving,
)


def _answers(address: str, key: str) -> bool:
    body = {"model": "writer", "input": "Say hello."}
    url, headers = f"http://{address}:{SERVICE_PORT}/v1/generate", {"authorization": f"Bearer {key}"}
    try:
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _submit(here: TrainingCluster, job: dict[str, Any]) -> None:
    if job["kind"] == "clean":
        job = job | {"sources": [job["sources"][0] | {"dataset": "./pages"}]}
    (here.folder / f"{job['name']}.yaml").write_text(yaml.safe_dump(job))
    ended = here.rayloom("submit", f"{job['name']}.yaml")
    assert ended.returncode == 0, ended.stderr


def _lose(here: TrainingCluster, node: int) -> None:
    (lose_node if here.cluster.shape.own_disks else kill_node)(here.cluster, node)


def _await(here: TrainingCluster, name: str, is_so: Callable[[], bool]) -> bool:
    """Whether it came while the job ran."""
    until = time.monotonic() + ENDS_WITHIN_SECONDS
    while not is_so():
        assert time.monotonic() < until, here.rayloom("jobs", "logs", name).stdout
        if here.job(name).is_finished:
            return False
    return True


def _stored(here: TrainingCluster, name: str) -> list[str]:
    """Paths of the job's files in the store."""
    here.store.filesystem.invalidate_cache()
    folder = f"{here.store.root}/{name}"
    return list(here.store.filesystem.find(folder)) if here.store.filesystem.exists(folder) else []


def _has_begun(here: TrainingCluster, name: str, of_pass: str) -> bool:
    files = [path for path in _stored(here, name) if "/.work/" in path]
    before = PASSES.index(of_pass) - 1
    return bool(files) if before < 0 else any(path.endswith(f"/{PASSES[before]}.json") for path in files)


def _digests(here: TrainingCluster, name: str) -> dict[str, str]:
    return {file.path: file.sha256 for file in here.artifact(name).manifest.files}


def _checkpoints(here: TrainingCluster, name: str) -> dict[int, int]:
    """The newest checkpoint's step of each trial that has come to `STRUCK_AT_STEP`."""
    found: dict[int, int] = {}
    for path in _stored(here, name):
        if "/checkpoints/step-" in path:
            number = int(path.partition("/trials/")[2][:4])
            step = int(path.partition("/checkpoints/step-")[2][:8])
            found[number] = max(step, found.get(number, 0))
    return {number: step for number, step in found.items() if step >= STRUCK_AT_STEP}


def _newest_checkpoint(here: TrainingCluster, name: str) -> int:
    steps = (
        path.partition("/checkpoints/step-")[2] for path in _stored(here, name) if path.endswith("/checkpoint.json")
    )
    return max((int(step[:8]) for step in steps if step), default=0)


def _policy(trained: Artifact, leave_out: Sequence[str]) -> list[Any]:
    return same_training(list(read_log(trained.path / "metrics.jsonl")), leave_out)


def _log(here: TrainingCluster, name: str, trial: int) -> list[dict[str, Any]]:
    return list(read_log(here.artifact(name).path / "trials" / f"{trial:04d}.jsonl"))


def _trial_losses(here: TrainingCluster, name: str) -> dict[int, list[float]]:
    trials = read_trials(here.artifact(name))
    return {t.number: [e["loss"] for e in _log(here, name, t.number) if e["event"] == "step"] for t in trials}
