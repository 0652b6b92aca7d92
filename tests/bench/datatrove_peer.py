"""datatrove's pipeline on a folder of JSON lines, run with its own environment's Python; prints seconds by step.

usage: python datatrove_peer.py CORPUS WORK TOKENIZER.json LANGUAGE_MODEL.ftz WORKERS
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter

BYTES_PER_NUMBER = 4
"""Of a document, in the files of those that are removed."""


def main(corpus: Path, work: Path, tokenizer: str, language_model: str, workers: int) -> None:
    tasks = len(list(corpus.glob("*.jsonl")))
    config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)
    kept, signatures, buckets, gone = (str(work / name) for name in ("kept", "signatures", "buckets", "gone"))
    seconds: dict[str, float] = {}

    def run(name: str, steps: list[object], tasks: int) -> None:
        started = time.monotonic()
        LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=workers, logging_dir=str(work / "logs" / name)).run()
        seconds[name] = time.monotonic() - started

    language = LanguageFilter(["en"], language_threshold=0.65)
    language.model.MODEL_URL = language_model  # the same model as Rayloom's, from this disk
    judge = [
        language,
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(),
    ]
    run("judge", [JsonlReader(str(corpus)), *judge, JsonlWriter(kept, compression=None)], tasks)
    run("signatures", [JsonlReader(kept), MinhashDedupSignature(signatures, config=config)], tasks)
    run("buckets", [MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets)
    run("cluster", [MinhashDedupCluster(buckets, gone, config=config)], 1)
    tokens = DocumentTokenizer(str(work / "tokens"), tokenizer, eos_token="<|endoftext|>", shuffle_documents=False)
    run("tokenise", [JsonlReader(kept), MinhashDedupFilter(gone), tokens], tasks)
    passed_rules = sum(1 for path in Path(kept).glob("*.jsonl") for _ in path.open("rb"))
    removed = sum(path.stat().st_size for path in Path(gone).glob("*.remove")) // BYTES_PER_NUMBER
    print(json.dumps({"version": version("datatrove"), "seconds": seconds, "kept": passed_rules - removed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
