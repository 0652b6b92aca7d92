"""`kind: merge`: merges an adapter into its 16-bit base, and compares the result with base + adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rayloom.artifacts.build import Build
from rayloom.artifacts.lineage import base_of, training_of
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, QualityError
from rayloom.export.adapters import AdapterFolder, check_values
from rayloom.export.layerwise import computing_in_fp32, write_merged
from rayloom.export.model_folder import ModelFolder, check_memory, copy_companions, first_line
from rayloom.export.shard_writer import write_configuration
from rayloom.models.quantised import load_quantised
from rayloom.models.weight_files import stored_tensors
from rayloom.observe.progress import progress, say
from rayloom.score.agreement import Agreement, compare, logits_of
from rayloom.specs.export import MergeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from collections.abc import Mapping

from rayloom.artifacts.store import Store
from rayloom.specs.export import Combination

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 6
FP32_COPIES = 3
"""Number of fp32 copies of the largest layer while it is merged."""


def run(spec: MergeSpec, build: Build) -> Outcome:
    """Writes the merged model in the format of transformers and the server."""
    adapter_artifact = build.parents["adapter"]
    adapter = AdapterFolder.of(adapter_artifact.path)
    base_artifact = base_of(adapter_artifact, build.parents.get("base"), build.store)
    base = sixteen_bit(base_artifact)
    update_norm = check_values(adapter)
    further = others(spec.combine, build.parents, base_artifact, build.store) if spec.combine else []
    check_memory(memory_bytes(base), f"Merging into {base_artifact.id}")
    rows = prompt_tokens(tokenizer_folder(adapter.path, base.path), spec.prompts)
    with progress(f"{spec.name}: merging", STEPS, "steps") as bar:
        model = base.load(base.stored_dtype)
        plain = logits_in_fp32(model, rows)
        bar.advance()
        tuned = attach(model, adapter)
        if spec.combine is not None:
            add_others(tuned, spec.combine, adapter, further)
        expected = logits_in_fp32(tuned, rows)
        effect = compare(plain, expected)
        bar.advance()
        exact = compare(expected, logits_in_fp32(tuned, rows, is_merged=True))
        bar.advance()
        check_agreement(exact, effect, spec, adapter_artifact)
        save(tuned, base, PRECISIONS[spec.save_precision], build.directory)
        del model, tuned
        # A prompt that the base was trained on is not that of its adapter.
        copy_companions(base.path, build.directory, with_prompt=False)
        copy_companions(adapter.path, build.directory)
        bar.advance()
        saved = ModelFolder.of(build.directory)
        num_parameters = sum(tensor.num_values for tensor in stored_tensors(saved.path).values())
        loaded = saved.load(PRECISIONS[spec.save_precision])
        bar.advance()
        rounding = compare(expected, logits_in_fp32(loaded, rows))
        bar.advance()
        del loaded
    check_finite(rounding, spec)
    trained_on = seen_in_training(base, adapter_artifact, expected, rows) if spec.combine is None else None
    say(
        f"{spec.name}: logits of merged and base + adapter differ by at most {exact.max_logit_difference:.2g}; "
        f"{spec.save_precision} adds {rounding.max_logit_difference:.2g} "
        f"({rounding.next_token_share:.1%} of next tokens stay the same)"
    )
    if trained_on is not None:
        share = f"{trained_on['agreement']['next_token_share']:.1%}"
        say(f"{spec.name}: trained on the base in {trained_on['base']}; {share} of next tokens are as they were there")
    size = f"{num_parameters / 1e6:,.1f} M parameters in {spec.save_precision}"
    metrics = {
        "base": base_artifact.id,
        "adapter": {"artifact": adapter_artifact.id, "described": adapter.described, "update_norm": update_norm},
        "architecture": base.architecture,
        "num_parameters": num_parameters,
        "save_precision": spec.save_precision,
        "max_logit_difference": spec.max_logit_difference,
        "effect_of_adapter": effect.as_metrics(),
        "merged_against_adapter": exact.as_metrics(),
        "saved_against_adapter": rounding.as_metrics(),
        "trained_on": trained_on,
        "combined": _combined(spec, further),
    }
    headline = f"{size}, logits within {exact.max_logit_difference:.1g} of base + adapter"
    return Outcome("model", metrics, base_artifact.manifest.licences, headline)


def _combined(spec: MergeSpec, further: Sequence[Artifact]) -> dict[str, Any] | None:
    if spec.combine is None:
        return None
    weights = [other.weight for other in spec.combine.others]
    named = {artifact.id: weight for artifact, weight in zip(further, weights, strict=True)}
    return {"method": spec.combine.method, "weight": spec.combine.weight, "others": named}


def seen_in_training(
    base: ModelFolder, adapter: Artifact, expected: Sequence[torch.Tensor], rows: Sequence[Sequence[int]]
) -> dict[str, Any] | None:
    """Agreement of 16-bit base + adapter with the quantised base + adapter of training; None if training used 16 bits.

    The adapter has learned to compensate for the base's quantisation error, which the 16-bit base does not have.
    """
    precision = (training_of(adapter.manifest).get("adapter") or {}).get("quantised_base")
    if precision is None:
        return None
    from rayloom.pretrained import AutoModelForCausalLM

    quantised: Any = load_quantised(AutoModelForCausalLM, base.path, precision, torch.float32)
    there = logits_of(attach(quantised.eval(), AdapterFolder.of(adapter.path)), rows)
    return {"base": precision, "agreement": compare(there, list(expected)).as_metrics()}


def sixteen_bit(artifact: Artifact) -> ModelFolder:
    """The base as a folder. Raises InputError if its weights are quantised."""
    base = ModelFolder.of(artifact.path)
    if base.quantization is not None:
        what = f"{artifact.id} is quantised ({base.quantization}), and rounded weights cannot take in an adapter"
        raise InputError(what, where=str(artifact.path), fix="Name the 16-bit model that it was made from.")
    return base


def memory_bytes(base: ModelFolder) -> int:
    """Estimated peak memory of merging in bytes: the base's files, and the largest layer in fp32.

    The files are memory-mapped, and their pages can be reclaimed. If `write_merged` cannot merge layer by layer, the
    whole model is also in memory in fp32, which is not counted here.
    """
    tensors = stored_tensors(base.path).values()
    total = sum(tensor.num_bytes for tensor in tensors)
    return total + FP32_COPIES * 4 * max(tensor.num_values for tensor in tensors)


def tokenizer_folder(adapter: Path, base: Path) -> Path:
    """The adapter's folder if it has a tokenizer (the one it was trained with), else the base's."""
    return adapter if (adapter / "tokenizer_config.json").exists() else base


def prompt_tokens(folder: Path, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of the prompts as the server would make them: with the chat template if the tokenizer has one."""
    from rayloom.pretrained import AutoTokenizer
    from rayloom.text.conversations.render import Renderer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        return [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    renderer = Renderer(tokenizer, where=str(folder))
    return [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]


def attach(model: PreTrainedModel, adapter: AdapterFolder) -> Any:
    """The base with the adapter attached, not merged.

    Raises InputError if the adapter has a tensor that belongs to no layer of the base, or lacks one that it needs.
    """
    from peft import PeftConfig, PeftModel

    fix = "Name the base that it was trained on."
    try:
        config = PeftConfig.from_pretrained(str(adapter.path))
        config.inference_mode = True
        tuned = PeftModel(model, config)
        loaded = tuned.load_adapter(str(adapter.path), "default")
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        what = f"The adapter does not fit this base: {first_line(error)}"
        raise InputError(what, where=str(adapter.path), fix=fix) from None
    for problem, names in (
        ("belong to no layer of this base", loaded.unexpected_keys),
        ("are missing", loaded.missing_keys),
    ):
        if names:
            what = f"{len(names)} tensors of this adapter {problem}, such as {min(names)}"
            raise InputError(what, where=str(adapter.path), fix=fix)
    return tuned.eval()


def logits_in_fp32(model: Any, rows: Sequence[Sequence[int]], is_merged: bool = False) -> list[torch.Tensor]:
    """Logits of the rows in fp32, for a model in any precision, with the adapter attached or merged (`is_merged`)."""
    with computing_in_fp32(model, is_merged):
        return logits_of(model, rows)


def check_agreement(exact: Agreement, effect: Agreement, spec: MergeSpec, adapter: Artifact) -> None:
    """Raises QualityError if the merged model differs from base + adapter, InputError if the adapter does nothing."""
    if effect.max_logit_difference == 0.0:
        what = f"{adapter.id} changes no logit of its base"
        raise InputError(what, where=str(adapter.path), fix="Check that its tensors carry this base's module names.")
    if not exact.max_logit_difference <= spec.max_logit_difference:
        what = (
            f"The merged model is not base + adapter: logits differ by {exact.max_logit_difference:.3g} in fp32, and "
            f"{spec.max_logit_difference:g} is allowed"
        )
        fix = "Raise max_logit_difference if the model's logits are large; otherwise serve the adapter beside its base."
        raise QualityError(what, where=adapter.id, fix=fix)


def check_finite(rounding: Agreement, spec: MergeSpec) -> None:
    if not math.isfinite(rounding.max_logit_difference):
        what = (
            f"The weights do not fit into {spec.save_precision}: the saved model computes numbers that are not finite"
        )
        raise QualityError(what, where=spec.name, fix="Set save_precision to bf16, which has the range of fp32.")


def save(tuned: Any, base: ModelFolder, dtype: torch.dtype, directory: Path) -> None:
    """Merges, rounds to `dtype` and writes: layer by layer, or the whole model if `write_merged` cannot."""
    model = tuned.base_model.model
    if write_merged(tuned, base.path, directory, dtype):
        write_configuration(model, dtype, directory)
        return
    merged = tuned.float().merge_and_unload(safe_merge=True)
    merged.to(dtype).save_pretrained(directory)


# Combines several LoRA adapters of one base into one with PEFT's `add_weighted_adapter`, before it is merged.

COMBINED = "combined"
_PEFTS_NAMES = {"sum": "cat"}
"""PEFT's name of a method, if it differs from ours."""


def others(combination: Combination, parents: Mapping[str, Artifact], base: Artifact, store: Store) -> list[Artifact]:
    """The other adapters to combine. Raises InputError if one was trained on another base."""
    adapters = [parents[f"combine.others.{number}.adapter"] for number in range(len(combination.others))]
    for artifact in adapters:
        base_of(artifact, base, store)
    return adapters


def add_others(tuned: Any, combination: Combination, first: AdapterFolder, further: list[Artifact]) -> None:
    """Makes the combination the active adapter. Raises InputError if an adapter does not fit or PEFT cannot combine."""
    names = ["default"]
    for number, artifact in enumerate(further):
        folder = AdapterFolder.of(artifact.path)
        check_values(folder)
        _check_same_kind(first, folder, artifact)
        names.append(f"other-{number}")
        loaded = tuned.load_adapter(str(artifact.path), names[-1])
        if loaded.unexpected_keys or loaded.missing_keys:
            raise InputError(f"{artifact.id} does not fit this base", where=str(artifact.path))
    for name in names:
        # The layers' scaling already contains rsLoRA's factor; with the flag set, PEFT would apply it a second time.
        tuned.peft_config[name].use_rslora = False
    weights = [combination.weight, *(other.weight for other in combination.others)]
    # DARE drops values at random.
    torch.manual_seed(combination.seed)
    try:
        tuned.add_weighted_adapter(
            names,
            weights,
            COMBINED,
            combination_type=_PEFTS_NAMES.get(combination.method, combination.method),
            density=combination.density,
        )
    except ValueError as error:
        what = f"PEFT cannot combine these adapters by {combination.method}: {first_line(error)}"
        raise InputError(what, where="combine", fix="Use method: sum, which takes adapters of any rank.") from None
    tuned.set_adapter(COMBINED)


def _check_same_kind(first: AdapterFolder, other: AdapterFolder, artifact: Artifact) -> None:
    for folder in (first, other):
        if folder.method != "LORA" or folder.config.get("use_dora"):
            what = f"{folder.described}: only plain LoRA adapters are combined"
            raise InputError(what, where=artifact.id, fix="Merge it alone, or train it as LoRA.")
