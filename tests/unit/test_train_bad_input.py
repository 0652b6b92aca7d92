"""What a person gets wrong about a training job, found by `check` or `plan` before anything is spent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import ValidationError
from support.models import made, write_model
from support.tokenizers import chatml
from support.training_jobs import small_spec, write_rows, write_tokenizer

from rayloom.artifacts.manifest import WORK_NAME
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import SpecError
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.files.load import load
from rayloom.specs.train import TrainSpec
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.loop.checkpoints import MANIFEST_NAME as CHECKPOINT
from rayloom.train.plan import plan
from rayloom.train.settings import note
from rayloom.train.sizes.disk import disk_bytes
from rayloom.train.sizes.model_size import size_of_architecture

BASE = {"architecture": None, "base": "artifact:base"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequence_length_tokens": 64, "global_batch_tokens": 256}, r"more than architecture.max_positions \(32\)"),
        ({"global_batch_tokens": 100}, r"must be a multiple of 32 .*: try 96 or 128"),
        ({"workers": {"num_workers": 4}}, r"must be a multiple of 128 .*: try 128"),
        (
            {**BASE, "adapter": {"type": "lora", "quantised_base": "nf4"}, "sharding": {"zero_stage": 3}},
            "adapter.quantised_base cannot be sharded, and its adapter is small: use zero_stage 0",
        ),
        (
            {"sharding": {"zero_stage": 1, "extra": {"tensor_parallel": {"autotp_size": 2}}}},
            "not covered here: tensor_parallel; use pipeline, tensor, context, expert or zero_stage instead",
        ),
        ({"trackers": [{"type": "wandb", "mode": "quiet"}]}, "offline"),
        ({"trackers": [{"type": "mlflow", "uri": "runs"}]}, "uri"),
    ],
)
def test_check_refuses_what_the_file_alone_shows(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**changes)


class Planner(NamedTuple):
    """A store with a small base and a corpus in its tokens, and one in others."""

    store: Store
    parents: dict[str, Artifact]
    other_corpus: Artifact
    folder: Path

    def __call__(self, spec: TrainSpec, **parents: Artifact) -> PlanSheet:
        return plan(spec, self.parents | parents, self.folder)


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    store = Store(str(tmp_path / "store"))
    monkeypatch.setenv("RAYLOOM_STORE", store.root)

    def corpus(folder: Path) -> None:
        chatml().save_pretrained(folder / "tokenizer")
        for name, number in (("train", 60), ("heldout", 8)):
            write_rows(folder / name, number, seed=number, digest=tokenizer_digest(chatml()))

    def other(folder: Path) -> None:
        write_tokenizer(folder / "tokenizer")
        for name, number in (("train", 60), ("heldout", 8)):
            write_rows(folder / name, number, seed=number, digest="other")

    parents = {
        "base": made(store, "base", "model", lambda folder: write_model(folder, max_position_embeddings=16)),
        "data.corpus": made(store, "made-up", "corpus", corpus),
    }
    return Planner(store, parents, made(store, "other", "corpus", other), tmp_path)


def test_a_plan_without_problems(planner: Planner) -> None:
    sheet = planner(small_spec(**BASE))
    assert sheet.problems == []
    assert dict(sheet.facts)["disk"].endswith("at most while it runs")


def test_advice_on_a_shape_is_for_models_that_are_not_made_yet(planner: Planner) -> None:
    def told(sheet: PlanSheet) -> list[str]:
        return [line for line in sheet.warnings if "change num_heads" in line or "multiple of 64" in line]

    assert told(planner(small_spec()))
    assert not told(planner(small_spec(**BASE)))


def test_shards_of_another_tokenizer_are_found(planner: Planner) -> None:
    parents = {"data.corpus": planner.other_corpus}
    (said,) = plan(small_spec(**BASE), planner.parents | parents, planner.folder).problems
    assert "made with another tokenizer than the model's" in said
    assert "Make the corpus with tokenizer: {type: model, model: …} naming the base" in said


def test_rows_longer_than_the_bases_positions_are_found(planner: Planner) -> None:
    (said,) = planner(small_spec(**BASE, sequence_length_tokens=32)).problems
    assert "sequence_length_tokens is 32, but the base has 16 positions" in said
    assert "Give at most 16." in said


def test_a_disk_without_room_is_found(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(checkpoints={"keep": 3})
    usage = shutil.disk_usage(planner.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (said,) = planner(spec).problems
    assert "3 checkpoints of" in said
    assert "0.0 GB are free" in said
    assert "set checkpoints.keep: 1, or name another store with RAYLOOM_STORE" in said
    # A fleet has other disks.
    on_fleet = small_spec(hardware="2xH100-80GB", workers={"num_workers": 2, "gpus_per_worker": 1}, precision="bf16")
    assert not [problem for problem in planner(on_fleet).problems if "disk" in problem]


def test_disk_by_hand() -> None:
    spec = small_spec(checkpoints={"keep": 2})
    assert spec.architecture is not None
    size = size_of_architecture(spec.architecture, 128)
    # Two that are kept and the one being written: weight and two moments in fp32. The result in fp32.
    assert disk_bytes(spec, size) == 3 * 12 * size.parameters + 4 * size.parameters


def test_an_unfinished_run_with_other_settings_is_named(planner: Planner) -> None:
    work = planner.store.building_directory("small", "0123456789ab") / WORK_NAME
    checkpoint = work / "checkpoints" / "step-00000008"
    checkpoint.mkdir(parents=True)
    note(small_spec(), work)
    assert planner(small_spec()).warnings == planner(small_spec(num_steps=12)).warnings
    (checkpoint / CHECKPOINT).touch()
    changed = small_spec(learning_rate=0.02, checkpoints={"every_steps": 2})
    (said,) = [line for line in planner(changed).warnings if "unfinished" in line]
    assert "small@0123456789ab is unfinished at step 8" in said
    assert "(checkpoints.every_steps: 4 there, 2 here; learning_rate: 0.01 there, 0.02 here)" in said
    assert not [line for line in planner(small_spec()).warnings if "unfinished" in line]


def test_a_wrong_tracker_is_told_which_there_are(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    plain = small_spec().model_dump(mode="json", exclude_none=True) | {"trackers": [{"type": "wand"}]}
    file.write_text(yaml.safe_dump(plain))
    with pytest.raises(SpecError, match=r"trackers\.0\.type: must be tensorboard, mlflow or wandb; did you mean wandb"):
        load(file, {"train": TrainSpec}, [])
