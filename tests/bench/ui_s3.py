"""The first page of `rayloom ui` over a store in a bucket, on a real S3 server on loopback, and what it asks for."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import fsspec
import httpx
import psutil
from support.counted_bucket import CountedBucket, counted_bucket
from ui_server import fill, seconds_of, server, until_first_page, until_whole

from rayloom.artifacts.store import Store
from rayloom.observe.ports import free_port
from rayloom.ui.store_index import REMOTE_SECONDS

PAGE_SECONDS, NUM_PAGES = 0.5, 100
"""Pages are asked for at this pace, so that some come while the store is read again."""


def first_pages_on_s3(folder: Path, num_artifacts: int) -> dict[str, Any]:
    """Seconds of the first page: with the store read, while it is read, and after a start with and without cache.

    `s3_requests`: what the server of S3 was asked for, by the first reading, by the next start, and by a page.
    """
    local = Store(str(folder / "filled"), cache=folder / "cache")
    fill(local, num_artifacts)
    with counted_bucket(free_port()) as bucket:
        remote = fsspec.filesystem(
            "s3", key="key", secret="secret", endpoint_url=bucket.environment["AWS_ENDPOINT_URL"]
        )
        remote.put(local.root, "bucket/store", recursive=True)
        return _measured(folder, bucket, num_artifacts)


def _measured(folder: Path, bucket: CountedBucket, num_artifacts: int) -> dict[str, Any]:
    address, asked = "s3://bucket/store", bucket.counts()

    def requests() -> dict[str, int]:
        """Since this was last called."""
        nonlocal asked
        before, asked = asked, bucket.counts()
        return {name: count - before.get(name, 0) for name, count in asked.items() if not name.startswith("bytes")}

    with server(folder, address, bucket.environment) as (url, started, process):
        nothing_kept = until_first_page(url, started)
        meanwhile = until_whole(url, num_artifacts)
        whole, first, reading_cpu = time.monotonic() - started, requests(), _cpu_seconds(process.pid)
    with server(folder, address, bucket.environment) as (url, started, process):
        after_start = until_first_page(url, started)
        start_cpu = _cpu_seconds(process.pid)
        with httpx.Client(base_url=url, timeout=60) as client:
            until_whole(url, num_artifacts)
            time.sleep(REMOTE_SECONDS / 3)  # the reading of a start is over
            again = requests()
            pages, before = [], _cpu_seconds(process.pid)
            for _ in range(NUM_PAGES):
                pages.append(seconds_of(client, "/"))
                time.sleep(PAGE_SECONDS)
            by_pages = requests()
            pages_cpu = (_cpu_seconds(process.pid) - before) / NUM_PAGES
        memory = psutil.Process(process.pid).memory_info().rss
    return {
        "first_page_s3_seconds": round(statistics.median(pages), 4),
        "first_page_s3_seconds_worst": round(max(pages), 4),
        "first_page_s3_seconds_after_start": round(after_start, 2),
        "first_page_s3_seconds_after_start_nothing_kept": round(nothing_kept, 2),
        "first_page_s3_seconds_while_nothing_is_known": round(statistics.median(meanwhile or [nothing_kept]), 4),
        "first_page_s3_seconds_while_nothing_is_known_worst": round(max(meanwhile or [nothing_kept]), 4),
        "whole_store_s3_seconds_nothing_kept": round(whole, 2),
        "s3_cpu_seconds": {
            "whole_store_nothing_kept": round(reading_cpu, 2),
            "first_page_after_start": round(start_cpu, 2),
            "a_page": round(pages_cpu, 4),
        },
        "s3_requests": {"nothing_kept": first, "next_start": again, f"{NUM_PAGES}_pages": by_pages},
        "memory_s3_bytes": memory,
    }


def _cpu_seconds(pid: int) -> float:
    """What a process has used: what a page costs, however busy the machine is with other things."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
