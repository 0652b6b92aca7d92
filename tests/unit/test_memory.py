"""How much memory may be taken, in a container with a limit and without one."""

from __future__ import annotations

from pathlib import Path

import psutil

from rayloom.observe.memory import available_bytes


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) == 2000
    (tmp_path / "memory.current").write_text("5000\n")
    assert available_bytes(tmp_path) == 0


def test_without_a_limit_it_is_what_the_machine_has_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    for group in (tmp_path, tmp_path / "missing"):
        assert 0 < available_bytes(group) <= psutil.virtual_memory().total
