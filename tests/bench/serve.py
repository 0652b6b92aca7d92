"""Rayloom's endpoint beside bare vLLM's own server, in one run on one machine: `make bench-serve`.

Compared endpoints are up at once with the same engine arguments and take turns, in alternating order; medians of the
rounds are compared. Parts: `gateway` (full and direct profile against bare vLLM), `default` (a job that says nothing of
its engine against vLLM that is told as little), `tuned` (Rayloom's own settings for this hardware against vLLM's),
`search` (what `kind: tune` finds in fewer trials, against the whole grid), `caches` (prefix hits, adapters) and `scale`
(a ramp, and a replica that is killed).
Prints a table and, last, one JSON object. With --save, also writes it to results/.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cpu_shares import cpu_seconds, spent
from endpoints import KV_CACHE_BYTES, MAX_MODEL_LENGTH_TOKENS, Endpoint, bare_vllm, rayloom_service
from hardware import hardware
from results_file import save
from serve_scale import measured_kill, measured_ramp

from rayloom.artifacts.store import Artifact, Store
from rayloom.serve.load_test.clients import LoadRequest, LoadTarget, closed_loop
from rayloom.serve.load_test.figures import Summary, summary
from rayloom.specs.base import JobSpec

JOBS = Path(__file__).parents[2] / "jobs" / "quickstart"
NUM_CLIENTS = 32
NEW_TOKENS = 64
FIRST_TOKENS = 12
"""Requests of the one client that measures the time to the first token."""
QUIET_SECONDS = 1.5
"""vLLM's processes turn round and round for a second after their last request; nobody else is measured meanwhile."""

_numbers = itertools.count()


class SpeedOnly(JobSpec):
    """A model whose answers nobody reads."""


def fresh(num: int, new_tokens: int, words: str = "") -> list[LoadRequest]:
    """Requests that nobody asked before, so that no prefix is found in a cache."""
    return [
        LoadRequest(f"{next(_numbers)}: tell me a story about the sea. {words}", new_tokens, {"ignore_eos": True})
        for _ in range(num)
    ]


def asked(endpoint: Endpoint, num_clients: int, requests: Sequence[LoadRequest]) -> Summary:
    """Every request once, by so many clients."""
    target = LoadTarget(endpoint.url, endpoint.model, endpoint.headers)
    answers = asyncio.run(closed_loop(target, requests, num_clients))
    found = summary(answers)
    if found.num_failed:
        raise RuntimeError(f"{endpoint.url}: {found.num_failed} requests failed: {answers[0]}")
    return found


def in_turns(endpoints: Mapping[str, Endpoint], rounds: int, *, waves: int = 1) -> dict[str, dict[str, list[Any]]]:
    """Tokens per second at NUM_CLIENTS and seconds to the first token at one client, of each endpoint and round."""
    figures = ("tokens_per_second", "ttft_seconds", "cpu_seconds")
    found: dict[str, dict[str, list[Any]]] = {name: {figure: [] for figure in figures} for name in endpoints}
    for endpoint in endpoints.values():
        asked(endpoint, NUM_CLIENTS, fresh(NUM_CLIENTS, 8))
    for number in range(rounds):
        order = list(endpoints) if number % 2 == 0 else list(endpoints)[::-1]
        for name in order:
            time.sleep(QUIET_SECONDS)
            first = asked(endpoints[name], 1, fresh(FIRST_TOKENS, 4)).time_to_first_token
            before = cpu_seconds()
            whole = asked(endpoints[name], NUM_CLIENTS, fresh(NUM_CLIENTS * waves, NEW_TOKENS))
            found[name]["cpu_seconds"].append(spent(before, cpu_seconds()))
            assert first is not None
            found[name]["ttft_seconds"].append(first.p50)
            found[name]["tokens_per_second"].append(whole.tokens_per_second)
            rate = whole.tokens_per_second
            print(
                f"round {number + 1} {name:10} {rate:7.1f} tokens/s, first token {first.p50 * 1000:6.1f} ms; CPU",
                end=" ",
            )
            print(", ".join(f"{kind} {seconds:g} s" for kind, seconds in found[name]["cpu_seconds"][-1].items()))
    return found


def ratio(found: Mapping[str, Mapping[str, Sequence[Any]]], figure: str, name: str, beside: str) -> float:
    medians = {key: statistics.median(found[key][figure]) for key in (name, beside)}
    return round(medians[name] / medians[beside], 3)


def measure_gateway(store: Store, bf16: Artifact, rounds: int, folder: Path) -> dict[str, Any]:
    """Both profiles against bare vLLM with the same engine arguments, one replica each.

    Bare vLLM ends first: a service that stops waits until no engine is left among this program's processes.
    """
    with ExitStack() as stack:
        full = stack.enter_context(rayloom_service(store, {"m": bf16}))["m"]
        direct = stack.enter_context(rayloom_service(store, {"m": bf16}, profile="direct"))["m"]
        bare = stack.enter_context(bare_vllm(bf16.path, folder / "bare.log", "--enforce-eager"))
        found = in_turns({"bare": bare, "full": full, "direct": direct}, rounds)
    starts = {"bare": bare.seconds_to_start, "full": full.seconds_to_start, "direct": direct.seconds_to_start}
    return {
        "throughput_ratio": ratio(found, "tokens_per_second", "full", "bare"),
        "ttft_ratio": ratio(found, "ttft_seconds", "full", "bare"),
        "direct_throughput_ratio": ratio(found, "tokens_per_second", "direct", "bare"),
        "direct_ttft_ratio": ratio(found, "ttft_seconds", "direct", "bare"),
        "startup_extra_seconds": round(full.seconds_to_start - bare.seconds_to_start, 1),
        "gateway": {"seconds_to_start": {k: round(v, 1) for k, v in starts.items()}, **found},
    }


def measure_default(store: Store, bf16: Artifact, rounds: int, folder: Path) -> dict[str, Any]:
    """A served model with `engine: auto` and no search before, against vLLM's server; both are told the length only.

    And vLLM the size of its cache: it takes nine tenths of a machine's memory, and does not start beside another.
    """
    told = ("--max-model-len", str(MAX_MODEL_LENGTH_TOKENS), "--kv-cache-memory-bytes", str(KV_CACHE_BYTES))
    with ExitStack() as stack:
        own = stack.enter_context(rayloom_service(store, {"m": bf16}, model_changes={"engine": "auto"}))["m"]
        bare = stack.enter_context(bare_vllm(bf16.path, folder / "bare-default.log", limits=told))
        found = in_turns({"bare": bare, "default": own}, rounds)
    return {
        "default_throughput_ratio": ratio(found, "tokens_per_second", "default", "bare"),
        "default_ttft_ratio": ratio(found, "ttft_seconds", "default", "bare"),
        "default": found,
    }


def measure_search(store: Store, bf16: Artifact, int8: Artifact, folder: Path, seconds: float) -> dict[str, Any]:
    """TPE in half as many trials as the grid has points: its winner's goodput in the grid, over the grid's best."""
    from rayloom.dispatch import load_job, run
    from rayloom.tune.results import read_trials

    cores = len(os.sched_getaffinity(0))
    models = [f"artifact:{artifact.id}" for artifact in (bf16, int8)]
    engine = {"max_model_length_tokens": MAX_MODEL_LENGTH_TOKENS}
    served = {"name": "m", "model": models[0], "engine": engine}
    job: dict[str, Any] = {
        "kind": "tune",
        "serve": {"kind": "serve", "name": "bench-search", "models": [served]},
        "load": {"clients": NUM_CLIENTS, "seconds": seconds, "new_tokens": NEW_TOKENS},
        "space": {
            "models.0.model": {"type": "model", "values": models},
            "models.0.engine.cpus_per_replica": {"type": "choice", "values": sorted({1, cores})},
            "models.0.engine.compiled": {"type": "choice", "values": [False, True]},
        },
        "objectives": [{"metric": "goodput_tokens_per_second"}],
    }
    num_points = len(models) * len({1, cores}) * 2
    few = {"searcher": {"type": "tpe", "random_trials": 2}, "budget": {"num_trials": num_points // 2}}
    found = {}
    # The process in the name, so that a search is never one that was done before.
    for name, how in {"grid": {"searcher": {"type": "grid"}}, "few": few}.items():
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(job | how | {"name": f"bench-search-{name}-{next(_numbers)}-{os.getpid()}"}))
        found[name] = run(load_job(file), store)[0]
    goodput = {
        json.dumps(trial.values, sort_keys=True): trial.metrics["goodput_tokens_per_second"]
        for trial in read_trials(found["grid"])
        if trial.outcome == "finished"
    }
    winner = found["few"].manifest.metrics["best"]["values"]
    return {
        "tuned_vs_best": round(goodput[json.dumps(winner, sort_keys=True)] / max(goodput.values()), 3),
        "search": {"grid": goodput, "found": winner, "trials": num_points // 2},
    }


def measure_tuned(store: Store, bf16: Artifact, int8: Artifact, rounds: int, folder: Path) -> dict[str, Any]:
    """Every core, compiled and in INT8, as Rayloom would have it here, against vLLM as it starts by itself."""
    engine = {"cpus_per_replica": len(os.sched_getaffinity(0)), "compiled": True}
    with ExitStack() as stack:
        models = {"int8": int8, "bf16": bf16}
        tuned = stack.enter_context(rayloom_service(store, models, model_changes={"engine": engine}))
        bare = stack.enter_context(bare_vllm(bf16.path, folder / "bare-own.log"))
        found = in_turns({"bare": bare, **tuned}, rounds)
    return {
        "tuned_throughput_ratio": ratio(found, "tokens_per_second", "int8", "bare"),
        "int8_speedup": ratio(found, "tokens_per_second", "int8", "bf16"),
        "tuned": found,
    }


def measure_caches(store: Store, bf16: Artifact, rounds: int) -> dict[str, Any]:
    """A shared prefix of a thousand tokens, and an adapter that is not loaded yet."""
    from support.adapters import trained_adapter

    from rayloom.dispatch import load_job, run

    instructions = run(load_job(JOBS / "import-instructions.yaml"), store)[0]
    adapters = [trained_adapter(store, bf16, instructions, f"bench-{i}", i).manifest.name for i in range(2)]
    changes = {"adapters": {"max_loaded": 1, "max_at_once": 1}}
    misses, hits, switches, stays = [], [], [], []
    with rayloom_service(store, {"m": bf16}, model_changes=changes) as served:
        endpoint = served["m"]
        asked(endpoint, 1, fresh(4, 4))
        for _ in range(rounds):
            prefix = f"{next(_numbers)} " + "the waves roll on and on " * 165
            times = [_first_token(endpoint, LoadRequest(f"{prefix} Part {part}?", 2)) for part in range(3)]
            misses.append(times[0])
            hits += times[1:]
        for _ in range(rounds):
            for name in adapters:
                with_adapter = Endpoint(endpoint.url, f"m:{name}", 0.0, endpoint.headers)
                switches.append(_first_token(with_adapter, fresh(1, 2)[0]))
                stays.append(_first_token(with_adapter, fresh(1, 2)[0]))
    middle = statistics.median
    return {
        "prefix_hit_speedup": round(middle(misses) / middle(hits), 2),
        "adapter_switch_seconds": round(middle(switches) - middle(stays), 3),
        "caches": {"miss_seconds": misses, "hit_seconds": hits, "switch_seconds": switches, "stay_seconds": stays},
    }


def _first_token(endpoint: Endpoint, request: LoadRequest) -> float:
    found = asked(endpoint, 1, [request]).time_to_first_token
    assert found is not None
    return found.p50


def measure_scale(store: Store, bf16: Artifact) -> dict[str, Any]:
    """One to 64 clients with two replicas allowed; then a replica is killed under load."""
    scaling = {
        "max_replicas": 2,
        "target_ongoing_requests": 8,
        "max_ongoing_requests": 32,
        "max_queued_requests": 64,
        "upscale_delay_seconds": 2,
        "downscale_delay_seconds": 5,
    }
    with rayloom_service(store, {"m": bf16}, model_changes={"autoscaling": scaling}) as served:
        return {"ramp": measured_ramp(served["m"]), "kill": measured_kill(served["m"])}


def models_of(store: Store) -> tuple[Artifact, Artifact]:
    """SmolLM2 as the quickstart imports it, and the same weights in INT8."""
    from rayloom.artifacts.build import Build, ResolvedJob, build
    from rayloom.artifacts.manifest import Outcome
    from rayloom.dispatch import load_job, run
    from rayloom.export.model_folder import ModelFolder
    from rayloom.export.quantize import write_quantized
    from rayloom.specs.export import Int8Scheme

    bf16 = run(load_job(JOBS / "import-smollm2.yaml"), store)[0]
    scheme = Int8Scheme(type="int8", smoothing=None)
    spec = SpeedOnly(kind="quantize-for-speed", name="bench-int8")

    def stage(_: JobSpec, build: Build) -> Outcome:
        # Which numbers the weights hold does not change the speed, so nothing is calibrated.
        write_quantized(ModelFolder.of(bf16.path), scheme, None, build.directory)
        return Outcome("model")

    return bf16, build(ResolvedJob(spec, 0, {"model": bf16}, Path.cwd()), store, stage)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default="gateway,default,tuned,search,caches,scale")
    parser.add_argument("--seconds", type=float, default=20, help="of load in each trial of the part `search`")
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    store = Store.beside(JOBS)
    bf16, int8 = models_of(store)
    result: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "gateway": lambda: measure_gateway(store, bf16, options.rounds, Path(folder)),
            "default": lambda: measure_default(store, bf16, options.rounds, Path(folder)),
            "search": lambda: measure_search(store, bf16, int8, Path(folder), options.seconds),
            "tuned": lambda: measure_tuned(store, bf16, int8, options.rounds, Path(folder)),
            "caches": lambda: measure_caches(store, bf16, options.rounds),
            "scale": lambda: measure_scale(store, bf16),
        }
        for part in options.parts.split(","):
            result |= measures[part]()
            if options.save:
                save("serve", result)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
