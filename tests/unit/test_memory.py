"""How much memory may be taken, in a container with a limit and without one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rayloom.commands import doctor
from rayloom.observe.memory import available_bytes, total_bytes


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


def test_files_that_the_kernel_gives_back_are_available_and_the_limit_is_the_total(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2900\n")
    (tmp_path / "memory.stat").write_text("anon 400\nfile 2500\ninactive_file 2000\n")
    assert available_bytes(tmp_path) == 2100
    assert total_bytes(tmp_path) == 3000


def test_doctor_counts_free_memory_as_a_plan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 11 * 10**9)
    monkeypatch.setattr(doctor, "total_bytes", lambda: 12 * 10**9)
    assert doctor.memory().said.startswith("11.0 GB free of 12.0 GB")
