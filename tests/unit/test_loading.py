"""Models that go on with a text are loaded; others are refused in a sentence, in a plan too."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import made, write_model
from support.tokenizers import chatml
from support.training_jobs import write_rows
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.evaluate.plan import plan
from rayloom.models.loading import check_causal, load
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.text.tokenizer_files import tokenizer_digest


def encoder() -> PreTrainedModel:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForMaskedLM(BertConfig(vocab_size=512, **shape))


def encoder_decoder() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=512, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2))


@pytest.mark.parametrize(
    ("model", "said"),
    [(encoder, r"This model \(bert\) is an encoder: it"), (encoder_decoder, r"\(t5\) is an encoder-decoder")],
)
def test_a_model_that_sees_the_whole_text_is_refused(tmp_path: Path, model: type[PreTrainedModel], said: str) -> None:
    model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=said):
        load(tmp_path)


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no config\.json"):
        check_causal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(InputError, match="The model cannot be loaded: "):
        check_causal(tmp_path)


def test_a_plan_says_that_an_encoder_has_no_such_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    monkeypatch.setenv("RAYLOOM_STORE", store.root)

    def write(folder: Path, is_encoder: bool) -> None:
        write_model(folder)
        if is_encoder:
            encoder().save_pretrained(folder)
        write_rows(folder / "heldout", 8, seed=0, digest=tokenizer_digest(chatml()))

    def problems(model: Artifact) -> list[str]:
        checks = [{"type": "heldout_loss", "rows_of": f"artifact:{model.manifest.name}"}]
        values = {"kind": "evaluate", "name": "compared", "model": f"artifact:{model.manifest.name}", "checks": checks}
        parents = {"model": model, "checks.0.rows_of": model}
        return plan(EvaluateSpec.model_validate(values), parents, tmp_path).problems

    decoder = made(store, "decoder", "model", lambda folder: write(folder, False))
    assert problems(decoder) == []
    (said,) = problems(made(store, "encoder", "model", lambda folder: write(folder, True)))
    assert "is an encoder: it cannot continue a text token by token" in said
    assert "of a causal language model" in said
