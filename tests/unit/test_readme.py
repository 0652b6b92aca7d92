"""README and the guide of jobs/ are true: job files pass `check`, commands parse, links and the map's folders exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from rayloom.cli import parser
from rayloom.commands.explain import wishes
from rayloom.commands.init import recipes
from rayloom.commands.shipped import job_files
from rayloom.dispatch import load_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "jobs" / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "jobs" / "README.md",
    ROOT / "cluster" / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
]
MOST_LINES = 100
"""Of the README: a screen of promise, two commands and a map."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("block", blocks(README, "yaml") + blocks(GUIDE, "yaml"))
def test_a_job_file_is_right(block: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(block, encoding="utf-8")
    assert load_job(file).spec.kind in ("train", "import")


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    parts = [part.strip() for line in lines for part in line[2:].split("  #")[0].split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("rayloom ")]


@pytest.mark.parametrize("command", commands(README) + commands(GUIDE), ids=" ".join)
def test_a_command_is_one_that_rayloom_takes(command: list[str]) -> None:
    assert isinstance(parser(command).parse_args(command), argparse.Namespace)


def test_the_quickstart_has_as_many_job_files_as_it_says() -> None:
    assert len(list((ROOT / "jobs" / "quickstart").glob("*.yaml"))) == 15, "fourteen stages and the pipeline"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert inside
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_the_readme_is_short_and_its_map_names_folders_that_exist() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    package = ROOT / "platform" / "rayloom"
    rows = [line for line in README.splitlines() if re.match(r"\| \d \|", line)]
    assert len(rows) > 8
    for row in rows:
        _, _, rooms, inside, _ = row.split("|")
        here = [package / name for name in re.findall(r"`(\w+)/`", rooms)]
        assert all(folder.is_dir() for folder in here), rooms
        for name in re.findall(r"`(\w+)/`", inside):
            assert any((folder / name).is_dir() for folder in here), f"{name}/ is in no room of this row: {rooms}"


@pytest.mark.parametrize(
    ("file", "symbol"),
    [
        ("serve/replicas/capacity.py", "def cache_capacity"),  # where a prompt's KV budget is computed
        ("tune/strategies/schedulers.py", "def reason_to_stop"),  # who decides that a trial stops
        ("data/rules/gopher.py", "too_few_words"),  # what makes a document too short
        ("serve/gateway/admission.py", "Refusal(429"),  # where a 429 comes from
        ("serve/transport/relay.py", "Refusal(429"),
        ("text/conversations/render.py", "mask"),  # where labels are masked
        ("train/loop/checkpoints.py", "checkpoint.json"),  # where a checkpoint becomes valid
        ("artifacts/manifest.py", "def fingerprint"),  # where an artifact's fingerprint is made
        ("data/dedup/duplicate_passes.py", "is_similar("),  # where near duplicates are verified
        ("serve/replicas/adapters.py", "def resolve"),  # where the served adapter's name is resolved
        ("tune/trials/capacity.py", "def num_concurrent"),  # where the number of concurrent trials is decided
    ],
)
def test_the_map_leads_to_a_behaviour_in_two_steps(file: str, symbol: str) -> None:
    """From the map's row to the folder, and from its names to the file."""
    assert symbol in (ROOT / "platform" / "rayloom" / file).read_text(encoding="utf-8")
    *folders, name = file.removesuffix(".py").split("/")
    (row,) = [
        line for line in README.splitlines() if line.startswith("| ") and f"`{folders[0]}/`" in line.split("|")[2]
    ]
    assert all(f"`{folder}/`" in row for folder in folders)
    assert name in row


def test_every_room_of_the_package_is_on_the_map() -> None:
    package = ROOT / "platform" / "rayloom"
    rooms = {folder.name for folder in package.iterdir() if any(folder.rglob("*.py"))} - {"__pycache__"}
    assert {room for room in rooms if f"`{room}/`" not in README} == set()


def test_the_guide_says_which_kind_is_needed_and_has_every_recipe() -> None:
    assert [wish for wish, _, _ in wishes() if wish not in GUIDE] == []
    missing = [name for name in recipes(job_files()) if f"({name}.yaml)" not in GUIDE and f"({name})" not in GUIDE]
    assert missing == ["recipes/serve"], "each of its files has a paragraph of its own"
