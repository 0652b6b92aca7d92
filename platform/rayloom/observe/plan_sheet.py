"""What `rayloom plan` prints for one job: facts, examples, advice, and problems that would make it fail."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass
class PlanSheet:
    """The result of a stage's planner, which runs no computation."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    """Name and value, in the order of printing."""
    examples: list[RenderableType] = field(default_factory=list)
    """Such as the first conversations with their trained tokens marked."""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Each would make the job fail; if there is one, `rayloom plan` exits with 2."""

    def add(self, name: str, value: object) -> None:
        self.facts.append((name, f"{value:,}" if isinstance(value, int) else str(value)))

    def rendered(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, value in self.facts:
            table.add_row(name, value)
        warnings = [Text(f"warning: {line}", style="yellow") for line in self.warnings]
        problems = [Text(f"problem: {line}", style="red") for line in self.problems]
        return Group(table, *self.examples, *warnings, *problems)
