"""Tensor parallelism: of every large matrix, each worker holds a part, and computes with that (Shoeybi et al. 2019).

Which matrices are cut by rows and which by columns is transformers' plan for the architecture; the vocabulary is cut
too. Parts are plain parameters, so engines, optimisers and adapters work on them as on whole ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from rayloom.errors import InputError
from rayloom.score.label_loss import output_head
from rayloom.score.parallel.axis import Axis, entering, left
from rayloom.score.parallel.vocabulary import SplitVocabulary, look_up_parts, split_of
from rayloom.train.weights.parts import Part, part_of

PROVEN = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose parts are tested to give what whole models give (tests/unit/test_tensor_parallel.py)."""
MIXTURES = ("mixtral", "qwen3_moe")
"""The same, with their experts spread over these workers and perhaps others (tests/unit/test_expert_parallel.py)."""
ROWS, COLUMNS, GRADIENT = "colwise", "rowwise", "replicated_with_grad_allreduce"
"""transformers' names for matrices cut by output features, by input features, and whole ones whose gradient is a sum
over the workers."""
VOCABULARY = "vocabulary"


def check_parts(config: Any, num_parts: int, are_experts_spread: bool = False) -> None:
    """Raises InputError if a model of this configuration cannot be computed in so many parts."""
    what = f"sharding.tensor is {num_parts}, and "
    if config.model_type not in (*PROVEN, *MIXTURES):
        fix = f"Use sharding.zero_stage: 3; models that can be cut: {', '.join((*PROVEN, *MIXTURES))}."
        raise InputError(f"{what}a model of type {config.model_type} is not cut into parts here", fix=fix)
    if config.model_type in MIXTURES and not are_experts_spread:
        raise InputError(f"{what}experts are not cut but spread", fix=f"Set sharding.expert: {num_parts}, or more.")
    heads = config.num_attention_heads
    sizes = {"attention heads": heads, "key-value heads": getattr(config, "num_key_value_heads", None) or heads}
    if config.model_type != "mixtral":  # which has experts in every layer
        sizes["feed-forward features"] = config.intermediate_size
    for name, size in sizes.items():
        if size % num_parts:
            fitting = max(n for n in range(1, num_parts) if not any(size % n for size in sizes.values()))
            what = f"sharding.tensor is {num_parts}, which does not divide the base's {size} {name}"
            raise InputError(what, fix=f"Set sharding.tensor: {fitting}; zero_stage 3 cuts the rest among the others.")


def part_in(parameter: nn.Parameter, style: str | None, axis: Axis) -> Part | None:
    """This worker's part of a whole parameter that is cut in this style; None if it stays whole."""
    if style not in (ROWS, COLUMNS, VOCABULARY) or (style == COLUMNS and parameter.dim() == 1):
        return None
    dim = 1 if style == COLUMNS else 0
    return Part(parameter.shape, dim, *axis.share(parameter.shape[dim]))


def plan_of(model: Any) -> Iterator[tuple[nn.Parameter, str]]:
    """The parameters that are not the same whole ones with the same gradients on all workers, and how each is cut."""
    for name, module in model.named_modules():
        style = _style_of(model, name, module)
        if style is not None:
            yield from ((parameter, style) for parameter in module.parameters(recurse=False))


def _style_of(model: Any, name: str, module: nn.Module) -> str | None:
    """The style of a module by transformers' plan, to which adapters are fitted."""
    if module in (model.get_input_embeddings(), output_head(model)):
        return VOCABULARY
    *above, last = name.removeprefix("base_model.model.").split(".")
    if last == "base_layer":
        return _planned(model, above)
    if len(above) > 1 and above[-1] in ("lora_A", "lora_B"):
        # B follows the matrix' output features, A its input features. Where A's are whole, each worker's B gives a part
        # of A's gradient.
        fitted = {("lora_A", COLUMNS): COLUMNS, ("lora_B", ROWS): ROWS, ("lora_A", ROWS): GRADIENT}
        return fitted.get((above[-1], _planned(model, above[:-1]) or ""))
    return None if hasattr(module, "base_layer") else _planned(model, [*above, last])


def _planned(model: Any, path: list[str]) -> str | None:
    plan = (model.get_base_model() if hasattr(model, "get_base_model") else model).tp_plan
    return plan.get(".".join("*" if part.isdigit() else part for part in path))  # type: ignore[no-any-return]


def connect(model: Any, axis: Axis) -> None:
    """Lets values enter the workers' parts and leave them as sums."""
    around: dict[nn.Module, None] = {}
    for name, module in model.named_modules():
        style = _style_of(model, name, module)
        if style == ROWS and ".lora_" not in name:
            around[model.get_submodule(_around(name))] = None
        elif style == COLUMNS:
            if getattr(module, "bias", None) is not None:
                raise InputError(f"sharding.tensor cannot cut {name}, which has a bias", fix="Use zero_stage: 3.")
            module.register_forward_hook(lambda _, __, output: left(output, axis))
        elif style == GRADIENT:
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    parameter.register_hook(lambda grad: axis.summed(grad.clone()))
    for module in around:
        # Once for all matrices that read the same hidden states.
        module.register_forward_pre_hook(_entering(axis), with_kwargs=True)
    _connect_vocabulary(model, axis)


def _connect_vocabulary(model: Any, axis: Axis) -> None:
    head, embeddings = output_head(model), model.get_input_embeddings()
    if type(head) is not nn.Linear:
        raise InputError("sharding.tensor cannot cut an output layer with an adapter", fix="Take other target_modules.")
    for module in (head, embeddings):
        part = part_of(module.weight)
        if part is not None:
            module.split_vocabulary = SplitVocabulary(part.begin, part.end, axis)
    split = split_of(embeddings)
    if split is not None:
        look_up_parts(embeddings, split)


def _around(name: str) -> str:
    """`…mlp` of `…mlp.up_proj`, with LoRA of `…mlp.up_proj.base_layer`."""
    return name.removesuffix(".base_layer").rpartition(".")[0]


def _entering(axis: Axis) -> Any:
    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (entering(args[0], axis), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": entering(kwargs["hidden_states"], axis)}

    return enter
