"""Training on a prompt: its loss is of the scores that labels are chosen by, its rows see other rows, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.artifacts import Folder
from support.models import tiny_llama, write_model
from support.prompted import CLOZE, PROMPT, prompted_spec
from support.tasks import review_rows, wordpiece, write_encoder, write_jsonl
from transformers import BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM

from rayloom.errors import InputError
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.subject import Subject
from rayloom.score.prompted.choosing import label_scores
from rayloom.score.prompted.likelihoods import AskedWords, word_likelihoods
from rayloom.score.prompted.word_loss import WordLoss, word_batch
from rayloom.specs.train import TrainSpec
from rayloom.text.labelled.examples import Example
from rayloom.text.prompts.demonstrations import same_text
from rayloom.train.job_rows import labelled_task_rows
from rayloom.train.objectives.prompted import PromptedObjective
from rayloom.train.sizes.model_size import size_of_base
from rayloom.train.weights.model import build_model


def prepared(spec: TrainSpec, base: Path, folder: Path, rows: list[dict[str, Any]] | None = None) -> PromptedObjective:
    write_jsonl(rows or review_rows(40), folder / "rows/x.jsonl")
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(folder / "rows")}
    made = labelled_task_rows(spec, parents, folder / "made")
    assert spec.prompt is not None
    return PromptedObjective.of(spec.prompt, base, made / "train")


def test_the_loss_is_of_the_scores_that_an_evaluation_chooses_by() -> None:
    model, random = tiny_llama(), np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in random.integers(5, 500, count))

    begin = ids(1)
    # The words of a label: one token, and three; of the other: one that begins as the longer one does, and another.
    rows = [AskedWords(ids(3 + n), (ids(1), (*begin, *ids(2)), (*begin, *ids(1)), ids(2))) for n in range(4)]
    divisors = [[1.0, 3.0, 2.0, 2.0]] * 4
    batch = word_batch(rows, [0, 1, 0, 1], divisors)
    assert batch.num_labels == 4 and len(batch.tokens) == 8  # two beginnings a row: the others are theirs
    loss = WordLoss(model, [2, 2]).eval()
    with torch.no_grad():
        scores, total, nothing = loss.label_scores(batch), float(loss(batch)), float(loss(batch.without_labels()))
    for own, values in zip(scores.tolist(), word_likelihoods(model, rows, 3), strict=True):
        divided = [value / size for value, size in zip(values, divisors[0], strict=True)]
        assert own == pytest.approx(label_scores([divided[:2], divided[2:]]), abs=1e-4)
    expected = -torch.log_softmax(scores, dim=1)[torch.arange(4), batch.targets].sum()
    assert total == pytest.approx(float(expected), abs=1e-5) and nothing == 0
    assert loss.tally.wanted == 4


@pytest.mark.parametrize("normalisation", ["none", "tokens", "characters"])
def test_a_decoders_labels_are_learned_by_what_predictions_say(normalisation: str, tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    prompt = PROMPT | {"scoring": {"type": "likelihood", "normalisation": normalisation}}
    _learns_what_is_predicted(prompted_spec(prompt), tmp_path)


def test_an_encoders_labels_are_learned_by_what_predictions_say(tmp_path: Path) -> None:
    write_encoder(tmp_path / "base", initializer_range=0.5)
    _learns_what_is_predicted(prompted_spec(CLOZE | {"demonstrations": {"num_rows": 2}}), tmp_path)


def test_an_encoder_that_is_not_proven_with_packed_rows_is_trained_too(tmp_path: Path) -> None:
    """Rows hold one text each."""
    tokenizer = wordpiece()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, pad_token_id=0, **sizes)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    spec = prompted_spec(CLOZE)
    _learns_what_is_predicted(spec, tmp_path)
    assert size_of_base(spec, tmp_path / "base").trained > 0
    model: Any = build_model(spec, tmp_path / "base", tmp_path / "base")
    assert type(model) is RobertaForMaskedLM


def _learns_what_is_predicted(spec: TrainSpec, folder: Path) -> None:
    objective = prepared(spec, folder / "base", folder)
    rows = objective.rows(folder / "made/heldout")
    asked = [rows.row(number) for number in range(len(rows))]
    batch = objective.batch(asked, [(1, number) for number in range(len(rows))])
    model = PromptedModel(Subject("model", "base", folder / "base"), objective.model.prompt)
    model.load()
    of_kind: Any = model.subject.__dict__.get("model", model.subject.__dict__.get("masked_model"))
    loss: Any = objective.loss_of(of_kind).eval()
    with torch.no_grad():
        shares = loss.label_scores(batch).softmax(dim=1).tolist()
    examples = [row.example for row in asked]
    shown = model.demonstrations(examples, objective.pool, 0, 0, 4)
    for own, answer in zip(shares, model.answers(examples, shown, 4), strict=True):
        assert own == pytest.approx(list((answer.prediction.probabilities or {}).values()), abs=1e-4)


@pytest.mark.parametrize("choose", ["random", "by_label", "nearest"])
def test_rows_are_read_behind_others_which_are_drawn_anew(choose: str, tmp_path: Path) -> None:
    base = write_encoder(tmp_path / "base", max_position_embeddings=128)
    prompt = CLOZE | {"demonstrations": {"num_rows": 4, "choose": choose}}
    objective = prepared(
        prompted_spec(prompt, sequence_length_tokens=128, global_batch_tokens=16 * 128), base, tmp_path
    )
    rows, heldout = objective.rows(tmp_path / "made/train"), objective.rows(tmp_path / "made/heldout")
    tested = {same_text(heldout.row(number).example) for number in range(len(heldout))}
    draws = [[objective.shown(rows.row(3), (0, 0, 16 * epoch))] for epoch in range(6)]
    for (shown,) in draws:
        assert len(shown) == 4
        texts = {same_text(one) for one in shown}
        assert same_text(rows.row(3).example) not in texts and tested.isdisjoint(texts)
        if choose == "by_label":
            assert sorted(one.labels[0] for one in shown) == ["no", "no", "yes", "yes"]
    assert len({tuple(one.text for one in shown) for (shown,) in draws}) > 3
    assert draws[0] == [objective.shown(rows.row(3), (0, 0, 0))]  # a resumed run sees the same
    fixed = [objective.shown(heldout.row(0), (1, number)) for number in range(3)]
    assert fixed[0] == fixed[1] == fixed[2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "{tex} {answer}"}, r"template has a field \{tex\}"),
        ({"words": {"maybe": "x"}}, "which is no label of the task"),
        ({"calibration": ["N/A"]}, "leave them out"),
        ({"scoring": {"type": "likelihood", "normalisation": "pmi"}}, "leave them out"),
        ({"scoring": {"type": "generated"}}, "learns one label of a list"),
        ({"task": {"type": "text_classification", "labels": ["no", "yes"], "multiple": True}, "words": {}}, "multiple"),
        ({"demonstrations": {"num_rows": 2, "choose": "nearest", "nearest_by": "embedding"}}, "use bm25"),
    ],
)
def test_prompts_that_cannot_be_trained_on_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        prompted_spec(PROMPT | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"type": "causal"}}, "leave objective out"),
        ({"sharding": {"zero_stage": 3}}, "use stage 2"),
        ({"teacher": {"model": "./base"}}, "leave it out"),
    ],
)
def test_jobs_that_do_not_go_with_a_prompt_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        prompted_spec(PROMPT, **changes)


def test_texts_are_not_cut_where_predictions_would_not() -> None:
    with pytest.raises(ValidationError, match="max_field_characters"):
        prompted_spec(PROMPT, data={"length_policy": "truncate"})


def test_bases_and_words_that_cannot_be_asked_are_refused_before_training(tmp_path: Path) -> None:
    write_model(tmp_path / "decoder")
    encoder = write_encoder(tmp_path / "encoder")
    for name, base, prompt, said in [
        ("a", tmp_path / "decoder", CLOZE, "predicts no masked words"),
        ("b", encoder, PROMPT, "cannot continue a text"),
        ("c", encoder, CLOZE | {"words": {"no": "strangest", "yes": "a"}}, "is not one token"),
        ("d", encoder, CLOZE | {"words": {"no": "lovely", "yes": "LOVELY "}}, "for no and for yes"),
    ]:
        with pytest.raises((InputError, ValidationError), match=said):
            prepared(prompted_spec(prompt), base, tmp_path / name)


def test_an_encoder_without_a_head_over_its_vocabulary_is_refused_without_its_weights(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    BertModel(BertConfig.from_pretrained(encoder)).save_pretrained(encoder)
    with pytest.raises(InputError, match="no head over its vocabulary"):
        prepared(prompted_spec(CLOZE), encoder, tmp_path)


def test_rows_and_demonstrations_that_do_not_fit_are_named(tmp_path: Path) -> None:
    base = write_encoder(tmp_path / "base")
    rows = review_rows(40)
    rows[5]["text"] = " ".join(["film"] * 80)
    with pytest.raises(InputError, match=r"1 of 40 rows are longer than sequence_length_tokens \(64\): x.jsonl row 6"):
        prepared(prompted_spec(CLOZE), base, tmp_path / "long", rows)
    shown = CLOZE | {"demonstrations": {"num_rows": 12}}
    with pytest.raises(InputError, match=r"there is room for 64: \d+ would fit \(behind the longest rows\)") as error:
        prepared(prompted_spec(shown), base, tmp_path / "shown")
    assert "Raise sequence_length_tokens" in str(error.value)
    few = CLOZE | {"demonstrations": {"num_rows": 6, "choose": "random"}}
    with pytest.raises(InputError, match="there are 3 other rows to show"):
        prepared(prompted_spec(few, data={"train_rows": 4}), base, tmp_path / "few")


def test_label_words_that_begin_alike_are_said_in_the_plan(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    objective = prepared(
        prompted_spec(PROMPT | {"words": {"no": "good one", "yes": "good two"}}), tmp_path / "base", tmp_path
    )
    assert any("begin with the same token" in line for line in objective.model.shared_first_tokens())
    row = objective.rows(tmp_path / "made/train").row(0)
    assert isinstance(row.example, Example) and json.dumps(row.example.as_json())
