"""Fitting block by block: every layer once, with the inputs that rounded blocks before it give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import tiny_llama
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.export.schemes import blocks
from rayloom.export.schemes.blocks import blocks_of, fit_blocks
from rayloom.export.schemes.compressed import linear_layers
from rayloom.text.packed.shards import Row

NUM_ROWS = 3


class TwoDocumentRows:
    """Rows in which two documents must not see each other."""

    def __len__(self) -> int:
        return NUM_ROWS

    def row(self, index: int) -> Row:
        tokens = np.random.default_rng(index).integers(0, 500, 24)
        return Row(tokens, np.ones(24, np.bool_), np.concatenate([np.arange(10), np.arange(14)]))


def inputs_of(model: nn.Module, layer: nn.Module) -> Tensor:
    """(T, I) what flows into the layer when the whole model runs."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].reshape(-1, inputs[0].shape[-1])))
    rows = TwoDocumentRows()
    with torch.no_grad():
        for index in range(len(rows)):
            row = rows.row(index)
            model(
                torch.from_numpy(row.tokens)[None], position_ids=torch.from_numpy(row.positions)[None], use_cache=False
            )
    hook.remove()
    return torch.cat(found)


def test_every_layer_is_fitted_once_with_the_products_of_its_inputs() -> None:
    model = tiny_llama()
    layers = linear_layers(model)
    expected = {name: inputs_of(model, layer) for name, layer in layers.items()}
    fitted: list[str] = []
    done: list[int] = []

    def fit(name: str, layer: nn.Linear, products: Tensor) -> None:
        assert layer is layers[name]
        torch.testing.assert_close(products, expected[name].T @ expected[name], rtol=1e-4, atol=1e-4)
        fitted.append(name)

    fit_blocks(model, layers, TwoDocumentRows(), fit, done.append)
    assert sorted(fitted) == sorted(layers) and done == [1, 1]


def test_later_blocks_see_what_rounded_blocks_give() -> None:
    model = tiny_llama()
    layers = linear_layers(model)
    found: dict[str, Tensor] = {}

    def fit(name: str, layer: nn.Linear, products: Tensor) -> None:
        found[name] = products
        with torch.no_grad():
            layer.weight.copy_(layer.weight.sign() * layer.weight.abs().mean())

    before = inputs_of(model, model.model.layers[1].self_attn.q_proj)
    fit_blocks(model, layers, TwoDocumentRows(), fit, lambda _: None)
    after = inputs_of(model, model.model.layers[1].self_attn.q_proj)
    products = found["model.layers.1.self_attn.q_proj"]
    torch.testing.assert_close(products, after.T @ after, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(products, before.T @ before, rtol=1e-2)


def test_nothing_is_computed_to_learn_what_blocks_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def products_of(model: nn.Module) -> tuple[dict[str, Tensor], int]:
        found: dict[str, Tensor] = {}
        runs = []
        model.model.layers[1].mlp.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr, index]
        fit = lambda name, _, products: found.update({name: products})  # noqa: E731
        fit_blocks(model, linear_layers(model), TwoDocumentRows(), fit, lambda _: None)
        return found, len(runs)

    passed, runs = products_of(tiny_llama())
    monkeypatch.setattr(blocks, "INDEPENDENT", ())
    computed, more_runs = products_of(tiny_llama())
    assert (runs, more_runs) == (2 * NUM_ROWS, 3 * NUM_ROWS)
    assert all(torch.equal(passed[name], computed[name]) for name in computed)


def test_a_model_without_blocks_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match="no repeated blocks"):
        blocks_of(model, {"0": model[0]})  # type: ignore[dict-item]
