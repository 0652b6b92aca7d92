"""What predictors are asked and answer: the forms, where a model answers, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from test_gateway import Recorder, ask, gateway

from rayloom.serve.gateway.pages import openapi
from rayloom.serve.gateway.routes import Route, Routes, VersionShare
from rayloom.serve.replicas.predictor_requests import (
    ANSWER,
    CLASSIFY,
    ENDPOINTS,
    GENERATE,
    SCORE,
    TAG,
    BadRequestError,
    PredictorEndpoint,
    example_input,
    response_body,
    rows_of,
)
from rayloom.specs.serve import ServeSpec


def asked(given: Any) -> bytes:
    return json.dumps({"model": "m", "input": given}).encode()


@pytest.mark.parametrize(
    ("endpoint", "given", "rows"),
    [
        (CLASSIFY, "a", [{"text": "a"}]),
        (CLASSIFY, ["a", {"text": "b", "pair": "c"}], [{"text": "a"}, {"text": "b", "pair": "c"}]),
        (
            CLASSIFY,
            example_input("relation_extraction"),
            [{"text": "Ada met Grace", "head": {"start": 0, "end": 3}, "tail": {"start": 8, "end": 13}}],
        ),
        (TAG, {"text": "a"}, [{"text": "a"}]),
        (ANSWER, [{"question": "who?", "text": "a"}], [{"text": "a", "pair": "who?"}]),
        (GENERATE, ["a", "b"], [{"text": "a"}, {"text": "b"}]),
    ],
)
def test_an_input_is_rows(endpoint: PredictorEndpoint, given: Any, rows: list[dict[str, Any]]) -> None:
    assert rows_of(endpoint, asked(given)) == rows


@pytest.mark.parametrize(
    ("endpoint", "body", "said"),
    [
        (CLASSIFY, asked(3), "input"),
        (CLASSIFY, asked(["a", 3]), "input"),
        (CLASSIFY, asked({"text": "a", "colour": "b"}), "colour"),
        (CLASSIFY, asked({"text": "a", "head": {"start": 0, "end": 9}}), "ranges of characters inside the text"),
        (ANSWER, asked("who?"), "input"),
        (ANSWER, asked({"question": "who?"}), "text"),
        (TAG, b'{"model": "m"}', "input"),
        (TAG, b'{"model": "m", "input": "a", "inptu": "a"}', "inptu"),
        (TAG, b"\xff", "body"),
    ],
)
def test_what_has_not_the_form_is_refused_with_its_place(endpoint: PredictorEndpoint, body: bytes, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        rows_of(endpoint, body)


def test_answers_have_their_number_and_their_words() -> None:
    classes = {"labels": ["yes"], "probabilities": {"no": 0.1, "yes": 0.9}}
    assert response_body(CLASSIFY, "m", [classes]) == {
        "object": "list",
        "model": "m",
        "data": [{"index": 0, **classes}],
    }
    span = {"label": "person", "start": 0, "end": 3, "text": "Ada"}
    assert [one["entities"] for one in response_body(TAG, "m", [{"spans": [span]}, {"labels": []}])["data"]] == [
        [span],
        [],
    ]
    none, some = {"probabilities": {"answer": 0.2}}, {"spans": [span], "probabilities": {"answer": 0.8}}
    assert [one["answer"] for one in response_body(ANSWER, "m", [none, some])["data"]] == [None, "Ada"]
    written = response_body(GENERATE, "m", [{"labels": ["by an encoder-decoder"]}, {"answer": "by a decoder"}])
    assert [one["text"] for one in written["data"]] == ["by an encoder-decoder", "by a decoder"]


def test_every_answer_has_the_form_that_the_document_gives() -> None:
    span = {"label": "person", "start": 0, "end": 3, "text": "Ada"}
    found: dict[str, dict[str, Any]] = {
        CLASSIFY.path: {"labels": ["yes"], "probabilities": {"yes": 0.9}},
        TAG.path: {"spans": [span]},
        ANSWER.path: {"spans": [span], "probabilities": {"answer": 0.8}},
        GENERATE.path: {"answer": "text"},
        SCORE.path: {"score": -0.5},
    }
    for path, endpoint in ENDPOINTS.items():
        (one,) = response_body(endpoint, "m", [found[path]])["data"]
        endpoint.item.model_validate(one)
        rows_of(endpoint, asked(endpoint.example))


def test_the_document_resolves_and_is_shown_without_a_key() -> None:
    document = openapi()
    text = json.dumps(document)
    names = {name.rpartition("/")[2] for name in text.split('"') if name.startswith("#/components/schemas/")}
    assert names <= set(document["components"]["schemas"])
    assert set(ENDPOINTS) <= set(document["paths"])
    assert ask({}, "GET", "/openapi.json").json() == document
    page = ask({}, "GET", "/docs")
    assert all(path in page.text for path in ENDPOINTS)
    assert "http" not in page.text.replace('lang="en"', "")


def routed(path: str, model: str) -> httpx.Response:
    routes = {
        "text": Route((VersionShare(Recorder("text"), 1.0),)),
        "tagger": Route((VersionShare(Recorder("t"), 1.0),), None, TAG.path),
    }
    application = gateway({})
    application.routes = Routes(routes)
    return ask(application, "POST", path, json={"model": model, "input": "a"})


def test_a_model_answers_at_its_path_and_names_it_elsewhere() -> None:
    assert routed(TAG.path, "tagger").status_code == 200
    assert routed("/v1/completions", "text").status_code == 200
    for path, model, said in ((CLASSIFY.path, "tagger", TAG.path), ("/v1/completions", "tagger", TAG.path),
                              (TAG.path, "text", "/v1/chat/completions")):  # fmt: skip
        refused = routed(path, model)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "wrong_path"
        assert said in refused.json()["error"]["message"]


def spec(**changes: Any) -> ServeSpec:
    return ServeSpec.model_validate({"kind": "serve", "name": "s", **changes})


def test_a_service_may_have_predictors_alone_and_no_name_twice() -> None:
    one = {"name": "a", "model": "artifact:a"}
    assert [served.name for served in spec(predictors=[one]).served] == ["a"]
    for wrong, said in (
        ({}, "nothing to serve"),
        ({"predictors": [one], "models": [one]}, "the name a"),
        ({"predictors": [one], "chat_page": True}, "chat_page"),
        ({"predictors": [one], "profile": "direct"}, "direct"),
        ({"predictors": [{**one, "autoscaling": {"routing": "prefix"}}]}, "prefix"),
    ):
        with pytest.raises(ValidationError, match=said):
            spec(**wrong)
