"""Weight files written tensor by tensor: the same bytes as safetensors writes, cut into files where they are large."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayloom.errors import InputError
from rayloom.export.shard_writer import WeightShardWriter, copy_tensors, tensors_of
from rayloom.models.weight_files import stored_tensors

TENSORS = {
    "b.weight": torch.arange(15, dtype=torch.int8).reshape(3, 5),
    "a.scale": torch.linspace(0, 1, 6).to(torch.bfloat16).reshape(2, 3),
    "c.weight": torch.randn(4, 2),
    "one": torch.tensor(7),
    "eight": torch.linspace(-2, 2, 8).to(torch.float8_e4m3fn),
}


def written(folder: Path, shard_bytes: int) -> Path:
    folder.mkdir()
    writer = WeightShardWriter(folder, shard_bytes)
    for name, tensor in TENSORS.items():
        writer.add(name, tensor)
    writer.close()
    return folder


def test_one_file_has_the_tensors_that_were_added(tmp_path: Path) -> None:
    folder = written(tmp_path / "one", 1 << 20)
    assert [file.name for file in folder.iterdir()] == ["model.safetensors"]
    read = load_file(folder / "model.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (folder / "model.safetensors").stat().st_size == (tmp_path / "theirs.safetensors").stat().st_size


def test_large_models_are_several_files_with_an_index(tmp_path: Path) -> None:
    folder = written(tmp_path / "several", 30)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)


def test_a_copy_leaves_out_what_is_replaced_and_rounds_the_rest(tmp_path: Path) -> None:
    source, target = written(tmp_path / "source", 30), tmp_path / "target"
    target.mkdir()
    writer = WeightShardWriter(target)
    copy_tensors(source, writer, {"one"}, lambda _: torch.bfloat16)
    writer.close()
    copied = dict(tensors_of(target))
    assert copied.keys() == TENSORS.keys() - {"one"}
    assert copied["c.weight"].dtype == torch.bfloat16
    assert copied["b.weight"].dtype == torch.int8


@pytest.mark.parametrize("kept_bytes", [0, 5, 60, -1])
def test_a_damaged_weight_file_is_refused_by_its_header(tmp_path: Path, kept_bytes: int) -> None:
    file = written(tmp_path / "cut", 1 << 20) / "model.safetensors"
    assert {name: tensor.num_bytes for name, tensor in stored_tensors(file.parent).items()} == {
        name: tensor.nbytes for name, tensor in TENSORS.items()
    }
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match="The weight file is damaged") as raised:
        stored_tensors(file.parent)
    assert raised.value.where == str(file)
