"""dolma's tools on a folder of JSON lines, run with its own environment's Python; prints seconds by step.

Rules are Python on processes; duplicates, filters and the removal of lines are Rust on threads. Of what `clean.py` asks
of Rayloom, dolma does not find near duplicates (whole texts are looked up in a Bloom filter, so only equal ones are
found), counts no sentences, and judges a text as it came, not the lines that C4 leaves of it. Its C4 tagger also looks
for bad words, which is not asked of it: taggers are as they are shipped.

usage: python dolma_peer.py CORPUS WORK TOKENIZER.json LANGUAGE_MODEL.ftz WORKERS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from dolma import add_tagger, deduper, mixer
from dolma.core.runtime import create_and_run_tagger
from dolma.taggers.language import FastTextEnglishLanguageDocumentTagger
from dolma.tokenizer import tokenize_in_parallel
from tokenizers import Tokenizer

# Gopher's limits (Rae et al. 2021, appendix A.1.1 and table A1) under the names of dolma's tagger.
AT_LEAST = {
    "word_count": 50,
    "median_word_length": 3,
    "fraction_of_words_with_alpha_character": 0.8,
    "required_word_count": 2,
}
AT_MOST = {
    "word_count": 100_000,
    "median_word_length": 10,
    "symbol_to_word_ratio": 0.1,
    "fraction_of_lines_starting_with_bullet_point": 0.9,
    "fraction_of_lines_ending_with_ellipsis": 0.3,
    "fraction_of_duplicate_lines": 0.3,
    "fraction_of_characters_in_duplicate_lines": 0.2,
    **{f"fraction_of_characters_in_most_common_{n}grams": share for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))},
    **{f"fraction_of_characters_in_duplicate_{n}grams": (20 - n) / 100 for n in range(5, 11)},
}
SMALLEST_CONFIDENCE = 0.65


@add_tagger("english")
class English(FastTextEnglishLanguageDocumentTagger):
    """dolma's own tagger with the same model as Rayloom's, from this disk."""

    MODEL_PATH = sys.argv[4]


def main(corpus: Path, work: Path, tokenizer: Path, workers: int) -> None:
    documents, kept = work / "documents", work / "kept"
    documents.mkdir(parents=True)  # dolma finds a file's attributes by replacing this name in its path
    sizes = [path.stat().st_size for path in corpus.glob("*.jsonl")]
    for path in corpus.glob("*.jsonl"):
        (documents / path.name).symlink_to(path.resolve())
    files = [str(documents / "*.jsonl")]
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], object]) -> None:
        started = time.monotonic()
        step()
        seconds[name] = time.monotonic() - started

    def tag() -> None:
        taggers = ["english", "gopher_v2", "c4_v2"]
        done = str(work / "tagged")
        create_and_run_tagger(files, taggers, experiment="rules", metadata=done, num_processes=workers)

    timed("tag", tag)
    timed("duplicates", lambda: deduper(duplicates(files, work, sum(sizes), workers)))
    timed("mix", lambda: mixer(mix(files, kept, work, max(sizes), workers)))
    timed("tokenise", lambda: tokenise(kept, work / "tokens", tokenizer, workers))
    passed = sum(1 for path in kept.glob("*") for _ in path.open("rb"))
    num_tokens = sum(path.stat().st_size for path in (work / "tokens").glob("*.npy")) // 2
    print(json.dumps({"version": version("dolma"), "seconds": seconds, "kept": passed, "tokens": num_tokens}))


def duplicates(files: list[str], work: Path, num_bytes: int, workers: int) -> dict[str, object]:
    """Equal texts, as dolma's recipes find equal documents."""
    bloom = {"estimated_doc_count": num_bytes // 1000, "desired_false_positive_rate": 1e-6, "size_in_bytes": 0}
    return {
        "documents": files,
        "dedupe": {
            "name": "duplicates",
            "documents": {"attribute_name": "duplicate", "key": "$.text"},
            "skip_empty": True,
        },
        "bloom_filter": bloom | {"file": str(work / "bloom.bin"), "read_only": False},
        "work_dir": {"input": str(work), "output": str(work)},
        "processes": workers,
    }


def mix(files: list[str], kept: Path, work: Path, shard_bytes: int, workers: int) -> dict[str, object]:
    """Documents that pass all rules, without the lines that C4 leaves out."""

    def score(name: str) -> str:
        return f"(.attributes.{name} // [[0, 0, 0]])[0][2]"  # a list of (begin, end, score)

    # All rules are one expression, since the text is copied for each.
    flags = ("rules__c4_v2__has_curly_brace", "rules__c4_v2__has_lorem_ipsum", "duplicate")
    conditions = [
        f"{score('rules__english__en')} >= {SMALLEST_CONFIDENCE}",
        *(f"{score('rules__gopher_v2__' + name)} >= {limit}" for name, limit in AT_LEAST.items()),
        *(f"{score('rules__gopher_v2__' + name)} <= {limit}" for name, limit in AT_MOST.items()),
        *(f"{score(name)} == 0" for name in flags),
    ]
    lines = ("lines_with_no_ending_punctuation", "lines_with_too_few_words")
    return {
        "streams": [
            {
                "name": "kept",
                "documents": files,
                "attributes": ["rules", "duplicates"],
                "filter": {"include": [" and ".join(conditions)], "exclude": [], "syntax": "jq"},
                "span_replacement": [
                    {
                        "span": f"$.attributes.rules__c4_v2__{name}",
                        "min_score": 0.5,
                        "replacement": "",
                        "syntax": "jsonpath",
                    }
                    for name in lines
                ],
                "compression": {"input": None, "output": "plain"},  # any word but gz and zst
                # A shard is one thread's work, and one of the usual size would be all of it.
                "output": {"path": str(kept), "max_size_in_bytes": shard_bytes, "discard_fields": ["attributes"]},
            }
        ],
        "work_dir": {"input": str(work), "output": str(work)},
        "processes": workers,
    }


def tokenise(kept: Path, tokens: Path, tokenizer: Path, workers: int) -> None:
    end = Tokenizer.from_file(str(tokenizer)).token_to_id("<|endoftext|>")
    tokenize_in_parallel(
        [str(kept / "*")], str(tokens), num_writers=workers, tokenizer_name_or_path=str(tokenizer),
        eos_token_id=end, pad_token_id=end, metadata_dir=str(tokens) + "-done",
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[5]))
