"""What a process loads when it starts: no library that it does not use, and Ray once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray._private.workers as workers

from rayloom.observe import ray_setup_worker

RAYS = Path(workers.__path__[0]) / "setup_worker.py"
PROBE = """
import json, os, sys
print(json.dumps([sys.argv, sys.flags.no_user_site, {n: os.environ.get(n) for n in ("PLAIN", "PATHS", "GONE")}]))
"""
VARIABLES = {"PLAIN": "a 'quoted' $5 word", "PATHS": "/first:${HOME}", "GONE": "x${NOT_SET_ANYWHERE}y"}


def started(script: Path, folder: Path, *flags: str, **context: Any) -> list[Any]:
    worker = folder / "default_worker.py"
    worker.write_text(PROBE)
    described = json.dumps({"command_prefix": [], "py_executable": sys.executable, "java_jars": []} | context)
    command = [sys.executable, str(script), *flags, str(worker), "--port=1", "--name=a b", "--language=PYTHON"]
    command += [f"--serialized-runtime-env-context={described}", "--last"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("flags", [(), ("-s",)], ids=["plain", "without user site"])
def test_a_worker_gets_what_rays_script_gives_it(flags: tuple[str, ...], tmp_path: Path) -> None:
    ours = started(Path(ray_setup_worker.__file__), tmp_path, *flags, env_vars=VARIABLES)
    assert ours == started(RAYS, tmp_path, *flags, env_vars=VARIABLES)
    assert ours[0][1:] == ["--port=1", "--name=a b", "--last"]
    assert ours[2]["GONE"] == "xy"


def test_an_environment_of_more_than_variables_is_left_to_rays_script(tmp_path: Path) -> None:
    (tmp_path / "setup_worker.py").write_text("import sys; print('[\"ray was asked\"]')")
    ours = Path(ray_setup_worker.__file__)
    for more in ({"command_prefix": ["conda activate x &&"]}, {"py_executable": "uv run python"}):
        assert started(ours, tmp_path, **more) == ["ray was asked"]


_NAME_MODULES_OF_A_WORKER = """
import json, sys
import torch
from rayloom.specs.training.architectures import DecoderArchitecture
from rayloom.train.engines.engine import zero_engine
from rayloom.train.engines.plain import PlainEngine
from rayloom.train.loop.loop import train
from rayloom.train.ray_worker import train_in_worker
from rayloom.train.weights.architectures import config_of, model_of
with torch.device("meta"):
    model_of(config_of(DecoderArchitecture(type="decoder", num_layers=1, hidden_size=16, num_heads=2), 67))
plain = sorted(sys.modules)
zero_engine()
print(json.dumps([plain, sorted(sys.modules)]))
"""


def test_a_worker_that_trains_a_decoder_loads_no_library_that_it_does_not_use() -> None:
    command = [sys.executable, "-c", _NAME_MODULES_OF_A_WORKER]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    plain, with_zero = (set(names) for names in json.loads(said.splitlines()[-1]))
    assert {"torch", "ray.train", "transformers.models.llama.modeling_llama"} <= plain
    assert {"sklearn", "scipy", "deepspeed", "peft", "bitsandbytes", "datasets", "vllm", "matplotlib"} & plain == set()
    assert "rayloom.train.run" not in plain
    assert "deepspeed" in with_zero
    assert {"sklearn", "scipy", "peft", "mlflow", "polars", "fastapi"} & with_zero == set()
