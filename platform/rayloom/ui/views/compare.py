"""Several artifacts side by side: what differs in their jobs, their metrics, and their curves over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rayloom.artifacts.manifest import Manifest
from rayloom.errors import InputError
from rayloom.observe.report_page import metric_rows
from rayloom.ui.drawing.curves import Charts, plain
from rayloom.ui.pages import page, short
from rayloom.ui.workbench import Workbench, workbench

MOST_COMPARED = 8
MOST_ROWS = 2_000
LOG = "metrics.jsonl"
MOST_TRIALS = 40


def compare(request: Request) -> Response:
    """A table of differences of the jobs, a table of metrics, and the curves."""
    manifests = _asked(request)
    specs = _side_by_side([m.spec for m in manifests])
    metrics = _side_by_side([m.metrics for m in manifests])
    return page(
        request,
        "artifacts/compare.html",
        title="Compare",
        manifests=manifests,
        different=[row for row in specs if len(set(map(str, row[1]))) > 1],
        num_same=sum(len(set(map(str, row[1]))) == 1 for row in specs),
        metrics=[(path, values, _best(path, values)) for path, values in metrics[:MOST_ROWS]],
        num_more=max(0, len(metrics) - MOST_ROWS),
        ids=[m.id for m in manifests],
        has_curves=any(training_logs(m) for m in manifests),
    )


def curves(request: Request) -> Response:
    """The curves of artifacts as JSON."""
    bench = workbench(request)
    manifests, runs = _asked(request), dict[str, Charts]()
    are_clear = len({short(manifest.id) for manifest in manifests}) == len(manifests)
    for manifest in manifests:
        for name, path in training_logs(manifest).items():
            run = short(manifest.id) if are_clear else manifest.id
            runs[f"{run} {name}".strip()] = log_of(bench, manifest, path)
    return JSONResponse({"charts": plain(runs), "is_over": True})


def _asked(request: Request) -> list[Manifest]:
    ids = list(dict.fromkeys(request.query_params.getlist("id")))
    if not ids:
        raise InputError("No artifact was chosen", fix="Mark two or more in the list of artifacts.")
    if len(ids) > MOST_COMPARED:
        raise InputError(f"{len(ids)} artifacts were chosen", fix=f"At most {MOST_COMPARED} fit beside each other.")
    return [workbench(request).manifest(*id_.partition("@")[::2]) for id_ in ids]


def training_logs(manifest: Manifest) -> dict[str, str]:
    """Name and path of every training's log in an artifact: its own, or that of each trial of a search."""
    paths = sorted(file.path for file in manifest.files)
    own = {"": LOG} if LOG in paths else {}
    trials = [path for path in paths if path.startswith("trials/") and path.endswith(".jsonl")]
    return own or {
        f"trial {int(Path(path).stem)}": path for path in trials[:MOST_TRIALS] if Path(path).stem.isdecimal()
    }


def log_of(bench: Workbench, manifest: Manifest, path: str) -> Charts:
    """A whole log's charts; one that is long is read in several parts."""
    file = bench.store.open(manifest).path / path
    log = bench.log(file)
    while not log.is_whole and file.exists():
        log = bench.log(file)
    return log.charts


def _side_by_side(several: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Dotted path, and the value of each; an empty text where one has none."""
    flat = [dict(metric_rows(values)) for values in several]
    paths = dict.fromkeys(path for values in flat for path in values)
    return [(path, [values.get(path, "") for values in flat]) for path in paths]


LESS_IS_BETTER = ("loss", "perplexity", "seconds", "bytes", "wer", "cer", "bits_per_byte")
MORE_IS_BETTER = ("accuracy", "score", "f1", "exact", "recall", "precision", "reward", "tokens_per_second", "bleu")


def _best(path: str, values: Sequence[Any]) -> int | None:
    """The place of the best value where it is known which is better; None if it is not, or if all are equal."""
    name = path.rpartition(".")[2]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(values) or len(set(numbers)) < 2 or not all(map(math.isfinite, numbers)):
        return None
    if name.endswith(MORE_IS_BETTER):
        return values.index(max(numbers))
    return values.index(min(numbers)) if name.endswith(LESS_IS_BETTER) else None
