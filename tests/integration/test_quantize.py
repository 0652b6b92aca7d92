"""Quantising, on models of two layers: what is written, how it is measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support.models import VOCABULARY_SIZE, made, write_model
from support.tokenizers import chatml, headers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError, RayloomError, ResourceError
from rayloom.export import model_folder
from rayloom.export.plan import plan_quantize
from rayloom.export.quality.heldout_rows import SampledRows, rows_for
from rayloom.export.quantize import run
from rayloom.export.report import sections
from rayloom.export.schemes.compressed import round_channels
from rayloom.export.schemes.int4 import group_size_for
from rayloom.observe.report_page import page
from rayloom.serve.replicas.capacity import read_shape
from rayloom.specs.export import Int4Scheme, QuantizeSpec
from rayloom.text.packed.shards import ShardWriter, TokenShards
from rayloom.text.tokenizer_files import tokenizer_digest

LENGTH = 64
PLAIN = {"type": "int8", "smoothing": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def model(store: Store) -> Artifact:
    return made(store, "model", "model", write_model)


@pytest.fixture
def trained(store: Store) -> Artifact:
    return made(store, "trained", "adapter", write_rows)


def write_rows(folder: Path, tokenizer: Any = None, num_rows: int = 12) -> None:
    """Held-out rows of random tokens, half of them labels, two documents in a row."""
    random = np.random.default_rng(0)
    digest = tokenizer_digest(tokenizer or chatml())
    writer = ShardWriter(folder / "heldout", VOCABULARY_SIZE, digest, sequence_length_tokens=LENGTH)
    for _ in range(num_rows):
        writer.start_row()
        for size in (40, 20):
            writer.add(random.integers(0, VOCABULARY_SIZE, size), np.arange(size) % 2 == 0)
    writer.close()


def quantize(store: Store, model: Artifact, trained: Artifact, **changes: Any) -> Artifact:
    spec = spec_of(model, trained, **changes)
    return build(ResolvedJob(spec, 1, {"model": model, "rows_of": trained}, Path.cwd()), store, run)[0]


def spec_of(model: Artifact, trained: Artifact, **changes: Any) -> QuantizeSpec:
    values = {
        "kind": "quantize",
        "name": "small",
        "model": f"artifact:{model.id}",
        "rows_of": f"artifact:{trained.id}",
        "scheme": {"type": "int8"},
        "max_engine_difference": None,
    }
    return QuantizeSpec.model_validate(values | changes)


def refusal(store: Store, model: Artifact, trained: Artifact, **changes: Any) -> RayloomError:
    with pytest.raises(RayloomError) as caught:
        quantize(store, model, trained, **changes)
    assert [m.name for m in store.manifests() if m.name == "small"] == []
    return caught.value


# -- rounding ----------------------------------------------------------------------------------------------------------


def test_rounded_weights_are_within_half_a_step_of_the_weights() -> None:
    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 48)[:, None]
    rounded = round_channels(weight, torch.float32)
    steps = rounded.scales.expand_as(weight)
    assert rounded.values.dtype == torch.int8 and rounded.values.abs().max() <= 127
    assert ((rounded.restored() - weight).abs() <= steps * 0.5001).all()
    assert (rounded.values.abs().amax(dim=1) == 127).all()


def test_scales_in_bf16_are_those_that_the_values_were_made_for() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    rounded = round_channels(weight, torch.bfloat16)
    assert rounded.scales.dtype == torch.bfloat16
    # Half a step, and where bf16 made the scale smaller than the largest weight needs, that weight's last half step.
    assert ((rounded.restored() - weight.float()).abs() <= rounded.scales.float() * 0.76).all()


def test_an_output_of_zeros_stays_zero() -> None:
    weight = torch.randn(4, 8)
    weight[2] = 0
    restored = round_channels(weight, torch.bfloat16).restored()
    assert torch.isfinite(restored).all() and (restored[2] == 0).all()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_spread_over_all_of_them(tmp_path: Path) -> None:
    write_rows(tmp_path, num_rows=12)
    rows = TokenShards(tmp_path / "heldout", LENGTH)
    assert SampledRows(rows, 10**6).numbers == list(range(12))
    assert SampledRows(rows, 4 * 60).numbers == [0, 4, 7, 11]
    assert SampledRows(rows, 1).numbers == [0]
    assert SampledRows(rows, 4 * 60).num_tokens == 240


def test_what_calibrates_does_not_measure(store: Store, model: Artifact, trained: Artifact) -> None:
    measured, calibrating = rows_for(spec_of(model, trained), {"model": model, "rows_of": trained})
    assert isinstance(calibrating, SampledRows)
    assert calibrating.numbers == [3, 7, 11] and set(measured.numbers) == set(range(12)) - {3, 7, 11}
    assert rows_for(spec_of(model, trained, scheme=PLAIN), {"rows_of": trained})[1] is None


def test_a_corpus_can_calibrate(store: Store, model: Artifact, trained: Artifact) -> None:
    def write(folder: Path) -> None:
        writer = ShardWriter(folder / "train", VOCABULARY_SIZE, tokenizer_digest(chatml()))
        writer.add(np.random.default_rng(1).integers(0, VOCABULARY_SIZE, 5000))
        writer.close()

    corpus = made(store, "corpus", "corpus", write)
    spec = spec_of(model, trained, calibration={"rows_of": f"artifact:{corpus.id}", "max_tokens": 1500})
    measured, calibrating = rows_for(spec, {"rows_of": trained, "calibration.rows_of": corpus})
    assert len(measured) == 12
    assert calibrating is not None and calibrating.num_tokens == 1024


def test_a_corpus_of_another_tokenizer_is_written_in_the_models_ids(
    store: Store, model: Artifact, trained: Artifact
) -> None:
    theirs, ours = headers(), chatml()
    text = "What is the capital of France?"
    document = [theirs.bos_token_id, *theirs(text, add_special_tokens=False)["input_ids"]]

    def write(folder: Path, num_documents: int) -> None:
        theirs.save_pretrained(folder / "tokenizer")
        writer = ShardWriter(folder / "train", VOCABULARY_SIZE, tokenizer_digest(theirs))
        for _ in range(num_documents):
            writer.add(np.array(document))
        writer.close()

    corpus = made(store, "foreign", "corpus", lambda folder: write(folder, 100))
    spec = spec_of(model, trained, calibration={"rows_of": f"artifact:{corpus.id}", "max_tokens": 512})
    parents = {"model": model, "rows_of": trained, "calibration.rows_of": corpus}
    _, calibrating = rows_for(spec, parents)
    assert calibrating is not None and len(calibrating) == 1
    row, size = calibrating.row(0), len(ours(text)["input_ids"])
    assert ours.decode(row.tokens).startswith(text * (512 // len(document)))
    assert np.flatnonzero(row.positions == 0).tolist() == list(range(0, len(row.tokens), size))
    build(ResolvedJob(spec, 1, parents, Path.cwd()), store, run)
    small = made(store, "small-corpus", "corpus", lambda folder: write(folder, 1))
    with pytest.raises(InputError, match="too small to calibrate on"):
        rows_for(spec, parents | {"calibration.rows_of": small})


def test_a_model_that_was_never_trained_here_is_measured_on_texts_or_conversations(
    store: Store, model: Artifact
) -> None:
    texts = [f"Line {n} about the harbour and {n * n} boats.\n\n" for n in range(300)]
    plain = made(store, "plain", "dataset", lambda folder: (folder / "a.txt").write_text("".join(texts)))
    chat = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in chat)
    talked = made(store, "talked", "dataset", lambda folder: (folder / "a.jsonl").write_text(lines))
    for data in (plain, talked):
        parents = {"model": model, "rows_of": data}
        measured, calibrating = rows_for(spec_of(model, data, max_measured_tokens=2048), parents)
        assert 1024 < measured.num_tokens <= 2048 + 512 and calibrating is not None
        made_of = AutoTokenizer.from_pretrained(model.path).decode(measured.row(0).tokens)
        assert texts[0].strip() in made_of
    # Of a conversation, only the answer is measured.
    row = rows_for(spec_of(model, talked), {"model": model, "rows_of": talked})[0].row(0)
    assert 0.2 < row.trained.mean() < 0.95
    assert quantize(store, model, plain, max_quality_loss=3.0).manifest.metrics["num_layers"] == 14
    odd = made(store, "odd", "dataset", lambda folder: (folder / "a.jsonl").write_text('{"a": 1}\n'))
    with pytest.raises(InputError, match=r"neither a text nor a conversation.*of no known format"):
        rows_for(spec_of(model, odd), {"model": model, "rows_of": odd})


def test_one_heldout_row_cannot_do_both(store: Store, model: Artifact) -> None:
    trained = made(store, "trained", "adapter", lambda folder: write_rows(folder, num_rows=1))
    assert "cannot both calibrate and measure" in str(refusal(store, model, trained))
    assert quantize(store, model, trained, scheme=PLAIN).manifest.metrics["num_layers"] == 14


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_quantised_model_is_int8_in_its_linear_layers_only(
    store: Store, model: Artifact, trained: Artifact
) -> None:
    small = quantize(store, model, trained, scheme=PLAIN)
    before, after = (load_file(artifact.path / "model.safetensors") for artifact in (model, small))
    layers = [name.removesuffix("_scale") for name in after if name.endswith("weight_scale")]
    assert len(layers) == small.manifest.metrics["num_layers"] == 2 * 7
    for name in layers:
        assert after[name].dtype == torch.int8 and after[f"{name}_scale"].shape == (len(before[name]), 1)
        restored = after[name].float() * after[f"{name}_scale"].float()
        assert (restored - before[name].float()).abs().max() <= after[f"{name}_scale"].float().max()
    for name in set(before) - set(layers):
        assert torch.equal(before[name], after[name])


def test_transformers_loads_it_and_computes_nearly_the_same(store: Store, model: Artifact, trained: Artifact) -> None:
    small = quantize(store, model, trained)
    tokens = torch.randint(0, VOCABULARY_SIZE, (2, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = (
            AutoModelForCausalLM.from_pretrained(artifact.path, dtype=torch.bfloat16)(tokens).logits.float()
            for artifact in (model, small)
        )
    assert 0 < (found - expected).abs().mean() < 0.1 * expected.std()
    assert AutoTokenizer.from_pretrained(small.path).chat_template
    QuantizationConfig.model_validate(json.loads((small.path / "config.json").read_text())["quantization_config"])


def test_the_head_gets_a_tensor_of_its_own_where_it_shared_one(
    store: Store, model: Artifact, trained: Artifact
) -> None:
    small = quantize(store, model, trained, scheme={"type": "int8", "head": True})
    before, after = (load_file(artifact.path / "model.safetensors") for artifact in (model, small))
    assert "lm_head.weight" not in before
    assert after["model.embed_tokens.weight"].dtype == torch.bfloat16
    rounded = after["lm_head.weight"].float() * after["lm_head.weight_scale"].float()
    difference = (rounded - before["model.embed_tokens.weight"].float()).abs().amax(dim=1)
    # Half a step, and what a scale in bf16 leaves over of the largest value.
    assert (difference <= 0.51 * after["lm_head.weight_scale"][:, 0].float() * (1 + 127 / 128)).all()
    read_back = AutoModelForCausalLM.from_pretrained(small.path, dtype=torch.bfloat16)
    assert read_back.get_output_embeddings().weight is not read_back.get_input_embeddings().weight
    assert small.manifest.metrics["perplexity_ratio"] == pytest.approx(1.0, abs=0.05)


def test_sizes_and_quality_are_measured(store: Store, model: Artifact, trained: Artifact) -> None:
    small = quantize(store, model, trained, scheme=PLAIN)
    metrics = small.manifest.metrics
    assert metrics["linear_bytes"]["share"] == pytest.approx(0.5 + 1 / 64, abs=0.01)
    assert metrics["file_bytes"]["after"] == (small.path / "model.safetensors").stat().st_size
    assert metrics["before"]["num_tokens"] == 12 * (19 + 9)
    assert metrics["perplexity_ratio"] == pytest.approx(1.0, abs=0.05) and metrics["perplexity_ratio"] != 1.0
    assert metrics["answers"]["num_answers"] == 4
    assert 0 <= metrics["answers"]["same_answers_share"] <= 1
    assert 0 < metrics["answers"]["same_tokens_share"] <= 1
    assert "of bf16's size" in small.manifest.headline


def with_outlier(folder: Path) -> None:
    """One huge channel behind each norm, which no weight reads: by channel, weights are as exact as ever."""
    write_model(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor[5] = 3000.0
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            tensor[:, 5] = 0
    save_file(tensors, file, metadata={"format": "pt"})


def test_what_is_measured_has_quantised_activations(store: Store, trained: Artifact) -> None:
    """The outlier leaves the other channels of an activation no steps; a measurement without that would not see it."""
    model = made(store, "outlier", "model", with_outlier)
    error = refusal(store, model, trained, scheme=PLAIN)
    assert isinstance(error, QualityError) and "too much worse" in str(error)


def test_smoothing_takes_outliers_out_of_activations(store: Store, trained: Artifact) -> None:
    small = quantize(store, made(store, "outlier", "model", with_outlier), trained)
    assert small.manifest.metrics["perplexity_ratio"] == pytest.approx(1.0, abs=0.02)


def test_static_ranges_are_stored_and_measured(store: Store, model: Artifact, trained: Artifact) -> None:
    static = quantize(store, model, trained, scheme={"type": "int8", "activations": "static"})
    scales = [t for name, t in load_file(static.path / "model.safetensors").items() if name.endswith("input_scale")]
    assert len(scales) == 14 and all(float(scale) > 0 for scale in scales)
    inputs = json.loads((static.path / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert (inputs["input_activations"]["strategy"], inputs["input_activations"]["dynamic"]) == ("tensor", False)
    assert static.manifest.metrics["perplexity_ratio"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_int4_is_packed_and_loads(store: Store, model: Artifact, trained: Artifact, rounding: str) -> None:
    scheme = {"type": "int4", "rounding": rounding, "group_size": 32}
    small = quantize(store, model, trained, scheme=scheme)
    before, after = (load_file(artifact.path / "model.safetensors") for artifact in (model, small))
    layers = [name.removesuffix("_packed") for name in after if name.endswith("weight_packed")]
    loaded = AutoModelForCausalLM.from_pretrained(small.path, dtype=torch.bfloat16)
    with torch.no_grad():
        loaded(torch.tensor([[1, 2, 3]]))  # the first pass unpacks
    assert len(layers) == 14
    for name in layers:
        outputs, inputs = before[name].shape
        assert after[f"{name}_packed"].shape == (outputs, inputs // 8)
        assert after[f"{name}_scale"].shape == (outputs, inputs // 32)
        found = loaded.get_submodule(name.removesuffix(".weight")).weight.float()
        assert (found - before[name].float()).norm() < 0.2 * before[name].float().norm()
    assert small.manifest.metrics["linear_bytes"]["share"] < 0.30
    assert small.manifest.metrics["perplexity_ratio"] < 1.25


@pytest.mark.parametrize(("scheme", "share"), [("fp8", 0.52), ("nf4", 0.45)])
def test_fp8_and_nf4_are_written_measured_and_load(
    store: Store, model: Artifact, trained: Artifact, scheme: str, share: float
) -> None:
    small = quantize(store, model, trained, scheme={"type": scheme})
    metrics = small.manifest.metrics
    assert metrics["num_layers"] == 14
    assert metrics["linear_bytes"]["share"] < share
    assert metrics["perplexity_ratio"] == pytest.approx(1.0, abs=0.1) and metrics["perplexity_ratio"] != 1.0
    tokens = torch.randint(0, VOCABULARY_SIZE, (2, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = (
            AutoModelForCausalLM.from_pretrained(artifact.path, dtype=torch.bfloat16)(tokens).logits.float()
            for artifact in (model, small)
        )
    assert 0 < (found - expected).abs().mean() < 0.3 * expected.std()
    assert AutoTokenizer.from_pretrained(small.path).chat_template
    assert read_shape(small.path).quantization == ("bitsandbytes" if scheme == "nf4" else "compressed-tensors")


def test_speed_is_measured_by_the_server_only() -> None:
    with pytest.raises(ValidationError, match="no loader for nf4"):
        QuantizeSpec.model_validate(
            {"kind": "quantize", "name": "a", "model": "artifact:a", "rows_of": "artifact:b", "scheme": {"type": "nf4"}}
            | {"speed": {}}
        )


def test_groups_are_chosen_so_that_they_divide() -> None:
    free = Int4Scheme(type="int4")
    assert group_size_for(free, [(576, 576), (1536, 576), (576, 1536)]) == 64
    assert group_size_for(free, [(4096, 4096), (4096, 11008)]) == 128
    with pytest.raises(InputError, match="use one of \\[64, 32\\]"):
        group_size_for(Int4Scheme(type="int4", group_size=128), [(576, 576)])
    with pytest.raises(InputError, match="sides of \\[100\\]"):
        group_size_for(free, [(64, 100)])


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_quantised_model_is_refused(store: Store, model: Artifact, trained: Artifact) -> None:
    small = quantize(store, model, trained, name="first")
    error = refusal(store, small, trained)
    assert isinstance(error, InputError) and "is quantised already (compressed-tensors)" in str(error)
    assert plan_quantize(spec_of(small, trained), {"model": small, "rows_of": trained}, Path()).problems


def test_rows_of_another_tokenizer_are_refused(store: Store, model: Artifact) -> None:
    trained = made(store, "trained", "adapter", lambda folder: write_rows(folder, headers()))
    assert "another tokenizer" in str(refusal(store, model, trained))


def test_an_artifact_without_heldout_rows_is_refused(store: Store, model: Artifact) -> None:
    assert "has no held-out rows" in str(refusal(store, model, model))
    problems = plan_quantize(spec_of(model, model), {"model": model, "rows_of": model}, Path()).problems
    assert "has no held-out rows" in problems[0]


def test_empty_heldout_rows_are_refused(store: Store, model: Artifact) -> None:
    trained = made(store, "trained", "adapter", lambda folder: write_rows(folder, num_rows=0))
    assert "are empty" in str(refusal(store, model, trained))


def test_a_folder_that_is_no_model_is_refused(store: Store, trained: Artifact) -> None:
    empty = made(store, "hollow", "model", lambda folder: (folder / "notes.txt").write_text("hello"))
    assert "it has no config.json" in str(refusal(store, empty, trained))


def test_an_encoder_is_refused_by_name(store: Store, trained: Artifact) -> None:
    def write(folder: Path) -> None:
        config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        BertModel(config).save_pretrained(folder)

    encoder = made(store, "encoder", "model", write)
    assert "is a BertModel" in str(refusal(store, encoder, trained))


def test_damaged_weights_are_refused(store: Store, trained: Artifact) -> None:
    def write(folder: Path) -> None:
        write_model(folder)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:3])

    damaged = made(store, "damaged", "model", write)
    assert "weight file is damaged" in str(refusal(store, damaged, trained))


def test_too_little_memory_is_said_before_anything_is_loaded(
    store: Store, model: Artifact, trained: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "available_bytes", lambda: 1000)
    assert isinstance(refusal(store, model, trained), ResourceError)


# -- the plan and the report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme",
    [
        PLAIN,
        {"type": "int8", "activations": "static"},
        {"type": "int8", "head": True},
        {"type": "int4"},
        {"type": "fp8"},
        {"type": "nf4"},
    ],
)
def test_the_plan_foretells_the_size(store: Store, model: Artifact, trained: Artifact, scheme: dict[str, Any]) -> None:
    spec = spec_of(model, trained, scheme=scheme)
    sheet = plan_quantize(spec, {"model": model, "rows_of": trained}, Path())
    small = quantize(store, model, trained, scheme=scheme)
    foretold = dict(sheet.facts)["linear layers"]
    metrics = small.manifest.metrics["linear_bytes"]
    assert sheet.problems == []
    assert foretold == f"{metrics['before'] / 1e6:,.1f} MB in bf16, {metrics['after'] / 1e6:,.1f} MB after"


def test_the_report_shows_size_and_quality(store: Store, model: Artifact, trained: Artifact) -> None:
    small = quantize(store, model, trained)
    text = page("small", "", sections(small))
    assert f"{small.manifest.metrics['after']['perplexity']:,.4g}" in text
    assert "quantised linear layers" in text


def write_mixture(folder: Path) -> None:
    """Four experts, of which each token has two; heads as large as vLLM's attention on CPUs wants them."""
    torch.manual_seed(3)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY_SIZE, hidden_size=64, intermediate_size=128, moe_intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_experts=4,
        num_experts_per_tok=2, initializer_range=0.1, max_position_embeddings=256,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    chatml().save_pretrained(folder)


@pytest.mark.full
@pytest.mark.parametrize("scheme", [PLAIN, {"type": "int4"}], ids=["int8", "int4"])
def test_a_quantised_mixture_is_served_as_transformers_reads_it(
    store: Store, trained: Artifact, scheme: dict[str, Any]
) -> None:
    """Experts that the engine did not find, and filled with zeros, were 0.4 nats."""
    mixture = made(store, "mixture", "model", write_mixture)
    small = quantize(store, mixture, trained, scheme=scheme, max_engine_difference=0.05, max_quality_loss=2.0)
    assert small.manifest.metrics["engine_difference"]["mean_nats"] < 0.05
