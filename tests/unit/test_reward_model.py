"""Reward models: pairs and margins as rows, the loss by hand, calibration, and what transformers says of the result."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from support.models import made, write_model
from support.preferences import BAD, GOOD, LENGTH, pairs, spec_of, write, write_reward_model
from support.tokenizers import chatml
from transformers import AutoModelForSequenceClassification

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case
from rayloom.evaluate.checks.pairs import PairAccuracy
from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.models.responders.responder import respond_to_each
from rayloom.models.responders.subject import Subject
from rayloom.rewards.answer import WrittenAnswer
from rayloom.rewards.opening import opened, weighted
from rayloom.score.reward_loss import PairLoss, answers_of, calibration_error, pair_batch
from rayloom.serve.replicas.predictor_requests import (
    BadRequestError,
    endpoint_of,
    example_input,
    response_body,
    rows_of,
)
from rayloom.specs.evaluate import PairsCheck
from rayloom.specs.training.preferences import PreferenceData
from rayloom.specs.training.rewards import Rewards
from rayloom.text.conversations.preference_rows import PreferenceRows, prepare_preferences
from rayloom.text.conversations.render import Renderer

TEMPLATED = {"type": "preferences", "sources": [{"dataset": "./x"}], "chat_template_kwargs": {"enable_thinking": False}}


def rows(values: list[dict[str, Any]], folder: Path, has_margins: bool = True) -> PreferenceRows:
    data = {"type": "preferences", "sources": [{"dataset": "./x"}], "heldout_rows": 2}
    files = {"data.sources.0.dataset": [write(values, folder) / "x.json"]}
    spec = PreferenceData.model_validate(data)
    renderer = Renderer(chatml())
    counts = prepare_preferences(
        spec, files, renderer, LENGTH, 0, folder / "out", is_paired=True, has_margins=has_margins
    )
    assert ("margin" in counts.unknown_keys) == (not has_margins)
    return PreferenceRows(folder / "out/train", LENGTH)


def with_margins(count: int) -> list[dict[str, Any]]:
    return [row | {"margin": number / 2} for number, row in enumerate(pairs(count))]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    return store, made(store, "judge", "model", write_reward_model)


def test_margins_are_read_where_they_mean_something(tmp_path: Path) -> None:
    found = rows(with_margins(8), tmp_path / "a")
    assert sorted(found.row(number).margin for number in range(len(found))) != [0.0] * len(found)
    assert rows(with_margins(8), tmp_path / "b", has_margins=False).row(0).margin == 0.0
    with pytest.raises(InputError, match="`margin` is not a number from 0, but -1"):
        rows([*with_margins(7), pairs(8)[7] | {"margin": -1}], tmp_path / "c")


def test_a_row_holds_both_conversations_whole(tmp_path: Path) -> None:
    better, worse = answers_of(rows(with_margins(8), tmp_path).row(0))
    said = [chatml().decode(tokens) for tokens in (better, worse)]
    assert all(text.startswith("<|im_start|>user\nTell me") for text in said)
    assert said[0].endswith(f"{GOOD}<|im_end|>") and said[1].endswith(f"{BAD}<|im_end|>")


def test_the_loss_is_that_of_bradley_and_terry_with_a_margin(tmp_path: Path, stored: tuple[Store, Artifact]) -> None:
    found = rows(with_margins(8), tmp_path)
    batch = pair_batch([found.row(number) for number in range(3)], padding_token=0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(stored[1].path).eval()
    loss = PairLoss(model)
    by_hand, leads = 0.0, []
    for number in range(3):
        better, worse = (model(torch.tensor(tokens)[None]).logits.item() for tokens in answers_of(found.row(number)))
        leads.append(better - worse)
        by_hand += math.log1p(math.exp(-(better - worse - found.row(number).margin)))
    assert loss(batch).item() == pytest.approx(by_hand, abs=1e-4)
    assert (loss.tally.right, loss.tally.wanted) == (sum(lead > 0 for lead in leads), 3)
    assert loss(batch.without_labels()).item() == 0


def test_calibration_by_hand() -> None:
    lead = math.log(0.8 / 0.2)
    assert calibration_error(np.array([lead] * 4 + [-lead])) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.array([lead, -lead])) == pytest.approx(0.3)
    assert calibration_error(np.array([0.0, 1e9])) == pytest.approx(0.25)


def test_scores_are_those_of_transformers_alone_and_in_batches(stored: tuple[Store, Artifact]) -> None:
    store, artifact = stored
    scorer = AnswerScorer.of(Subject.of("model", artifact, store))
    conversations = [
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}]}
        for text in (GOOD, BAD, "one " * 3)
    ]
    model: Any = AutoModelForSequenceClassification.from_pretrained(artifact.path).eval()
    assert model.config.num_labels == 1
    alone = [model(torch.tensor([scorer.tokens(one["messages"])])).logits.item() for one in conversations]
    together = respond_to_each(scorer, conversations, 3)
    assert [one["score"] for one in together] == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 3) for score in alone}) == 3
    bad = respond_to_each(scorer, [{"messages": [{"role": "user", "content": "Hello"}]}, {"text": "x"}], 2)
    assert all("no messages that end with an answer" in one["failed"] for one in bad)
    long = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "word " * 900}]
    assert "too_long" in respond_to_each(scorer, [{"messages": long}], 1)[0]["failed"]


def test_a_reward_model_of_the_store_is_a_reward(stored: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, artifact = stored
    values = [{"type": "model", "model": "artifact:judge", "weight": 2.0}]
    prompt = [{"role": "user", "content": "Hello"}]
    rewards = TypeAdapter(Rewards).validate_python(values)
    with opened(rewards, "rewards", {"rewards.0.model": artifact}, tmp_path) as own:
        good, empty = weighted(own, [WrittenAnswer(prompt, GOOD, {}), WrittenAnswer(prompt, "word " * 900, {})])
    messages = [*prompt, {"role": "assistant", "content": GOOD}]
    (said,) = respond_to_each(AnswerScorer.of(Subject.of("model", artifact, store)), [{"messages": messages}], 1)
    assert good.value == pytest.approx(2 * said["score"], abs=1e-5)
    assert empty.value is None and "too_long" in empty.problems[0]


def test_what_is_no_reward_model_is_refused_as_a_reward(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    base = made(store, "base", "model", write_model)
    rewards = TypeAdapter(Rewards).validate_python([{"type": "model", "model": "artifact:base"}])
    with pytest.raises(InputError, match="is no reward model"), opened(rewards, "r", {"r.0.model": base}, tmp_path):
        pass


def test_the_endpoint_takes_conversations() -> None:
    endpoint = endpoint_of("reward")
    assert endpoint.path == "/v1/score"
    (row,) = rows_of(endpoint, json.dumps({"model": "judge", "input": example_input("reward")}).encode())
    assert row["messages"][-1] == {"role": "assistant", "content": "Ada."}
    body = response_body(endpoint, "judge", [{"score": 0.5}])
    assert body["data"] == [{"index": 0, "score": 0.5}]
    with pytest.raises(BadRequestError, match="messages"):
        rows_of(endpoint, b'{"model": "judge", "input": {"messages": "hello"}}')


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preference": {"type": "dpo"}}, "give either preference or task reward"),
        ({"data": {"type": "corpus", "corpus": "artifact:x"}}, "task reward needs data of type preferences"),
        ({"task": None}, "such data needs one of them"),
        ({"data": TEMPLATED}, "chat_template_kwargs is not known where a reward model scores"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of({"type": "reward"}, **({"preference": None, "task": {"type": "reward"}} | changes))


def test_held_out_pairs_give_accuracy_with_an_interval_and_calibration(tmp_path: Path) -> None:
    def trained(folder: Path) -> None:
        write_reward_model(folder)
        rows(with_margins(40), tmp_path)
        shutil.copytree(tmp_path / "out/heldout", folder / "heldout")

    store = Store(str(tmp_path / "store"))
    artifact = made(store, "judge", "model", trained)
    subject = Subject.of("model", artifact, store)
    case = Case(PairsCheck(type="pairs", rows_of="artifact:judge", min_score=1.0), subject, artifact, 4)
    check = PairAccuracy()
    check.ready(case)
    measured = check.measure(case)
    heldout = PreferenceRows(artifact.path / "heldout", LENGTH)
    scorer = AnswerScorer.of(subject)
    pairs_of = [list(answers_of(heldout.row(number))) for number in range(len(heldout))]
    leads = [float(np.subtract(*scorer.rewards(pair, 2))) for pair in pairs_of]
    assert measured.metrics["score"] == pytest.approx(np.mean(np.array(leads) > 0))
    assert measured.metrics["log_loss"] == pytest.approx(np.mean(np.log1p(np.exp(-np.array(leads)))), abs=1e-4)
    assert measured.metrics["longer_is_better"] == np.mean([len(a) > len(b) for a, b in pairs_of])
    low, high = measured.metrics["interval"]
    assert low <= measured.metrics["score"] <= high
    (limit,) = check.limits(case.spec, {"model": measured})
    assert limit.is_met == (measured.metrics["score"] == 1.0)
    other = made(store, "other", "model", write_reward_model)
    with pytest.raises(InputError, match="keeps no held-out pairs"):
        check.ready(Case(case.spec, subject, other, 4))
