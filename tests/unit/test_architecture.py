"""The plan of the house, read off the imports: floors, light specs, Ray at the edge, names and sizes."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from rayloom.kinds import KINDS, SPECS
from rayloom.specs.base import Spec

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "rayloom"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS: dict[str, int] = {
    **dict.fromkeys(("errors", "engine_errors", "specs", "pretrained"), 0),
    **dict.fromkeys(("artifacts", "reading", "text", "score", "observe"), 1),
    **dict.fromkeys(("models", "rewards"), 2),
    **dict.fromkeys(("ingest", "data", "train", "evaluate", "export", "generate", "serve"), 3),
    **dict.fromkeys(("tune", "pipeline", "submit"), 4),
    **dict.fromkeys(("kinds", "dispatch", "commands", "ui", "cli", "__main__"), 5),
}
# `errors` is for everyone, `specs` among them; `reading` opens what `artifacts` hold, and `text` makes token ids of it;
# a reward model is a reward; above, only the top floor has rooms that call each other, in this order.
MAY_MEET = {
    ("specs", "errors"), ("errors", "engine_errors"), ("reading", "artifacts"), ("text", "reading"),
    ("rewards", "models"),
    ("dispatch", "kinds"), ("commands", "kinds"), ("commands", "dispatch"), ("cli", "commands"),
    ("__main__", "cli"), ("ui", "kinds"), ("ui", "dispatch"), ("ui", "commands"),
}  # fmt: skip
# Where Ray itself is the subject; elsewhere only `run.py` of a room imports it.
RAY_FILES = {
    "evaluate/offline/engine.py",
    "evaluate/prediction/run.py",
    "observe/ray_session.py",
    "data/ray_exchange.py",
    "data/ray_passes.py",
    "observe/ray_metrics.py",
    "serve/applications.py",
    "train/rollouts/actors.py",
    "train/ray_worker.py",
    "train/row_tasks.py",
    "serve/gateway/deployment.py",
    "serve/gateway/metrics.py",
    "serve/replicas/engine_internals.py",
    "serve/replicas/predictor_replica.py",
    "serve/replicas/engine_replica.py",
    "tune/trials/trial_workers.py",
    "tune/trials/ray_trials.py",
}
HEAVY = ("torch", "ray", "transformers", "vllm", "numpy", "pandas", "pyarrow", "deepspeed", "datasets", "matplotlib")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
MOST_LINES = 300
MOST_FILES = 20


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, also inside functions."""
    return tuple(_names(ast.walk(tree(path))))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _at_import(body: Sequence[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a file that are done when it is imported: outside functions."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from _at_import(node.orelse if is_for_types else list(ast.iter_child_nodes(node)))  # type: ignore[attr-defined]


def loaded_with(module: str) -> set[str]:
    """The module, all of the package that its import loads, and what these import of other packages."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        path = PACKAGE.parent / f"{name.replace('.', '/')}.py"
        if path.is_file():
            waiting += _names(_at_import(tree(path).body))
    return found


def room(module: str) -> str | None:
    """`rayloom.train.run` -> `train`; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rayloom" and len(parts) > 1 and parts[1] in FLOORS else None


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert rooms - set(FLOORS) == set()


def _not_below(path: Path) -> Iterator[str]:
    """What a file imports of the package although it is not below it."""
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        yield from imports(path)
        return
    for module in imports(path):
        there = room(module)
        if there is not None and there != here and (here, there) not in MAY_MEET and FLOORS[there] >= FLOORS[here]:
            yield module


# One test a rule, not one a rule and file: the package has hundreds of files.
def test_imports_only_go_down() -> None:
    assert [f"{name_of(path)} imports {module}" for path in MODULES for module in _not_below(path)] == []


def test_ray_is_imported_at_the_edge_only() -> None:
    users = {path for path in MODULES if any(module.split(".")[0] == "ray" for module in imports(path))}
    assert len(users) > 10
    assert {name_of(path) for path in users if path.name != "run.py"} - RAY_FILES == set()


def test_the_files_that_may_import_ray_exist_or_are_struck_from_the_list() -> None:
    for file in RAY_FILES & {name_of(path) for path in MODULES}:
        assert any(module.split(".")[0] == "ray" for module in imports(PACKAGE / file))


FIRST_OF_TRANSFORMERS = ("transformers.Auto", "transformers.GenerationConfig", "transformers.models")
"""What imports much more of transformers unless `rayloom.pretrained` was there before."""


def test_classes_of_transformers_are_imported_in_one_place_that_leaves_out_what_they_would_drag_in() -> None:
    users = [name_of(path) for path in MODULES if any(name.startswith(FIRST_OF_TRANSFORMERS) for name in imports(path))]
    assert users == ["pretrained.py"]


def test_a_training_run_loads_no_planner_and_no_engine() -> None:
    loaded = loaded_with("rayloom.train.run")
    assert {"rayloom.train.publish", "rayloom.train.sizes.estimates", "ray", "torch"} <= loaded
    heavy = ("rayloom.train.plan", "transformers", "deepspeed", "peft", "matplotlib", "vllm")
    assert [name for name in loaded if name.startswith(heavy)] == []


INTERNALS = "serve/replicas/engine_internals.py"
SERVING = [path for path in MODULES if "serve" in path.relative_to(PACKAGE).parts[:-1] and name_of(path) != INTERNALS]


def _private_parts(path: Path) -> Iterator[str]:
    """What a file touches that an engine keeps private: modules, attributes of other objects, arguments, switches."""
    yield from (module for module in imports(path) if {"_private", "_internal"} & set(module.split(".")))
    yield from (module for module in imports(path) if module.split(".")[0] == "vllm")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in ("__name__", "_exit"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_parents = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            if not is_own and not is_parents:
                yield ast.unparse(node)
        elif isinstance(node, ast.keyword) and node.arg is not None and node.arg.startswith("_"):
            yield f"{node.arg}="
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("RAY_SERVE_", "VLLM")):
            yield str(node.value)


def test_serving_touches_private_parts_of_engines_in_one_file() -> None:
    assert len(SERVING) > 20
    assert [f"{name_of(path)} touches {part}" for path in SERVING for part in _private_parts(path)] == []


def test_the_file_of_private_parts_has_some_of_each_kind() -> None:
    parts = set(_private_parts(PACKAGE / INTERNALS))
    assert {"_internal=", "server.engine._engine_client", "vllm.usage.usage_lib", "VLLM::"} <= parts
    assert any("ray.llm._internal" in part for part in parts)


def test_specs_know_pydantic_and_yaml_only() -> None:
    allowed = {"pydantic", "pydantic_core", "yaml", "rayloom", *sys.stdlib_module_names}
    specs = [path for path in MODULES if "specs" in path.relative_to(PACKAGE).parts]
    assert len(specs) > 20
    others = {path: {name.split(".")[0] for name in imports(path)} - allowed for path in specs}
    assert {name_of(path): names for path, names in others.items() if names} == {}


def test_annotations_of_specs_are_not_texts_that_pydantic_would_compile_at_every_start() -> None:
    specs = [Spec, *SPECS.values()]  # whose modules are imported by that
    for spec in specs:
        specs += spec.__subclasses__()
    modules = {spec.__module__ for spec in specs if spec.__module__.startswith("rayloom.specs.")}
    assert len(modules) > 20
    assert {name for name in modules if hasattr(sys.modules[name], "annotations")} == set()


def test_a_file_is_short_and_says_what_it_is_for() -> None:
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in MODULES}
    assert {name: text.count("\n") for name, text in texts.items() if text.count("\n") > MOST_LINES} == {}
    assert [name_of(path) for path in MODULES if texts[name_of(path)] and not ast.get_docstring(tree(path))] == []


def test_a_folder_has_few_files() -> None:
    folders = Counter(path.parent for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {name_of(folder): count for folder, count in folders.items() if count > MOST_FILES} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(PACKAGE).parts}
    assert names & FORBIDDEN_NAMES == set()


def test_a_public_class_has_a_name_of_its_own() -> None:
    """So that a name means one thing in the whole package."""
    names = Counter(node.name for path in MODULES for node in tree(path).body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


def _kind_entries() -> Iterator[str]:
    for node in ast.walk(tree(PACKAGE / "kinds.py")):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("rayloom."):
            yield node.value


def test_the_table_of_kinds_names_code() -> None:
    assert len(list(_kind_entries())) > 10


@pytest.mark.parametrize("entry", sorted(set(_kind_entries())))
def test_every_function_that_the_table_of_kinds_names_exists(entry: str) -> None:
    """Read, not imported: the modules behind the table are the heavy ones."""
    module, _, function = entry.partition(":")
    path = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    assert path.is_file(), f"{entry}: there is no {path.relative_to(ROOT)}"
    defined = {node.name for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        alias.asname or alias.name for n in tree(path).body if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert function in defined


def test_the_source_root_holds_no_python_of_its_own() -> None:
    """`platform/__init__.py`, or a test folder named platform, would shadow Python's own module of that name."""
    assert list((ROOT / "platform").glob("*.py")) == []
    assert not any(path.name == "platform" for path in (ROOT / "tests").rglob("*"))


def test_platform_is_still_the_standard_librarys() -> None:
    code = "import platform, rayloom; print(platform.python_implementation(), platform.__file__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith("CPython ")
    assert str(ROOT / "platform") not in said


_NAME_MODULES = """
import json, sys
from rayloom.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def loaded(arguments: list[str], folder: Path) -> set[str]:
    """The modules that a command has loaded at its end."""
    command = [sys.executable, "-c", _NAME_MODULES, *arguments]
    environment = {**os.environ, "RAYLOOM_STORE": str(folder)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


QUICKSTART = ROOT / "jobs" / "quickstart"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", *sorted(str(path) for path in QUICKSTART.glob("*.yaml"))],
        ["schema", "train"],
        ["explain", "train.adapter.rank"],
        ["init"],
        ["init", "--help"],
        ["artifacts", "list"],
    ],
    ids=lambda arguments: arguments[0].strip("-"),
)
def test_light_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert {module.split(".")[0] for module in loaded(arguments, tmp_path)} & set(HEAVY) == set()


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (["check", str(QUICKSTART / "finetune.yaml")], {"train"}),
        (["check", str(QUICKSTART / "import-web.yaml")], {"ingest"}),
        (["explain", "clean.sources"], set()),
    ],
    ids=["check train", "check import", "explain clean"],
)
def test_check_loads_one_kind_explain_none_and_both_nothing_to_draw_with(
    arguments: list[str], kinds: set[str], tmp_path: Path
) -> None:
    modules = loaded(arguments, tmp_path)
    specs = {kind.spec.partition(":")[0].rpartition(".")[2] for kind in KINDS.values()}
    assert {spec for spec in specs if f"rayloom.specs.{spec}" in modules} == kinds
    assert ("pydantic" in modules) == bool(kinds)
    assert {"rich", "asyncio", "multiprocessing", "xml", "http.client"} & modules == set()


def test_help_loads_only_the_table_of_commands(tmp_path: Path) -> None:
    modules = loaded(["--help"], tmp_path)
    assert {"pydantic", "yaml", "rich", "rayloom.kinds", "rayloom.specs", "logging"} & modules == set()


SCRIPTS = sorted(path for folder in ("gpu", "bench", "chaos") for path in (ROOT / "tests" / folder).glob("*.py"))


def test_no_script_beside_the_tests_has_the_name_of_a_package() -> None:
    """Their folders come first where Python looks. transformers imports whatever has the name of a package it can use,
    installed or not, and then every process that imports transformers fails."""
    (source,) = (
        file for file in importlib.metadata.files("transformers") or () if file.match("*/utils/import_utils.py")
    )
    optional = set(re.findall(r'_is_package_available\("(\w+)"', source.read_text()))
    assert "kernels" in optional
    packages = optional | set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert [path.name for path in SCRIPTS if path.stem in packages] == []
