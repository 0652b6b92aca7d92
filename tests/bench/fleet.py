"""What a store in S3 costs against a folder, and its transfers against public clients, on a real S3 server on loopback.

`transfer`: an artifact goes up by `Store.publish` and comes down by `Store.folder_of`, digests included, and the same
files by s3fs, boto3 and obstore alone. `chain`: a pipeline of every kind but serving, over
very small models, with a bucket and with a folder as its store; without vLLM, whose start would hide the store's part.
`checkpoints`: what a training whose work is copied to the store waits for its checkpoints. `nodes`: how often nodes
with disks of their own fetch a file of an artifact, as root. `requests`: those of a cleaning job, at two sizes.
`stream`: what two workers with caches of their own read of a corpus that they go through once. Prints, last, one JSON
object; keys that were not measured are null. With --save, parts measured earlier that day are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clean_requests import request_growth
from hardware import hardware
from real_text import real_documents
from results_file import save, with_earlier
from s3fs import S3FileSystem  # type: ignore[import-untyped]
from stream_reads import stream_reads

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fleet import fleet
from support.fleet_jobs import PIPELINE, results, write_jobs
from support.training_jobs import made_up_corpus

from rayloom.artifacts.manifest import Manifest, file_entries
from rayloom.artifacts.s3 import PART_BYTES, PARTS_AT_ONCE
from rayloom.artifacts.store import Store
from rayloom.submit.local_node import end
from rayloom.submit.own_disks import BUCKET, Bucket, start_bucket
from rayloom.train.loop.run_log import read_log

NUM_FILES = 4
PARTS = ("transfer", "chain", "checkpoints", "nodes", "requests", "stream")
WITH_VLLM = ("written", "served")
REQUEST_BYTES = 1_000_000
"""Of the smaller text; the larger is ten times as much."""
NODES_PORTS = 6444, 8304
KEYS = (
    "equal_results", "s3_wall_ratio", "upload_ratio", "download_ratio", "checkpoint_stall_fraction",
    "stream_read_ratio", "fetches_per_node", "request_growth",
)  # fmt: skip
MINUTE = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--bytes", type=int, default=2 << 30, help="size of the artifact")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the result to tests/bench/results/")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[Path, Bucket], dict[str, Any]]] = {
            "transfer": lambda place, bucket: _transfer(place, bucket, options.bytes, options.rounds),
            "chain": _chain,
            "checkpoints": _checkpoints,
            "nodes": lambda place, _: _nodes(place),
            "stream": lambda place, _: stream_reads(place, f"s3://{BUCKET}/stream"),
            "requests": lambda place, _: request_growth(real_documents(place / "store"), place, REQUEST_BYTES),
        }
        for name in options.parts:
            (Path(folder) / name).mkdir()
            bucket = start_bucket("127.0.0.1", Path(folder) / name)
            os.environ |= bucket.settings
            try:
                found |= parts[name](Path(folder) / name, bucket)
            finally:
                end([bucket.session])
                # fsspec keeps a client for each bucket's name, and the next part's server has another port.
                S3FileSystem.clear_instance_cache()
    found = dict.fromkeys(KEYS) | found | {"hardware": hardware(), "date": time.strftime("%Y-%m-%d")}
    if options.save:
        found = with_earlier("fleet", found)
        save("fleet", found)
    print(json.dumps(found))


# -- an artifact up and down ---------------------------------------------------------------------------------------


def _transfer(folder: Path, bucket: Bucket, num_bytes: int, rounds: int) -> dict[str, Any]:
    source = folder / "source"
    source.mkdir()
    dice = np.random.default_rng(0)
    for number in range(NUM_FILES):
        (source / f"part-{number}.safetensors").write_bytes(dice.bytes(num_bytes // NUM_FILES))
    clients: dict[str, Callable[[Path, str, bool], None]] = {
        "rayloom": _by_rayloom,
        "s3fs": _by_s3fs,
        "boto3": _by_boto3,
        "obstore": lambda place, name, is_up: asyncio.run(_by_obstore(bucket.endpoint, place, name, is_up)),
    }
    seconds: dict[str, dict[str, list[float]]] = {way: {name: [] for name in clients} for way in ("up", "down")}
    for number in range(rounds):
        for name, move in clients.items():
            target = folder / f"{name}-{number}"
            for way, place in (("up", source), ("down", target)):
                began = time.perf_counter()
                move(place, f"{name}-{number}", way == "up")
                seconds[way][name].append(time.perf_counter() - began)
                print(f"{name} {way}: {num_bytes / seconds[way][name][-1] / 1e6:.0f} MB/s", flush=True)
            Store(bucket.settings["RAYLOOM_STORE"]).filesystem.rm(f"{BUCKET}/{name}-{number}", recursive=True)
            shutil.rmtree(target)
    medians = {way: {name: statistics.median(each) for name, each in by.items()} for way, by in seconds.items()}
    fastest = {way: min(value for name, value in by.items() if name != "rayloom") for way, by in medians.items()}
    rates = {
        f"{way}_megabytes_per_second": {n: round(num_bytes / s / 1e6, 1) for n, s in by.items()}
        for way, by in medians.items()
    }
    return {
        "upload_ratio": round(fastest["up"] / medians["up"]["rayloom"], 3),
        "download_ratio": round(fastest["down"] / medians["down"]["rayloom"], 3),
        "transfer_bytes": num_bytes,
        **rates,
    }


_MANIFESTS: dict[str, Manifest] = {}


def _by_rayloom(place: Path, name: str, is_up: bool) -> None:
    """The files' digests are known before, as they are after a stage."""
    if is_up:
        store = Store(f"s3://{BUCKET}/{name}", cache=place.parent / f"staging-{name}")
        _MANIFESTS[name] = Manifest(
            kind="import", name="artifact", version="1", content="dataset", created_at="2026-01-01T00:00:00", seconds=0,
            spec={}, stage_version=1, parents=(), licences=(), code_version="0", packages={}, headline="", metrics={},
            files=file_entries(place),
        )  # fmt: skip
        copied = place.parent / f"building-{name}"
        shutil.copytree(place, copied, copy_function=os.link)
        store.publish(copied, _MANIFESTS[name])
        shutil.rmtree(store.cache)
    else:
        Store(f"s3://{BUCKET}/{name}", cache=place).folder_of(_MANIFESTS[name])


def _by_s3fs(place: Path, name: str, is_up: bool) -> None:
    import s3fs  # type: ignore[import-untyped]

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if is_up:
        files.put(f"{place}/", f"{BUCKET}/{name}/", recursive=True)
    else:
        files.get(f"{BUCKET}/{name}/", f"{place}/", recursive=True)


def _by_boto3(place: Path, name: str, is_up: bool) -> None:
    import boto3  # type: ignore[import-untyped]

    client = boto3.client("s3")
    place.mkdir(exist_ok=True)
    for number in range(NUM_FILES):
        file = f"part-{number}.safetensors"
        if is_up:
            client.upload_file(str(place / file), BUCKET, f"{name}/{file}")
        else:
            client.download_file(BUCKET, f"{name}/{file}", str(place / file))


async def _by_obstore(endpoint: str, place: Path, name: str, is_up: bool) -> None:
    """In parts of Rayloom's size up, and each file as one stream down."""
    from obstore.store import S3Store

    place.mkdir(exist_ok=True)
    store = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True, "timeout": "1day"})

    async def move(file: str) -> None:
        if is_up:
            await store.put_async(f"{name}/{file}", place / file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
            return
        with (place / file).open("wb") as target:
            async for block in (await store.get_async(f"{name}/{file}")).stream():
                target.write(block)

    await asyncio.gather(*(move(f"part-{number}.safetensors") for number in range(NUM_FILES)))


# -- a pipeline ----------------------------------------------------------------------------------------------------


def _chain(folder: Path, bucket: Bucket) -> dict[str, Any]:
    jobs = folder / "jobs"
    write_jobs(jobs, leave_out=WITH_VLLM, **{PIPELINE: {"max_parallel_stages": 1}})
    # The first chain reads what the next one finds in memory, so it does not count.
    stores = {
        "first": Store(str(folder / "first")),
        "s3": Store(f"s3://{BUCKET}/chain"),
        "folder": Store(str(folder / "store")),
    }
    seconds: dict[str, float] = {}
    for name in stores:
        made_up_corpus(stores[name])
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "rayloom", "run", f"{PIPELINE}.yaml"],
            cwd=jobs,
            env=kept | {"RAYLOOM_STORE": stores[name].uri, "RAYLOOM_CACHE": str(folder / f"cache-{name}")},
            check=True,
        )
        seconds[name] = time.perf_counter() - began
    expected, found = results(stores["folder"]), results(stores["s3"])
    return {
        "equal_results": int(found == expected),
        "s3_wall_ratio": round(seconds["s3"] / seconds["folder"], 3),
        "chain_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


# -- nodes with disks of their own ---------------------------------------------------------------------------------


def _nodes(folder: Path) -> dict[str, Any]:
    """The most that a node has got one file of an artifact, after a training on two nodes and jobs on its result."""
    with fleet(folder, *NODES_PORTS) as made:
        if made is None:
            print("nodes: this machine does not allow networks for nodes", flush=True)
            return {}
        for name in ("pretrained", "pages", "cleaned", "base", "chats", "tuned", "merged", "compared"):
            made.submitted(name)
        fetches = made.fetches()
    return {"fetches_per_node": max(fetches.values()), "files_fetched": len(fetches)}


# -- checkpoints ---------------------------------------------------------------------------------------------------


def _checkpoints(folder: Path, bucket: Bucket) -> dict[str, Any]:
    """The share of a minute that a checkpoint a minute takes of a training whose work is copied to the store."""
    from dataclasses import replace

    from support.training_jobs import ONE, small_job

    from rayloom.artifacts.work_copy import WorkCopy
    from rayloom.train.loop.loop import train
    from rayloom.train.prepare import RESULT_NAME

    layers = {"type": "decoder", "num_layers": 4, "hidden_size": 384, "num_heads": 4, "feed_forward_size": 1024,
              "max_positions": 32}  # fmt: skip
    job = small_job(folder, architecture=layers, num_steps=30, checkpoints={"every_steps": 10})
    copy = WorkCopy(Store(f"s3://{BUCKET}/checkpoints", cache=folder / "cache"), "stalled", "0")
    copy.folder.mkdir(parents=True)
    job = replace(job, work=copy.folder, out=copy.folder / RESULT_NAME, copy=copy)
    train(job, ONE, lambda event: None)
    finished = next(event for event in read_log(job.log) if event["event"] == "finished")
    stall = float(finished["checkpoint_stall_seconds"]) / 3
    size = sum(s for n, s in copy.sizes("checkpoints").items() if n.endswith(".safetensors"))
    return {"checkpoint_stall_fraction": round(stall / MINUTE, 5), "checkpoint_bytes": size}


if __name__ == "__main__":
    main()
