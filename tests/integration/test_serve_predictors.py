"""Models that vLLM does not serve, behind the same gateway: each says what `rayloom predict` says of the same texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from peft import PrefixTuningConfig
from pydantic import TypeAdapter
from support.models import made, write_adapter, write_model
from support.service import Served, free_port, served_by, until
from support.tasks import review_rows, wordpiece, write_encoder, write_encoder_decoder, write_jsonl
from support.tokenizers import chatml

from rayloom.artifacts.store import Artifact, Store
from rayloom.commands.predict import answers
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import PromptedResponder, rows_to_show
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import save_task, task_model
from rayloom.specs.prompting import Prompt
from rayloom.specs.training.tasks import Task

TASKS: dict[str, dict[str, Any]] = {
    "reviews": {"type": "text_classification", "labels": ["no", "yes"]},
    "entities": {"type": "token_classification", "entities": ["person", "place"]},
    "questions": {"type": "question_answering"},
}
MESSAGES = [
    [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": text}] for text in ("Ada.", "No no!")
]
MAX_NEW_TOKENS = 8
PROMPT: dict[str, Any] = {
    "task": {"type": "text_classification", "labels": ["0", "1"]},
    "template": "{text}\nIt was {answer}",
    "words": {"0": "bad", "1": "good"},
    "calibration": ["N/A", ""],
    "demonstrations": {"num_rows": 2, "sources": [{"dataset": "artifact:reviewed", "read": {"type": "table"}}]},
}
TEXTS = [f"the film was {word} and we saw anna in {town}" for word in ("fine", "dull") for town in ("rome", "oslo")]
QUESTIONS = [{"question": "who went?", "text": text} for text in TEXTS]


def _with_head(task: Task, folder: Path, encoder: Path) -> None:
    """Random weights do: what is compared is what two ways to one model say."""
    model: Any = task_model(encoder, task)[0]
    for parameter in model.parameters():
        parameter.data.mul_(3)  # so that texts are told apart
    model.save_pretrained(folder)
    wordpiece().save_pretrained(folder)
    save_task(task, 32, folder)


def _writer(folder: Path) -> None:
    write_encoder_decoder(folder)
    task: Task = TypeAdapter(Task).validate_python({"type": "sequence_to_sequence", "max_target_tokens": 8})
    save_task(task, 32, folder)


def _prefixed(folder: Path, base: Artifact) -> None:
    """What vLLM loads neither beside its base nor merged."""
    write_adapter(folder, base.path, 1, PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))


def _judge(folder: Path, base: Artifact) -> None:
    """A reward model."""
    task: Task = TypeAdapter(Task).validate_python({"type": "reward"})
    model: Any = task_model(base.path, task)[0]
    model.save_pretrained(folder)
    chatml().save_pretrained(folder)
    save_task(task, 64, folder)


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service of four models and an adapter, with keys."""
    folder, port = tmp_path_factory.mktemp("predictors"), free_port()
    store, encoder = Store(str(folder / "store")), write_encoder(folder / "encoder")
    for name, values in TASKS.items():
        task: Task = TypeAdapter(Task).validate_python(values)
        made(store, name, "model", lambda directory, task=task: _with_head(task, directory, encoder))
    made(store, "writer", "model", _writer)
    base = made(store, "base", "model", write_model)
    made(store, "judge", "model", lambda directory: _judge(directory, base))
    made(store, "prefixed", "adapter", lambda directory: _prefixed(directory, base), {"base": base})
    generation = {"generation": {"max_new_tokens": MAX_NEW_TOKENS}}
    served = [{"name": name, "model": f"artifact:{name}"} for name in (*TASKS, "writer", "judge")]
    served.append({"name": "prefixed", "model": "artifact:prefixed", **generation})
    made(store, "reviewed", "dataset", lambda directory: write_jsonl(review_rows(8), directory / "rows.jsonl"))
    served.append({"name": "prompted", "model": "artifact:base", "prompt": PROMPT})
    doors = {"keys_required": True, "max_answers_per_request": 64}
    job = folder / "serve.yaml"
    job.write_text(
        yaml.safe_dump({"kind": "serve", "name": "tested", "port": port, "predictors": served, "doors": doors})
    )
    with served_by(job, port, store) as found:
        yield found


def asked(predictors: Served, path: str, model: str, given: Any) -> httpx.Response:
    body = {"model": model, "input": given}
    return httpx.post(f"{predictors.running.url}{path}", json=body, headers=predictors.headers, timeout=60)


def predicted(predictors: Served, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return answers(name, rows, predictors.store, MAX_NEW_TOKENS)


def test_classes_are_those_of_predict(predictors: Served) -> None:
    answer = asked(predictors, "/v1/classify", "reviews", TEXTS)
    assert answer.status_code == 200, answer.text
    expected = predicted(predictors, "reviews", [{"text": text} for text in TEXTS])
    found = answer.json()["data"]
    assert [one["labels"] for one in found] == [one["labels"] for one in expected]
    for one, wanted in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(wanted["probabilities"], abs=2e-3)
    assert len({one["probabilities"]["yes"] for one in found}) > 1


def test_a_language_model_gives_labels_by_a_prompt(predictors: Served) -> None:
    store = predictors.store
    prompt, shown = Prompt.model_validate(PROMPT), store.open(store.resolve("reviewed"))
    pool = rows_to_show(prompt, {"prompt.demonstrations.sources.0.dataset": shown})
    subject = Subject.of("model", store.open(store.resolve("base")), store)
    expected = PromptedResponder(PromptedModel(subject, prompt), pool).respond([{"text": text} for text in TEXTS], 4)
    answer = asked(predictors, "/v1/classify", "prompted", TEXTS)
    assert answer.status_code == 200, answer.text
    for one, wanted in zip(answer.json()["data"], expected, strict=True):
        assert one["probabilities"] == pytest.approx(wanted["probabilities"], abs=2e-3)
    refused = asked(predictors, "/v1/classify", "prompted", "dull " * 300)
    assert refused.status_code == 400 and "there is room for" in refused.json()["error"]["message"]


def test_entities_and_answers_are_those_of_predict(predictors: Served) -> None:
    tags = asked(predictors, "/v1/tag", "entities", TEXTS).json()["data"]
    expected = predicted(predictors, "entities", [{"text": text} for text in TEXTS])
    assert [one["entities"] for one in tags] == [one.get("spans", []) for one in expected]
    found = asked(predictors, "/v1/answer", "questions", QUESTIONS).json()["data"]
    rows = [{"text": one["text"], "pair": one["question"]} for one in QUESTIONS]
    spans = [one.get("spans", []) for one in predicted(predictors, "questions", rows)]
    assert [one["answer"] for one in found] == [span[0]["text"] if span else None for span in spans]


def test_texts_are_written_by_an_encoder_decoder_and_by_a_decoder_with_a_prefix(predictors: Served) -> None:
    written = asked(predictors, "/v1/generate", "writer", TEXTS).json()["data"]
    expected = predicted(predictors, "writer", [{"text": text} for text in TEXTS])
    assert [one["text"] for one in written] == ["".join(one["labels"]) for one in expected]
    answer = asked(predictors, "/v1/generate", "prefixed", "Who are you?").json()["data"]
    (one,) = predicted(predictors, "prefixed", [{"text": "Who are you?"}])
    assert answer == [{"index": 0, "text": one["answer"]}]


def test_answers_get_the_number_that_predict_gives_them(predictors: Served) -> None:
    answer = asked(predictors, "/v1/score", "judge", [{"messages": messages} for messages in MESSAGES])
    assert answer.status_code == 200, answer.text
    expected = predicted(predictors, "judge", [{"messages": messages} for messages in MESSAGES])
    found = [one["score"] for one in answer.json()["data"]]
    assert found == pytest.approx([one["score"] for one in expected], abs=2e-3)
    assert found[0] != found[1]
    refused = asked(predictors, "/v1/score", "judge", {"messages": MESSAGES[0][:1]})
    assert refused.status_code == 400 and "end with an answer" in refused.json()["error"]["message"]


def test_many_requests_at_once_are_each_answered_with_their_own(predictors: Served) -> None:
    texts = [f"{text} {'very ' * number}" for number in range(8) for text in TEXTS]
    expected = predicted(predictors, "reviews", [{"text": text} for text in texts])

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(headers=predictors.headers, timeout=60) as client:
            url = f"{predictors.running.url}/v1/classify"
            return await asyncio.gather(*(client.post(url, json={"model": "reviews", "input": text}) for text in texts))

    found = [response.json()["data"][0]["probabilities"]["yes"] for response in asyncio.run(all_at_once())]
    assert found == pytest.approx([one["probabilities"]["yes"] for one in expected], abs=2e-3)


@pytest.mark.parametrize(
    ("path", "model", "given", "status", "said"),
    [
        ("/v1/classify", "reviews", "  ", 400, "empty"),
        ("/v1/classify", "reviews", {"text": "a", "colour": 1}, 400, "colour"),
        ("/v1/classify", "reviews", ["a"] * 65, 400, "64"),
        ("/v1/tag", "reviews", "a", 400, "/v1/classify"),
        ("/v1/answer", "questions", "who?", 400, "input"),
        ("/v1/generate", "prefixed", "Hello there. " * 300, 400, "room for"),
        ("/v1/generate", "missing", "a", 404, "missing"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    predictors: Served, path: str, model: str, given: Any, status: int, said: str
) -> None:
    refused = asked(predictors, path, model, given)
    assert refused.status_code == status
    assert said in refused.json()["error"]["message"]


def test_doors_log_and_page_are_those_of_every_model(predictors: Served) -> None:
    url = predictors.running.url
    assert httpx.post(f"{url}/v1/classify", json={"model": "reviews", "input": "a"}).status_code == 401
    cards = httpx.get(f"{url}/v1/models", headers=predictors.headers).json()["data"]
    assert {card["id"]: card["path"] for card in cards}["entities"] == "/v1/tag"
    assert "/v1/tag" in httpx.get(f"{url}/docs").text
    asked(predictors, "/v1/tag", "entities", "anna in rome")
    until(lambda: predictors.log()[-1].get("model") == "entities")
    assert predictors.log()[-1]["status"] == 200
    assert not any("anna" in json.dumps(record) for record in predictors.log())


def test_an_update_and_its_way_back_change_what_answers(predictors: Served) -> None:
    """`base` has no task and goes on with text, so it answers at another path."""
    changed = ("--set", "predictors.0.model=artifact:base", "--set", "predictors.0.generation.max_new_tokens=4")
    updated = predictors.running.command("serve", "update", str(predictors.running.job), *changed)
    assert updated.returncode == 0, updated.stderr
    until(lambda: asked(predictors, "/v1/generate", "reviews", "Hello").status_code == 200)
    assert predictors.running.command("serve", "rollback", "tested").returncode == 0
    until(lambda: asked(predictors, "/v1/classify", "reviews", "Hello").status_code == 200)
