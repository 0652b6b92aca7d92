"""Reading JSON lines and tokenising their texts, without anything else: what a corpus costs at the least."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from tokenizers import Tokenizer

TEXTS_AT_ONCE = 256


def seconds_alone(corpus: Path, tokenizer: Path, num_processes: int, *, is_fast: bool) -> float:
    """Seconds, start-up included. `is_fast`: with Rayloom's choice of tokenizers, else Hugging Face's."""
    started = time.monotonic()
    files = sorted(corpus.glob("*.jsonl"))
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        sum(pool.map(num_tokens, files, [tokenizer] * len(files), [is_fast] * len(files)))
    return time.monotonic() - started


def num_tokens(file: Path, tokenizer: Path, is_fast: bool) -> int:
    from rayloom.text.bulk_tokenizer import BulkTokenizer, use_one_thread

    use_one_thread()
    loaded = Tokenizer.from_file(str(tokenizer))
    bulk = BulkTokenizer(loaded, add_special_tokens=True)
    count, texts = 0, list[str]()

    def counted() -> int:
        if is_fast:
            return len(bulk.flat(texts)[0])
        return sum(len(one.ids) for one in loaded.encode_batch_fast(texts))

    with file.open(encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            if len(texts) == TEXTS_AT_ONCE:
                count, texts = count + counted(), []
    return count + counted() if texts else count
