"""Merging, on models of two layers: what comes out, and every adapter or base that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support.models import made, tiny_llama, write_adapter, write_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError, RayloomError, ResourceError
from rayloom.export import model_folder
from rayloom.export.layerwise import merge_layer
from rayloom.export.merge import run
from rayloom.export.plan import plan_merge
from rayloom.export.report import sections
from rayloom.observe.report_page import page
from rayloom.score.agreement import compare, logits_of
from rayloom.specs.export import MergeSpec

ROWS = [[3, 17, 88, 200, 41, 9], [250, 7, 7, 61]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    return Store(str(tmp_path / "store"))


@pytest.fixture
def base(store: Store) -> Artifact:
    return made(store, "base", "model", write_model)


def adapter_of(store: Store, base: Artifact, **settings: Any) -> Artifact:
    return made(store, "tuned", "adapter", lambda f: write_adapter(f, base.path, **settings), {"base": base})


def merge(store: Store, adapter: Artifact, base: Artifact | None = None, **changes: Any) -> Artifact:
    named = {"base": f"artifact:{base.id}"} if base else {}
    values = {"kind": "merge", "name": "merged", "adapter": f"artifact:{adapter.id}"} | named | changes
    parents = {"adapter": adapter} | ({"base": base} if base else {})
    job = ResolvedJob(MergeSpec.model_validate(values), 1, parents, Path.cwd())
    return build(job, store, run)[0]


def refusal(store: Store, adapter: Artifact, base: Artifact | None = None, **changes: Any) -> RayloomError:
    with pytest.raises(RayloomError) as caught:
        merge(store, adapter, base, **changes)
    assert [m.name for m in store.manifests() if m.name == "merged"] == []
    return caught.value


def spoil(store: Store, base: Artifact, change: Any) -> Artifact:
    """An adapter whose tensors were changed by `change(name, tensor)` after training."""

    def write(folder: Path) -> None:
        write_adapter(folder, base.path)
        file = folder / "adapter_model.safetensors"
        save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file)

    return made(store, "tuned", "adapter", write, {"base": base})


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        None,
        LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"),
        LoraConfig(r=4, use_rslora=True, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["lora", "dora", "rslora", "ia3"],
)
def test_the_merged_model_is_base_and_adapter(store: Store, base: Artifact, config: Any) -> None:
    adapter = adapter_of(store, base, config=config)
    merged = merge(store, adapter)
    plain = LlamaForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    expected = logits_of(PeftModel.from_pretrained(plain, str(adapter.path)).eval(), ROWS)
    found = logits_of(AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32), ROWS)
    metrics = merged.manifest.metrics
    assert compare(expected, found).max_logit_difference < 0.05 * metrics["effect_of_adapter"]["max_logit_difference"]
    assert metrics["merged_against_adapter"]["max_logit_difference"] <= 1e-3
    assert metrics["saved_against_adapter"]["max_logit_difference"] > 0.0
    assert {tensor.dtype for tensor in load_file(merged.path / "model.safetensors").values()} == {torch.bfloat16}


def combined(store: Store, base: Artifact, combine: dict[str, Any], **second: Any) -> Artifact:
    first = adapter_of(store, base)
    other = made(
        store, "other", "adapter", lambda f: write_adapter(f, base.path, **({"seed": 1} | second)), {"base": base}
    )
    combine = {**combine, "others": [{"adapter": f"artifact:{other.id}", "weight": 0.5}]}
    values = {"kind": "merge", "name": "merged", "adapter": f"artifact:{first.id}", "combine": combine}
    parents = {"adapter": first, "combine.others.0.adapter": other}
    return build(ResolvedJob(MergeSpec.model_validate(values), 1, parents, Path.cwd()), store, run)[0]


def update_of(model: Path, base: Artifact) -> torch.Tensor:
    """What a merged model's weights have more than the base's, as one row of numbers."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base.path, model))
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(after)])


def test_a_sum_of_adapters_is_the_weighted_sum_of_their_updates(store: Store, base: Artifact) -> None:
    """Also of adapters of two ranks, and with the factor of rank-stabilised LoRA."""
    config = LoraConfig(r=8, lora_alpha=4, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    together = update_of(combined(store, base, {"method": "sum", "weight": 2.0}, config=config).path, base)
    alone = [update_of(merge(store, store.open(store.resolve(name)), base).path, base) for name in ("tuned", "other")]
    expected = 2.0 * alone[0] + 0.5 * alone[1]
    assert float((together - expected).norm() / expected.norm()) < 0.05  # three times rounded to bf16


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_adapters_are_combined_as_peft_does(store: Store, base: Artifact, method: str) -> None:
    density = {} if method == "linear" else {"density": 0.5}
    metrics = combined(store, base, {"method": method, **density}).manifest.metrics
    assert metrics["combined"]["method"] == method
    assert metrics["merged_against_adapter"]["max_logit_difference"] <= 1e-3
    assert metrics["effect_of_adapter"]["max_logit_difference"] > 0


def test_ranks_that_differ_go_together_only_as_a_sum(store: Store, base: Artifact) -> None:
    other_rank = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(InputError, match="sum"):
        combined(store, base, {"method": "linear"}, config=other_rank)


def test_what_is_no_plain_lora_is_not_combined(store: Store, base: Artifact) -> None:
    with pytest.raises(InputError, match="plain LoRA"):
        combined(
            store, base, {}, config=IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
        )


def test_an_adapter_of_another_base_is_not_combined(store: Store, base: Artifact) -> None:
    stranger = made(store, "stranger", "model", lambda f: write_model(f, seed=5))
    foreign = made(store, "other", "adapter", lambda f: write_adapter(f, stranger.path), {"base": stranger})
    combine = {"others": [{"adapter": f"artifact:{foreign.id}"}]}
    first = adapter_of(store, base)
    values = {"kind": "merge", "name": "merged", "adapter": f"artifact:{first.id}", "combine": combine}
    parents = {"adapter": first, "combine.others.0.adapter": foreign}
    with pytest.raises(InputError, match="trained on"):
        build(ResolvedJob(MergeSpec.model_validate(values), 1, parents, Path.cwd()), store, run)


@pytest.mark.parametrize("change", [{"method": "ties"}, {"method": "sum", "density": 0.5}])
def test_density_is_for_methods_that_prune(change: dict[str, Any]) -> None:
    combine = {**change, "others": [{"adapter": "artifact:b"}]}
    with pytest.raises(ValidationError, match="density"):
        MergeSpec.model_validate({"kind": "merge", "name": "m", "adapter": "artifact:a", "combine": combine})


def test_an_adapter_of_a_quantised_base_is_compared_with_what_it_was_trained_on(store: Store, base: Artifact) -> None:
    trained = {"adapter": {"type": "lora", "quantised_base": "nf4"}}
    adapter = made(store, "tuned", "adapter", lambda f: write_adapter(f, base.path), {"base": base}, **trained)
    merged = merge(store, adapter)
    there = merged.manifest.metrics["trained_on"]
    assert there["base"] == "nf4"
    assert 0 < there["agreement"]["max_logit_difference"] < 10
    assert "as trained" in page("merged", "", sections(merged))


def test_tokenizer_template_and_generation_defaults_come_along(store: Store, base: Artifact) -> None:
    merged = merge(store, adapter_of(store, base))
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (merged.path / name).read_bytes() == (base.path / name).read_bytes()
    assert AutoTokenizer.from_pretrained(merged.path).chat_template
    assert json.loads((merged.path / "generation_config.json").read_text())["temperature"] == 0.7
    assert not list(merged.path.glob("adapter_*"))
    assert merged.manifest.licences == ("CC0-1.0",)


def test_the_adapters_own_chat_template_wins(store: Store, base: Artifact) -> None:
    def write(folder: Path) -> None:
        write_adapter(folder, base.path)
        text = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text("{# ours #}" + text)

    merged = merge(store, made(store, "tuned", "adapter", write, {"base": base}))
    assert (merged.path / "chat_template.jinja").read_text().startswith("{# ours #}")


def test_a_base_without_chat_template_is_compared_on_plain_text(store: Store) -> None:
    def without_template(folder: Path) -> None:
        for file in (folder / "chat_template.jinja",):
            file.unlink()

    def write(folder: Path) -> None:
        write_model(folder)
        without_template(folder)

    base = made(store, "plain", "model", write)

    def write_tuned(folder: Path) -> None:
        write_adapter(folder, base.path)
        without_template(folder)

    merged = merge(store, made(store, "tuned", "adapter", write_tuned, {"base": base}))
    assert merged.manifest.metrics["merged_against_adapter"]["num_positions"] > 4


def test_a_base_made_again_with_equal_weights_is_found(store: Store, base: Artifact) -> None:
    adapter = adapter_of(store, base)
    again = made(store, "base", "model", write_model, sequence_length_tokens=65)
    assert again.manifest.digest == base.manifest.digest and again.id != base.id
    store.remove("base", base.manifest.version)
    assert merge(store, adapter).manifest.metrics["base"] == again.id
    assert merge(store, adapter, again).manifest.metrics["base"] == again.id


def test_fp16_is_written_where_asked_for(store: Store, base: Artifact) -> None:
    merged = merge(store, adapter_of(store, base), save_precision="fp16")
    assert {tensor.dtype for tensor in load_file(merged.path / "model.safetensors").values()} == {torch.float16}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_another_base_is_refused(store: Store, base: Artifact) -> None:
    other = made(store, "other", "model", lambda folder: write_model(folder, seed=1))
    error = refusal(store, adapter_of(store, base), other)
    assert isinstance(error, InputError)
    assert f"trained on {base.id}, and {other.id} has other weights" in str(error)


def test_a_base_that_is_gone_is_named(store: Store, base: Artifact) -> None:
    adapter = adapter_of(store, base)
    store.remove("base", base.manifest.version)
    assert f"{base.id}, is no longer in the store" in str(refusal(store, adapter))


def test_an_adapter_that_names_no_base_needs_one(store: Store, base: Artifact) -> None:
    adapter = made(store, "tuned", "adapter", lambda folder: write_adapter(folder, base.path))
    assert "does not say which model it was trained on" in str(refusal(store, adapter))
    assert merge(store, adapter, base).manifest.metrics["base"] == base.id


def test_a_quantised_base_is_refused(store: Store, tmp_path: Path) -> None:
    write_model(tmp_path / "plain")

    def write(folder: Path) -> None:
        write_model(folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (folder / "config.json").write_text(json.dumps(config))

    base = made(store, "base", "model", write)
    adapter = made(store, "tuned", "adapter", lambda f: write_adapter(f, tmp_path / "plain"), {"base": base})
    error = refusal(store, adapter)
    assert isinstance(error, InputError) and "is quantised (bitsandbytes)" in str(error)
    assert any("is quantised" in text for text in plan_merge(_spec(adapter), {"adapter": adapter}, Path()).problems)


def _spec(adapter: Artifact) -> MergeSpec:
    return MergeSpec.model_validate({"kind": "merge", "name": "merged", "adapter": f"artifact:{adapter.id}"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, tensor: tensor * (0 if "lora_B" in name else 1), "Every update of this adapter is zero"),
        (lambda name, tensor: tensor * (float("nan") if "layers.1" in name else 1), "not finite"),
        (lambda name, tensor: tensor[:0] if "lora_B" in name else tensor, "saved without its values"),
        (lambda name, tensor: tensor[:, :2].contiguous() if "lora_A" in name else tensor, "does not fit this base"),
    ],
    ids=["zero", "nan", "empty", "shape"],
)
def test_a_spoilt_adapter_is_refused(store: Store, base: Artifact, change: Any, said: str) -> None:
    error = refusal(store, spoil(store, base, change))
    assert isinstance(error, InputError)
    assert said in str(error)


def test_tensors_of_other_modules_are_refused(store: Store, base: Artifact) -> None:
    def write(folder: Path) -> None:
        write_adapter(folder, base.path)
        file = folder / "adapter_model.safetensors"
        save_file({name.replace("self_attn", "attention"): t for name, t in load_file(file).items()}, file)

    adapter = made(store, "tuned", "adapter", write, {"base": base})
    assert "tensors of this adapter" in str(refusal(store, adapter))


def test_a_prompt_method_is_refused_by_name(store: Store, base: Artifact) -> None:
    prefix = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    adapter = adapter_of(store, base, config=prefix)
    error = refusal(store, adapter)
    assert "PREFIX_TUNING" in str(error) and "beside its base" in str(error)
    assert plan_merge(_spec(adapter), {"adapter": adapter}, Path()).problems


def test_what_is_no_adapter_is_refused(store: Store, base: Artifact) -> None:
    empty = made(store, "tuned", "adapter", lambda folder: (folder / "notes.txt").write_text("hello"), {"base": base})
    assert "it has no adapter_config.json" in str(refusal(store, empty))


def test_a_base_that_is_no_model_is_refused(store: Store, base: Artifact) -> None:
    empty = made(store, "hollow", "model", lambda folder: (folder / "notes.txt").write_text("hello"))
    adapter = made(store, "tuned", "adapter", lambda folder: write_adapter(folder, base.path), {"base": empty})
    assert "it has no config.json" in str(refusal(store, adapter))


def test_a_difference_past_the_limit_fails_and_publishes_nothing(store: Store, base: Artifact) -> None:
    error = refusal(store, adapter_of(store, base), max_logit_difference=1e-12)
    assert isinstance(error, QualityError) and "logits differ by" in str(error)


def test_weights_too_large_for_fp16_fail(store: Store) -> None:
    def write(folder: Path) -> None:
        write_model(folder)
        file = folder / "model.safetensors"
        tensors = load_file(file)
        # RMS norm divides by the size of its input, so only the weights are large, not what is computed from them.
        tensors["model.embed_tokens.weight"] *= 1e6
        save_file(tensors, file, metadata={"format": "pt"})

    base = made(store, "large", "model", write)
    error = refusal(store, adapter_of(store, base), save_precision="fp16", max_logit_difference=1e6)
    assert isinstance(error, QualityError) and "do not fit into fp16" in str(error)


def test_too_little_memory_is_said_before_anything_is_loaded(
    store: Store, base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(store, base)
    monkeypatch.setattr(model_folder, "available_bytes", lambda: 1000)
    error = refusal(store, adapter)
    assert isinstance(error, ResourceError) and "of memory" in str(error)


# -- the plan and the report -------------------------------------------------------------------------------------------


def test_the_plan_names_adapter_and_base(store: Store, base: Artifact) -> None:
    adapter = adapter_of(store, base)
    sheet = plan_merge(_spec(adapter), {"adapter": adapter}, Path())
    facts = dict(sheet.facts)
    assert sheet.problems == []
    assert facts["base"] == base.id
    assert facts["adapter"].startswith(f"{adapter.id}: LORA of rank 4")
    assert facts["parameters"] == f"{tiny_llama().num_parameters():,}"


def test_the_report_shows_what_each_step_changed(store: Store, base: Artifact) -> None:
    merged = merge(store, adapter_of(store, base))
    text = page("merged", "", sections(merged))
    assert base.id in text and "what merging changes, in fp32" in text
    assert f"{merged.manifest.metrics['effect_of_adapter']['max_logit_difference']:,.4g}" in text


def test_a_layer_that_peft_does_not_merge_is_refused_and_a_defect_is_not_called_so() -> None:
    settings = LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    with pytest.warns(UserWarning, match="Merging is not supported"):
        tuned = get_peft_model(nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.Linear(4, 4)), settings)
    grouped, linear = tuned.base_model.model
    with pytest.raises(InputError, match=r"PEFT cannot merge this adapter: Merging is not supported.*beside its base"):
        merge_layer(grouped)
    del linear.base_layer.weight
    with pytest.raises(AttributeError):
        merge_layer(linear)
