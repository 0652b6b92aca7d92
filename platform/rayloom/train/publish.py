"""Makes the artifact of a finished run: its files, and its metrics from the run's log."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import FileEntry, Outcome
from rayloom.specs.base import Content
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import is_whole_model
from rayloom.specs.training.objectives import Causal
from rayloom.specs.training.training_data import ConversationData, CorpusData
from rayloom.text.packed.shards import TokenShards, save_first
from rayloom.train.job import TrainJob
from rayloom.train.job_rows import row_counts
from rayloom.train.loop.run_log import read_log
from rayloom.train.objectives.prompted import first_prompts
from rayloom.train.prepare import RESULT_NAME

SHOWN_NAME, NUM_SHOWN = "first_rows", 100
"""Folder and number of training rows that the artifact keeps as they were rendered, for people to look at."""
NUM_PROMPTS = 2
"""Prompts that the metrics show."""


def publish(job: TrainJob, build: Build) -> Outcome:
    """Copies model, log and held-out rows into the artifact; the work folder keeps them until it is complete."""
    stored: tuple[FileEntry, ...] = ()
    stored_in = RESULT_NAME
    if job.copy is None:
        shutil.copytree(job.out, build.directory, copy_function=_linked, dirs_exist_ok=True)
    else:
        stored = tuple(FileEntry.model_validate(entry) for entry in json.loads(job.finished.read_text()))
        stored_in = f"{job.copy.within}/{RESULT_NAME}".lstrip("/")
    shutil.copyfile(job.log, build.directory / "metrics.jsonl")
    shutil.copytree(next(iter(job.heldout.values())), build.directory / "heldout")
    if isinstance(job.spec.data, ConversationData):
        save_first(job.train[0], build.directory / SHOWN_NAME, NUM_SHOWN)
    metrics = summarize(read_log(job.log)) | {"rows": row_counts(job.work)}
    if not metrics["rows"]:
        del metrics["rows"]
    if job.spec.prompt is not None:
        metrics["prompts"] = [f"{text} → {answer}" for _, text, answer in first_prompts(job, NUM_PROMPTS)]
    is_whole_here = isinstance(job.spec.data, CorpusData) and not job.spec.is_streamed
    if is_whole_here and isinstance(job.spec.objective_in_use, Causal):
        metrics["baselines"] = _baselines(job)
    content: Content = "model" if is_whole_model(job.spec.adapter) else "adapter"
    return Outcome(
        content, metrics, _licences(job.spec), headline=_headline(metrics), stored=stored, stored_in=stored_in
    )


def _licences(spec: TrainSpec) -> tuple[str, ...]:
    """Licences of sources read from URIs. Those of data-set artifacts come from the parents' manifests."""
    sources: Sequence[SourceOfRows] = () if isinstance(spec.data, CorpusData) else spec.data.sources
    return tuple(sorted({source.licence for source in sources if source.licence is not None}))


def _linked(source: str, target: str) -> None:
    """Hard-links the file, or copies it if the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _baselines(job: TrainJob) -> dict[str, float]:
    """Held-out perplexities of a unigram and a bigram model, on the labels that the model is scored on."""
    from rayloom.score.ngrams import ngram_perplexities

    length = job.spec.sequence_length_tokens
    heldout = TokenShards(next(iter(job.heldout.values())), length)
    found = ngram_perplexities(TokenShards(job.train[0], length), heldout)
    baselines = {"unigram_perplexity": round(found.unigram, 2), "bigram_perplexity": round(found.bigram, 2)}
    if found.bigram_at_least < found.bigram:
        # Only a sample was counted; its size, and a lower bound for counting all of the text, are given too.
        least = round(found.bigram_at_least, 2)
        baselines |= {"counted_tokens": found.num_counted_tokens, "bigram_perplexity_at_least": least}
    return baselines


def _headline(metrics: dict[str, Any]) -> str:
    """One line of results, such as `heldout perplexity 4,261.6 → 61.3 (unigram 702, bigram 148)`."""
    said = []
    for name, found in metrics["heldout"].items():
        if "parts" in found["after"]:
            said.append(f"{name} reward {found['before']['score']:.3f} → {found['after']['score']:.3f}")
            continue
        if "accuracy" in found["after"]:
            # Most tags are O, so accuracy over tags says little; the score counts entities.
            measure = "score" if "score" in found["after"] else "accuracy"
            before, after = found["before"][measure], found["after"][measure]
            said.append(f"{name} {measure} {before:.3f} → {after:.3f}, loss {found['after']['loss']:.3f}")
            continue
        before, after = found["before"]["perplexity"], found["after"]["perplexity"]
        said.append(f"{name} perplexity {before:,.1f} → {after:,.1f}")
    counted = metrics.get("baselines")
    if counted:
        unigram, bigram = counted["unigram_perplexity"], counted["bigram_perplexity"]
        said[0] += f" (unigram {unigram:,.0f}, bigram {bigram:,.0f})"
    return ", ".join(said)


# Metrics of a run, computed from its log.


def summarize(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The artifact's metrics: steps, tokens, speed, and each held-out loss before and after training."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)
    steps, (finished,) = by_kind.get("step", []), by_kind["finished"]
    best_step = finished["best_step"]
    found: dict[str, Any] = {
        "steps": finished["step"],
        "tokens": finished["tokens"],
        "heldout": _heldout(by_kind.get("heldout", []), best_step),
    }
    if best_step is not None:
        found["best_step"] = best_step
    if steps:
        found |= {
            "train_loss": round(steps[-1]["loss"], 5),
            "tokens_per_second": round(statistics.median(s["tokens"] / s["seconds"] for s in steps), 1),
            "seconds_training": round(sum(s["seconds"] for s in steps), 2),
            "data_wait_share": round(sum(s["data_wait_seconds"] for s in steps) / sum(s["seconds"] for s in steps), 5),
        }
    device = by_kind.get("device", [])
    if steps and device:
        found |= {"device": device[-1]["device"]} | _utilisation(device[-1], found["tokens_per_second"])
    if "peak_memory_bytes" in finished:
        found["peak_memory_gb"] = round(finished["peak_memory_bytes"] / 1e9, 3)
    found["checkpoint_stall_seconds"] = finished["checkpoint_stall_seconds"]
    if finished["skipped_steps"]:
        found |= {"skipped_steps": finished["skipped_steps"], "rollbacks": finished["rollbacks"]}
    resumed = [event["step"] for event in by_kind.get("resumed", [])]
    return found | ({"resumed_at_steps": resumed} if resumed else {})


def _utilisation(device: dict[str, Any], tokens_per_second: float) -> dict[str, float]:
    """Model FLOPs utilisation of the data sheet's peak if it is known, and of the measured peak.

    A CPU has only the measured one.
    """
    reached = tokens_per_second * device["flops_per_token"] / device["num_workers"]
    of_measured = float(f"{reached / device['peak_flops']:.4g}")
    found = {"model_flops_utilisation": of_measured, "measured_peak_tflops": round(device["peak_flops"] / 1e12, 3)}
    stated = device.get("data_sheet_flops")
    if stated is not None:
        found["model_flops_utilisation"] = float(f"{reached / stated:.4g}")
        found |= {"utilisation_of_measured_peak": of_measured, "data_sheet_tflops": round(stated / 1e12, 3)}
    return found


def _heldout(events: list[dict[str, Any]], best_step: int | None) -> dict[str, Any]:
    """Numbers before and after training, by name of the held-out set. After: at the step of the published weights."""
    found: dict[str, Any] = {}
    for event in events:
        digits = {"loss": 5, "perplexity": 3, "accuracy": 5, "score": 5}
        numbers = {measure: round(event[measure], places) for measure, places in digits.items() if measure in event}
        numbers |= {"parts": event["parts"]} if "parts" in event else {}
        named = found.setdefault(event["name"], {"before": numbers, "labels": event["labels"]})
        if best_step is None or event["step"] == best_step:
            named["after"] = numbers
    return found
