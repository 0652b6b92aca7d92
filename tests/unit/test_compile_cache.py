"""Compiled code in the node's cache: where it is, for whom, and when it goes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from rayloom.artifacts import node_cache
from rayloom.models.compile_cache import keep_compiled

VARIABLES = {
    "VLLM_CACHE_ROOT": "vllm/envs.py",
    "TORCHINDUCTOR_CACHE_DIR": "torch/_inductor/runtime/cache_dir_utils.py",
    "TRITON_CACHE_DIR": "torch/_inductor/runtime/cache_dir_utils.py",
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of this process, which a test may change."""
    made = {"RAYLOOM_CACHE": str(tmp_path), "OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(os, "environ", made)
    return made


def kept_in(environment: dict[str, str]) -> Path:
    """The folder of compiled code that a process with these variables gets."""
    for name in VARIABLES:
        environment.pop(name, None)
    keep_compiled()
    return Path(environment["VLLM_CACHE_ROOT"]).parent


@pytest.mark.parametrize("variable", VARIABLES)
def test_compilers_read_the_variables_that_are_set(variable: str) -> None:
    package, _, rest = VARIABLES[variable].partition("/")
    installed = importlib.util.find_spec(package)
    assert installed is not None
    (folder,) = installed.submodule_search_locations or ()
    assert f'"{variable}"' in (Path(folder) / rest).read_text(encoding="utf-8")


def test_all_compilers_write_into_one_folder_of_the_cache(environment: dict[str, str], tmp_path: Path) -> None:
    folder = kept_in(environment)
    assert folder.parent == tmp_path / "compiled"
    assert {Path(environment[name]).parent for name in VARIABLES} == {folder}
    assert kept_in(environment) == folder


def test_code_for_another_number_of_threads_is_elsewhere(environment: dict[str, str]) -> None:
    for_two = kept_in(environment)
    environment["OMP_NUM_THREADS"] = "4"
    assert kept_in(environment) != for_two


def test_the_folder_that_torch_set_for_itself_does_not_count_as_set(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A command that imports torch's compiler hands the variable down to all its processes."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert environment.setdefault("TORCHINDUCTOR_CACHE_DIR", cache_dir()) == cache_dir()
    keep_compiled()
    assert Path(environment["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path / "compiled")


def test_what_an_operator_set_stays(environment: dict[str, str]) -> None:
    environment["VLLM_CACHE_ROOT"] = "/shared/vllm"
    keep_compiled()
    assert environment["VLLM_CACHE_ROOT"] == "/shared/vllm"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] != "/shared/vllm"


def test_a_folder_of_another_user_is_not_used(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)  # not the owner of what this process makes
    keep_compiled()
    assert not set(VARIABLES) & set(environment)


def test_without_a_cache_that_can_be_written_to_all_stays_as_it_was(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    environment["RAYLOOM_CACHE"] = str(tmp_path / "file")
    keep_compiled()
    assert not set(VARIABLES) & set(environment)


def test_compiled_code_counts_and_goes_unless_a_process_uses_it(environment: dict[str, str], tmp_path: Path) -> None:
    used, unused = kept_in(environment), tmp_path / "compiled" / "of-an-older-version"
    for folder in (used, unused):
        (folder / "vllm").mkdir(parents=True)
        (folder / "vllm" / "kernel.so").write_bytes(b"x" * 1000)
    environment["RAYLOOM_CACHE_BYTES"] = "2500"
    assert node_cache.make_room(tmp_path / "artifacts", 500)
    assert unused.exists()
    assert node_cache.make_room(tmp_path / "artifacts", 1500)
    assert (used / "vllm" / "kernel.so").exists()
    assert not unused.exists()
    assert not node_cache.make_room(tmp_path / "artifacts", 1600)
    assert (used / "vllm" / "kernel.so").exists()
