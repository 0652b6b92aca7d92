"""What workers read of a corpus that is streamed, counted at a real S3 server by its log."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from real_text import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from support.training_jobs import made_up_corpus, small_spec, streamed_job

from rayloom.artifacts.store import Store
from rayloom.score.parallel.axis import Axis
from rayloom.train.loop.batch_feed import Feed
from rayloom.train.loop.run_state import rows_of

STREAMED_SHARDS, SHARD_TOKENS, ROW_TOKENS, STEP_ROWS, NUM_WORKERS = 64, 32_768, 256, 16, 2
STREAM_LIMIT_BYTES = 28 * 2 * SHARD_TOKENS
"""Less than half of the corpus: a worker has four lanes, in each of which five shards may be, and the small files."""


def stream_reads(folder: Path, uri: str) -> dict[str, Any]:
    """Bytes of shards that the server sent to the workers' feeds, over those of the rows that they gave, each once.

    `folder`: has the server's log. `uri`: of a store in its bucket. The workers are nodes of their own. Batches are
    made and not trained on, which reads no more.
    """
    documents = STREAMED_SHARDS * SHARD_TOKENS // 600
    corpus = made_up_corpus(Store(uri, cache=folder / "maker"), "streamed", documents, SHARD_TOKENS, most_tokens=1200)
    sizes = {file.path: file.size_bytes for file in corpus.manifest.files if file.path.startswith("train/")}
    decoder = small_spec().model_dump(mode="json")["architecture"] | {"max_positions": ROW_TOKENS}
    changes = {
        "architecture": decoder, "sequence_length_tokens": ROW_TOKENS, "num_steps": None, "num_epochs": 1,
        "global_batch_tokens": STEP_ROWS * ROW_TOKENS,
    }  # fmt: skip
    os.environ["RAYLOOM_CACHE_BYTES"] = str(STREAM_LIMIT_BYTES)
    log = folder / "bucket.log"
    before, given, peaks = len(log.read_text()), 0, []
    for rank in range(NUM_WORKERS):
        os.environ["RAYLOOM_CACHE"] = str(folder / f"node-{rank}")
        job = streamed_job(folder / f"work-{rank}", uri, "streamed", **changes)
        rows, peak = rows_of(job, job.spec), 0
        with Feed(rows, 0, job.micro_batch_sequences, Axis(rank, NUM_WORKERS)) as feed:
            for _ in range(rows.num_steps):
                given += sum(batch.num_tokens for batch in feed.next())
                peak = max(peak, _size(folder / f"node-{rank}"))
        rows.close()
        peaks.append(peak)
    for name in ("RAYLOOM_CACHE", "RAYLOOM_CACHE_BYTES"):
        del os.environ[name]
    asked = re.findall(r'"(?:\x1b\[\d+m)*GET (\S+)', log.read_text()[before:])
    place = f"/{uri.removeprefix('s3://')}/streamed/{corpus.manifest.version}/"
    read = sum(sizes.get(path.removeprefix(place), 0) for path in asked)
    return {
        "stream_read_ratio": round(read / (2 * given), 3),
        "stream_given_bytes": 2 * given,
        "stream_peak_disk_bytes": max(peaks),
        "stream_cache_limit_bytes": STREAM_LIMIT_BYTES,
    }


def _size(folder: Path) -> int:
    """Bytes of the files there, of which some may just be going."""
    found = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += file.stat().st_size if file.is_file() else 0
    return found
