"""What a plan found out, kept in the store: the same plan again looks neither at rows nor at the model.

Kept for this machine, as processors compute in different precisions. What changes by the hour, such as free memory, is
no part of it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

import rayloom
from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.train.kept_rows import ROWS_NAME, source_stamps
from rayloom.train.sizes.model_size import ModelSize

PACKAGE = Path(rayloom.__file__).parent


@dataclass(frozen=True)
class Findings:
    """The sheet as far as it is the same at any time; with problems, there is no more."""

    sheet: PlanSheet
    size: ModelSize | None = None
    needed_bytes: int = 0
    """Memory of all workers."""

    def as_json(self) -> dict[str, Any]:
        examples = [example.markup for example in self.sheet.examples if isinstance(example, Text)]
        sheet = {"facts": self.sheet.facts, "warnings": self.sheet.warnings, "examples": examples}
        return {"sheet": sheet, "size": self.size and asdict(self.size), "needed_bytes": self.needed_bytes}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Findings:
        sheet = values["sheet"]
        facts = [(name, value) for name, value in sheet["facts"]]
        examples = [Text.from_markup(markup, emoji=False) for markup in sheet["examples"]]
        return cls(
            PlanSheet(facts, [*examples], sheet["warnings"]), ModelSize(**values["size"]), values["needed_bytes"]
        )


def _size(values: Mapping[str, Any]) -> ModelSize:
    teacher = values["of_teacher"]
    return ModelSize(**dict(values) | {"of_teacher": None if teacher is None else _size(teacher)})


class KeptFindings:
    """Those of one job in a store on this machine."""

    def __init__(self, spec: TrainSpec, parents: Mapping[str, Artifact], store: Store) -> None:
        about = [_code_stamp(), platform.node(), spec.model_dump(mode="json")]
        digests = {path: parent.manifest.digest for path, parent in sorted(parents.items())}
        key = json.dumps([*about, digests, source_stamps(spec, parents)], sort_keys=True)
        self._key, self._folder = hashlib.sha256(key.encode()).hexdigest()[:24], Path(store.root) / ROWS_NAME / "plans"
        self._is_local = store.is_local

    def find(self, *, may_sample: bool) -> Findings | None:
        """What was found when every row was looked at; if there is no such thing, perhaps what a sample told."""
        for file in (self._file(False), *([self._file(True)] if may_sample else [])):
            if self._is_local and file.exists():
                return Findings.from_json(json.loads(file.read_text(encoding="utf-8")))
        return None

    def keep(self, findings: Findings, *, may_sample: bool) -> None:
        if self._is_local and not findings.sheet.problems:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(self._file(may_sample), json.dumps(findings.as_json()))

    def _file(self, may_sample: bool) -> Path:
        return self._folder / f"{self._key}{'.sample' if may_sample else ''}.json"


def _code_stamp() -> list[tuple[str, int, int]]:
    """Changes with the package's code: of another version, or in a checkout that is worked on."""
    files = ((file, file.stat()) for file in sorted(PACKAGE.rglob("*.py")))
    return [(file.relative_to(PACKAGE).as_posix(), about.st_size, about.st_mtime_ns) for file, about in files]


def amount(num_bytes: int) -> str:
    """Bytes as a person reads them, such as `1.5 GB`."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
