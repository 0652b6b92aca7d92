"""Encoders and encoder-decoders by the same loop: exact resume, learning, plain results; and words added to a base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.tasks import without_weights, write_encoder
from support.training_jobs import ONE, VOCABULARY, small_job, small_spec, write_tokenizer
from test_train_loop import KilledError, events, killed_at, quiet, steps
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from rayloom.errors import InputError
from rayloom.train.loop import loop
from rayloom.train.sizes.model_size import size_of_architecture, size_of_base
from rayloom.train.weights.model import from_base
from rayloom.train.weights.vocabulary import extend_embeddings, is_extension, tokenizer_for

TINY: dict[str, Any] = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "feed_forward_size": 32}
ENCODER = {
    "architecture": {"type": "encoder", "max_positions": 32} | TINY,
    "objective": {"type": "masked", "share": 0.3},
}
ENCODER_DECODER = {
    "architecture": {"type": "encoder-decoder"} | TINY,
    "objective": {"type": "span", "share": 0.3, "mean_span_tokens": 2.0, "num_sentinels": 9},
}


@pytest.mark.parametrize("changes", [ENCODER, ENCODER_DECODER], ids=["encoder", "encoder-decoder"])
def test_a_killed_run_hides_the_same_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Dropout is on, so that its randomness has to come back too."""
    loop.train(small_job(tmp_path / "whole", **changes), ONE, quiet)
    with pytest.raises(KilledError):
        loop.train(small_job(tmp_path / "killed", **changes), ONE, killed_at(7))
    loop.train(small_job(tmp_path / "killed", **changes), ONE, quiet)
    assert len(steps(tmp_path / "whole")) == 12
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")
    assert events(tmp_path / "killed", "heldout") == events(tmp_path / "whole", "heldout")


@pytest.mark.parametrize("changes", [ENCODER, ENCODER_DECODER], ids=["encoder", "encoder-decoder"])
def test_how_rows_are_shared_out_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    still = changes | {"architecture": changes["architecture"] | {"dropout": 0.0}}
    found = []
    for micro_batch in (1, 4):
        loop.train(small_job(tmp_path / str(micro_batch), micro_batch_sequences=micro_batch, **still), ONE, quiet)
        found.append([loss for loss, _ in steps(tmp_path / str(micro_batch)).values()])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_an_encoder_learns_and_is_a_plain_folder(tmp_path: Path) -> None:
    larger = {"family": "modernbert", "hidden_size": 32, "feed_forward_size": 64, "dropout": 0.0}
    changes = ENCODER | {"architecture": ENCODER["architecture"] | larger}
    batch = {"micro_batch_sequences": 16, "global_batch_tokens": 256}
    loop.train(small_job(tmp_path, num_steps=200, **batch, **changes), ONE, quiet)
    before, after = (event["loss"] for event in events(tmp_path, "heldout"))
    assert before == pytest.approx(math.log(VOCABULARY + 1), abs=0.2)
    assert after < before - 0.3
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.mask_token_id == VOCABULARY
    assert model.config.vocab_size == len(tokenizer) == VOCABULARY + 1


def test_an_encoder_decoder_learns_and_is_a_plain_folder(tmp_path: Path) -> None:
    changes = ENCODER_DECODER | {"architecture": ENCODER_DECODER["architecture"] | {"dropout": 0.0}}
    loop.train(small_job(tmp_path, num_steps=60, learning_rate=0.01, **changes), ONE, quiet)
    before, after = (event["loss"] for event in events(tmp_path, "heldout"))
    assert after < 0.7 * before
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<extra_id_8>") == len(tokenizer) - 1 == model.config.vocab_size - 1
    written = model.generate(torch.tensor([[5, 6, 7, VOCABULARY, 2]]), max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= 5


@pytest.mark.parametrize("name", ["decoder", "encoder", "encoder-decoder"])
def test_the_size_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    changes = {"decoder": {}, "encoder": ENCODER, "encoder-decoder": ENCODER_DECODER}[name]
    job = small_job(tmp_path, num_steps=1, **changes)
    loop.train(job, ONE, quiet)
    assert job.spec.architecture is not None
    added = {"decoder": 0, "encoder": 1, "encoder-decoder": 9}[name]
    expected = size_of_architecture(job.spec.architecture, VOCABULARY + added)
    of_base = {key: value for key, value in changes.items() if key != "architecture"}
    found = size_of_base(small_spec(architecture=None, base="./out", **of_base), tmp_path / "out")
    for field in ("parameters", "num_layers", "hidden_size", "feed_forward_size", "vocabulary_size", "num_heads"):
        assert getattr(found, field) == getattr(expected, field), field


def test_a_base_of_another_kind_is_refused(tmp_path: Path) -> None:
    loop.train(small_job(tmp_path, num_steps=1, **ENCODER), ONE, quiet)
    with pytest.raises(InputError, match="of kind encoder, which objective causal does not train"):
        from_base(tmp_path / "out")
    assert from_base(tmp_path / "out", objective="masked") is not None


def test_weights_that_a_base_lacks_are_never_drawn_at_random_unless_they_are_a_head_to_train(tmp_path: Path) -> None:
    loop.train(small_job(tmp_path / "decoder", num_steps=1), ONE, quiet)
    with pytest.raises(InputError, match=r"no weights for 1 of its tensors, such as model.layers.1.mlp.up_proj"):
        from_base(without_weights(tmp_path / "decoder/out", "model.layers.1.mlp.up_proj"))
    whole = write_encoder(tmp_path / "encoder")
    assert from_base(whole, objective="masked") is not None
    headless = without_weights(whole, "cls.")
    with pytest.raises(InputError, match=r"no weights for 6 of its tensors, such as cls.predictions"):
        from_base(headless, objective="masked")
    assert from_base(headless, objective="masked", may_lack_head=True) is not None
    with pytest.raises(InputError, match=r"such as bert.encoder.layer.0"):
        from_base(without_weights(headless, "bert.encoder.layer.0"), objective="masked", may_lack_head=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"type": "masked"}}, "architecture decoder is trained with objective causal"),
        ({**ENCODER_DECODER, "objective": {"type": "span", "share": 0.9, "num_sentinels": 4}}, "give 5"),
        ({**ENCODER, "sequence_length_tokens": 64, "global_batch_tokens": 256}, r"max_positions \(32\)"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small_spec(**changes)


def test_new_words_begin_as_the_mean_of_their_pieces(tmp_path: Path) -> None:
    loop.train(small_job(tmp_path, num_steps=1), ONE, quiet)
    model = from_base(tmp_path / "out")
    base = AutoTokenizer.from_pretrained(tmp_path / "out")
    extended = AutoTokenizer.from_pretrained(tmp_path / "out")
    base.backend_tokenizer.pre_tokenizer = extended.backend_tokenizer.pre_tokenizer = _splitting()
    extended.add_tokens(["w5w9"])
    assert is_extension(extended, base)
    assert not is_extension(base, extended)
    assert base.encode("w5w9") == [5, 9]
    table = model.get_input_embeddings().weight.detach().clone()  # type: ignore[operator]
    assert extend_embeddings(model, extended, base) == 1
    made = model.get_input_embeddings().weight  # type: ignore[operator]
    assert made.shape[0] == VOCABULARY + 1
    assert torch.allclose(made[VOCABULARY], (table[5] + table[9]) / 2, atol=1e-7)
    assert torch.equal(made[:VOCABULARY], table)


def _splitting() -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(r"w\d"), "isolated")


def test_only_what_is_missing_is_added_to_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "plain")
    spec = small_spec(**ENCODER)
    made = tokenizer_for(spec.objective_in_use, tokenizer, tmp_path)
    assert made != tokenizer
    assert tokenizer_for(spec.objective_in_use, made, tmp_path / "again") == made
    assert tokenizer_for(small_spec().objective_in_use, tokenizer, tmp_path) == tokenizer
