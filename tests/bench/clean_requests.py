"""Requests of a cleaning job to a bucket, counted at a real S3 server on loopback, at two sizes ten times apart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from real_text import ROOT, recombined, write_jsonl

sys.path.insert(0, str(ROOT / "tests"))

from support.counted_bucket import counted_bucket

from rayloom.observe.ports import free_port

JOB = """
kind: clean
name: requests
sources: [{{name: text, dataset: {corpus}, format: {{type: jsonl}}, domain: web}}]
output: {{type: tokens, tokenizer: {{type: train, vocabulary_size: 4096, sample_documents: 2000}}}}
"""
IMPORT = """
import sys
from pathlib import Path
from rayloom.artifacts.store import Store
from rayloom.dispatch import load_job, resolve
resolve(load_job(Path(sys.argv[1])), Store.beside(Path()))
"""
CHUNK_BYTES = 1 << 20
"""Chunks of this size, so that also the smaller text has many."""


def request_growth(texts: list[str], folder: Path, small_bytes: int) -> dict[str, Any]:
    """Requests and bytes of both jobs, and `request_growth`: the requests' ratio divided by that of the texts, 10.

    The import of the text is not counted. 1 is linear growth.
    """
    counted, seconds = [], []
    with counted_bucket(free_port()) as bucket:
        for num_bytes in (small_bytes, 10 * small_bytes):
            corpus = folder / f"requests-{num_bytes}"
            write_jsonl(corpus, recombined(texts, num_bytes), 4)
            job = folder / f"requests-{num_bytes}.yaml"
            job.write_text(JOB.format(corpus=corpus))
            environment = os.environ | bucket.environment | {"RAYLOOM_STORE": f"s3://bucket/{num_bytes}"}
            environment["RAYLOOM_CACHE"] = str(folder / f"cache-{num_bytes}")
            settings = ["--set", f"chunk_bytes={CHUNK_BYTES}"]
            subprocess.run([sys.executable, "-c", IMPORT, str(job)], env=environment, check=True)
            before, started = bucket.counts(), time.monotonic()
            subprocess.run([sys.executable, "-m", "rayloom", "run", str(job), *settings], env=environment, check=True)
            seconds.append(round(time.monotonic() - started, 1))
            after = bucket.counts()
            counted.append({name: after[name] - before.get(name, 0) for name in after})
    requests = [sum(count for name, count in one.items() if not name.startswith("bytes")) for one in counted]
    return {
        "clean_requests": requests,
        "clean_requests_per_chunk": [
            round(count * CHUNK_BYTES / (size * small_bytes), 1) for count, size in zip(requests, (1, 10), strict=True)
        ],
        "clean_counted": counted,
        "clean_bucket_seconds": seconds,
        "request_growth": round(requests[1] / requests[0] / 10, 2),
    }
