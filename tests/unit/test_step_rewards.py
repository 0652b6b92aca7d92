"""Process rewards: judged steps as rows, the loss by hand, and what is made of the steps of an answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from support.models import made, write_model
from support.preferences import LENGTH, write
from support.tokenizers import chatml
from transformers import AutoModelForSequenceClassification

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case
from rayloom.evaluate.checks.pairs import PairAccuracy
from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.models.responders.responder import respond_to_each
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import save_task, task_model
from rayloom.rewards.answer import WrittenAnswer
from rayloom.rewards.opening import opened, weighted
from rayloom.score.reward_loss import StepLoss
from rayloom.score.task_batches import task_batch
from rayloom.serve.replicas.predictor_requests import endpoint_of, response_body
from rayloom.specs.evaluate import PairsCheck
from rayloom.specs.training.preferences import PreferenceData
from rayloom.specs.training.rewards import Rewards
from rayloom.specs.training.tasks import RewardScoring
from rayloom.text.conversations.render import Renderer
from rayloom.text.conversations.step_rows import NO_TARGET, StepRows, prepare_steps

SEPARATOR = "\n\n"
TASK = RewardScoring(type="reward", step_separator=SEPARATOR)
STEPS = ["One two three.", "Four five", "Six"]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"Tell me {number} jokes", "completions": STEPS, "labels": [True, 1, number % 2 == 0]} | changes


def prepared(values: list[dict[str, Any]], folder: Path) -> StepRows:
    data = {"type": "preferences", "sources": [{"dataset": "./x"}], "heldout_rows": 2}
    files = {"data.sources.0.dataset": [write(values, folder / "in") / "x.json"]}
    spec, renderer = PreferenceData.model_validate(data), Renderer(chatml())
    counts = prepare_steps(spec, files, renderer, SEPARATOR, LENGTH, 0, folder / "out")
    assert (counts.train["trained_tokens"], counts.heldout["rows"]) == (3 * (len(values) - 2), 2)
    return StepRows(folder / "out/train")


def write_process_reward(folder: Path) -> None:
    write_model(folder / "base")
    torch.manual_seed(0)
    model: Any = task_model(folder / "base", TASK)[0]
    model.save_pretrained(folder)
    chatml().save_pretrained(folder)
    save_task(TASK, LENGTH, folder)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    return store, made(store, "judge", "model", write_process_reward)


def test_each_step_has_its_label_where_it_ends(tmp_path: Path) -> None:
    found = prepared([row(number) for number in range(8)], tmp_path)
    one, tokenizer = found.row(0), chatml()
    ends = np.flatnonzero(one.targets != NO_TARGET)
    assert one.targets[ends][:2].tolist() == [1, 1]
    texts = [tokenizer.decode(part) for part in np.split(one.tokens, ends + 1)]
    assert texts[0].endswith("assistant\nOne two three.\n\n") and texts[1:] == ["Four five\n\n", "Six\n\n", ""]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [True, False]}, "must have true or false for each of the 3 steps"),
        ({"labels": [1, 0, 2]}, "must have true or false"),
        ({"completions": ["a\n\nb", "c", "d"]}, "a step contains"),
        ({"completions": ["", "c", "d"]}, "each a text that says something"),
        ({"completions": "One two"}, "no list of steps"),
        ({"labels": None}, "labels"),
    ],
)
def test_rows_without_sound_steps_are_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        prepared([*(row(number) for number in range(7)), row(7, **changes)], tmp_path)


def test_the_loss_and_the_numbers_are_those_of_transformers_on_the_text_so_far(
    tmp_path: Path, stored: tuple[Store, Artifact]
) -> None:
    found = prepared([row(number) for number in range(8)], tmp_path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(stored[1].path, dtype=torch.float32).eval()
    rows, by_hand, hits = [found.row(number) for number in range(3)], 0.0, 0
    for one in rows:
        for end in np.flatnonzero(one.targets != NO_TARGET):
            logit = model(torch.tensor(one.tokens[: end + 1])[None]).logits.double().item()
            right = one.targets[end] == 1
            by_hand += float(np.logaddexp(0, -logit if right else logit))
            hits += (logit > 0) == right
    loss, batch = StepLoss(model), task_batch(rows, "tags", 0)
    assert loss(batch).item() == pytest.approx(by_hand, abs=1e-4)
    assert (loss.tally.right, loss.tally.wanted) == (hits, 9)
    assert loss(batch.without_labels()).item() == 0


def test_steps_are_scored_served_and_made_into_one_reward(tmp_path: Path, stored: tuple[Store, Artifact]) -> None:
    store, artifact = stored
    scorer = AnswerScorer.of(Subject.of("model", artifact, store))
    prompt, text = [{"role": "user", "content": "Hello"}], f"\n\n{SEPARATOR.join(STEPS)}\n\n"
    messages = [*prompt, {"role": "assistant", "content": text}]
    (said,) = respond_to_each(scorer, [{"messages": messages}], 1)
    assert len(said["steps"]) == 3 and said["score"] == min(said["steps"])
    body = response_body(endpoint_of("reward"), "judge", [said])
    assert body["data"] == [{"index": 0, "score": said["score"], "steps": said["steps"]}]
    values = [{"type": "model", "name": how, "model": "artifact:judge", "over_steps": how} for how in ("mean", "last")]
    parents = {f"rewards.{number}.model": artifact for number in range(2)}
    with opened(TypeAdapter(Rewards).validate_python(values), "rewards", parents, tmp_path) as own:
        good, empty = weighted(own, [WrittenAnswer(prompt, text, {}), WrittenAnswer(prompt, "\n\n", {})])
    values_of = {name: verdict.value for name, verdict in good.parts.items()}
    assert values_of == pytest.approx({"mean": np.mean(said["steps"]), "last": said["steps"][-1]}, abs=1e-5)
    assert empty.value is None and "the answer has no step" in empty.problems[0]


def test_held_out_steps_give_accuracy_with_an_interval(tmp_path: Path) -> None:
    def trained(folder: Path) -> None:
        write_process_reward(folder)
        prepared([row(number) for number in range(12)], tmp_path)
        shutil.copytree(tmp_path / "out/heldout", folder / "heldout")

    store = Store(str(tmp_path / "store"))
    artifact = made(store, "judge", "model", trained)
    case = Case(PairsCheck(type="pairs", rows_of="artifact:judge"), Subject.of("model", artifact, store), artifact, 4)
    check = PairAccuracy()
    check.ready(case)
    metrics = check.measure(case).metrics
    assert (metrics["score_name"], metrics["num_rows"]) == ("step accuracy", 2)
    low, high = metrics["interval"]
    assert low <= metrics["score"] <= high
    assert json.dumps(metrics)
