"""A model asked by a prompt alone: likelihoods, clozes and written answers of small real models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import made, tiny_llama, write_model
from support.tasks import BAD, GOOD, review_rows, wordpiece, write_encoder, write_jsonl
from transformers import BertForMaskedLM

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.evaluate import plan, report, run
from rayloom.evaluate.checks.prompted import judged_runs, rows_of
from rayloom.evaluate.checks.registry import cases
from rayloom.evaluate.prediction.plan import plan as plan_prediction
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import PromptedResponder, rows_to_show
from rayloom.models.responders.responder import respond_to_each
from rayloom.models.responders.subject import Subject, subjects
from rayloom.score.prompted import likelihoods
from rayloom.score.prompted.likelihoods import AskedWords, groups, word_likelihoods
from rayloom.specs.evaluate import EvaluateSpec, PromptedCheck
from rayloom.specs.predict import PredictSpec
from rayloom.specs.prompting import Prompt
from rayloom.specs.serve import ServedPredictor
from rayloom.text.labelled.examples import Example, Span
from rayloom.text.labelled.labelled_rows import labelled_rows
from rayloom.text.prompts.demonstrations import Pool, same_text

TASK = {"type": "text_classification", "labels": ["bad", "good"]}
READ = {"type": "table", "names": {"0": "bad", "1": "good"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("prompted") / "store"))


@pytest.fixture(scope="module")
def rows(store: Store) -> Artifact:
    return made(store, "reviews", "dataset", lambda folder: write_jsonl(review_rows(60), folder / "rows.jsonl"))


@pytest.fixture(scope="module")
def decoder(store: Store) -> Artifact:
    return made(store, "decoder", "model", write_model)


@pytest.fixture(scope="module")
def encoder(store: Store) -> Artifact:
    """Random weights, larger than usual, so that words differ clearly."""
    return made(store, "encoder", "model", lambda folder: write_encoder(folder, initializer_range=0.5))


def spec(model: Artifact, rows: Artifact, prompt: dict[str, Any], **check: Any) -> EvaluateSpec:
    data = {
        "type": "labelled", "sources": [{"dataset": f"artifact:{rows.id}", "read": READ}], "heldout_rows": 20,
    }  # fmt: skip
    asked = {"task": TASK, "template": "{text}\nIt was {answer}"} | prompt
    checks = [{"type": "prompted", "data": data, "prompt": asked} | check]
    return EvaluateSpec.model_validate(
        {"kind": "evaluate", "name": "asked", "model": f"artifact:{model.id}", "checks": checks}
    )


def evaluated(store: Store, job: EvaluateSpec, model: Artifact, rows: Artifact) -> Artifact:
    parents = {"model": model, "checks.0.data.sources.0.dataset": rows}
    return build(ResolvedJob(job, 1, parents, Path.cwd()), store, run.run)[0]


def test_words_behind_a_shared_beginning_are_as_likely_as_read_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model, random = tiny_llama(), np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in random.integers(5, 500, count))

    shared = ids(40)
    asked = [AskedWords(shared + ids(3 + n % 5), tuple(ids(1 + (n + k) % 3) for k in range(3))) for n in range(7)]
    asked += [AskedWords(ids(4), (ids(1), ids(2))) for _ in range(3)]
    assert sorted((len(numbers), least) for numbers, least in groups([one.prompt for one in asked])) == [
        (3, 0),
        (7, 40),
    ]
    found = word_likelihoods(model, asked, 4)
    monkeypatch.setattr(likelihoods, "_has_plain_cache", lambda _: False)
    for own, other, one in zip(found, word_likelihoods(model, asked, 4), asked, strict=True):
        assert own == pytest.approx(other, abs=1e-4)
        whole = torch.tensor([[*one.prompt, *one.words[-1]]])
        with torch.no_grad():
            log_p = model(whole).logits.log_softmax(-1)[0, len(one.prompt) - 1 : -1]
        assert own[-1] == pytest.approx(float(log_p.gather(1, whole[0, len(one.prompt) :, None]).sum()), abs=1e-4)


def test_a_prompted_check_is_planned_measured_over_draws_and_orders_and_reported(
    store: Store, decoder: Artifact, rows: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = {"demonstrations": {"num_rows": 4}, "calibration": ["N/A", ""], "words": {"good": ["good", "gorgeous"]}}
    job = spec(decoder, rows, prompt, num_draws=2, num_orders=2)
    parents = {"model": decoder, "checks.0.data.sources.0.dataset": rows}
    monkeypatch.setenv("RAYLOOM_STORE", store.uri)
    sheet = plan.plan(job, parents, tmp_path)
    assert sheet.problems == [] and "4 of 40 rows before each (by_label), 4 runs" in dict(sheet.facts)["prompted"]
    shown = str(sheet.examples[0])
    assert shown.count("It was ") == 5 and "It was →" in shown

    artifact = evaluated(store, job, decoder, rows)
    metrics = artifact.manifest.metrics["checks"]["prompted"]["model"]
    runs = metrics["runs"]
    assert [(one["draw"], one["order"]) for one in runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    scores = [one["score"] for one in runs]
    assert metrics["score"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert metrics["spread"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)
    assert metrics["uncalibrated_score"] == pytest.approx(np.mean([one["uncalibrated"] for one in runs]), abs=1e-5)
    assert metrics["num_rows"] == 20 and len(metrics["prompts"]) == 2
    said = [json.loads(line) for line in (artifact.path / run.PREDICTIONS_NAME).read_text().splitlines()]
    assert len(said) == 20 and set(said[0]["probabilities"]) == {"bad", "good"}
    titles = [section.title for section in report.sections(artifact)]
    assert any("by draw and order" in title for title in titles) and any("first prompts" in title for title in titles)


def test_demonstrations_are_never_tested_rows(store: Store, decoder: Artifact, rows: Artifact) -> None:
    for choose in ("random", "by_label", "nearest"):
        job = spec(decoder, rows, {"demonstrations": {"num_rows": 4, "choose": choose}})
        parents = {"model": decoder, "checks.0.data.sources.0.dataset": rows}
        (subject,) = subjects(parents, store)
        ((_, case),) = cases(job, parents, subject, store)
        tested, pool = rows_of(case)
        assert {same_text(one) for one in tested}.isdisjoint(same_text(one) for one in pool.examples)
        shown = PromptedModel(subject, job.checks[0].prompt).demonstrations(tested, pool, 0, 0, 8)  # type: ignore[union-attr]
        assert all(
            len(own) == 4 and {same_text(one) for one in own} <= {same_text(o) for o in pool.examples} for own in shown
        )


def test_the_tested_rows_are_those_that_a_training_holds_out(store: Store, decoder: Artifact, rows: Artifact) -> None:
    from collections import Counter

    from rayloom.text.labelled.dataset import split

    alone = spec(decoder, rows, {})
    shown = spec(decoder, rows, {"demonstrations": {"num_rows": 2}})
    parents = {"model": decoder, "checks.0.data.sources.0.dataset": rows}
    (subject,) = subjects(parents, store)
    both = [rows_of(next(cases(job, parents, subject, store))[1])[0] for job in (alone, shown)]
    data: Any = alone.checks[0].data  # type: ignore[union-attr]
    found = [row for _, row in labelled_rows([rows.path / "rows.jsonl"], data.sources[0].read)]
    _, heldout = split([row for row in found if isinstance(row, Example)], data, 0, Counter())
    assert [one.text for one in both[0]] == [one.text for one in both[1]] == [one.text for one in heldout]


def test_a_cloze_asks_an_encoder_at_its_mask(store: Store, encoder: Artifact, rows: Artifact) -> None:
    words = {"good": [GOOD[0], GOOD[1]], "bad": BAD[0]}
    prompt = {"template": "{text} it was {answer} ?", "scoring": {"type": "cloze"}, "words": words}
    artifact = evaluated(store, spec(encoder, rows, prompt), encoder, rows)
    said = [json.loads(line) for line in (artifact.path / run.PREDICTIONS_NAME).read_text().splitlines()]
    model, tokenizer = BertForMaskedLM.from_pretrained(encoder.path).eval(), wordpiece()
    ids = tokenizer.convert_tokens_to_ids([GOOD[0], GOOD[1], BAD[0]])
    for row in said[:5]:
        batch = tokenizer(f"{row['text']} it was [MASK] ?", return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            shares = model(**inputs).logits[batch["input_ids"] == 4].softmax(-1)[0, ids]
        good = float((shares[0] + shares[1]) / 2 / ((shares[0] + shares[1]) / 2 + shares[2]))
        assert row["probabilities"]["good"] == pytest.approx(good, abs=1e-3)


def test_written_answers_are_counted_where_they_say_nothing(store: Store, decoder: Artifact, rows: Artifact) -> None:
    scoring = {"type": "generated", "generation": {"engine": "transformers", "max_new_tokens": 4}}
    artifact = evaluated(store, spec(decoder, rows, {"scoring": scoring}), decoder, rows)
    metrics = artifact.manifest.metrics["checks"]["prompted"]["model"]
    assert metrics["score"] == 0.0 and metrics["unparsed_share"] == 1.0
    assert metrics["confusion"]["labels"] == ["bad", "good", "(no label)"]


def _refusal(store: Store, model: Artifact, rows: Artifact, prompt: dict[str, Any], **check: Any) -> str:
    with pytest.raises(InputError) as caught:
        evaluated(store, spec(model, rows, prompt, **check), model, rows)
    return str(caught.value)


def test_what_cannot_be_asked_is_said_before_a_weight_is_loaded(
    store: Store, decoder: Artifact, encoder: Artifact, rows: Artifact
) -> None:
    cloze: dict[str, Any] = {"template": "{text} it was {answer}", "scoring": {"type": "cloze"}}
    words = {"words": {"good": "great", "bad": "unheard"}}
    assert "predicts no masked words" in _refusal(store, decoder, rows, cloze)
    assert "is not one token" in _refusal(store, encoder, rows, cloze | words)
    assert "is an encoder" in _refusal(store, encoder, rows, {})
    long = _refusal(store, decoder, rows, {"demonstrations": {"num_rows": 30}})
    assert "demonstrations, and there is room for" in long and "would fit" in long
    assert "There are 40 rows to show" in _refusal(store, decoder, rows, {"demonstrations": {"num_rows": 41}})
    unknown = {"task": {"type": "text_classification", "labels": ["bad", "better"]}}
    assert "'good' is not among the labels" in _refusal(store, decoder, rows, unknown)


def test_label_words_that_begin_alike_are_named(decoder: Artifact, store: Store) -> None:
    words = {"good": "abcgood", "bad": "abcbad"}
    prompt = spec(decoder, decoder, {"words": words}).checks[0].prompt  # type: ignore[union-attr]
    (line,) = PromptedModel(Subject.of("model", decoder, store), prompt).shared_first_tokens()
    assert "begin with the same token" in line


def test_the_nearest_by_embedding_are_those_with_the_same_words(store: Store, encoder: Artifact) -> None:
    job = spec(encoder, encoder, {"demonstrations": {"num_rows": 1, "choose": "nearest", "nearest_by": "embedding"}})
    pool = [Example("anna went in rome"), Example("the film was dull")]
    model = PromptedModel(Subject.of("model", encoder, store), job.checks[0].prompt)  # type: ignore[union-attr]
    shown = model.demonstrations(
        [Example("carl went in rome"), Example("the film was poor")], Pool(tuple(pool)), 0, 0, 8
    )
    assert [own[0].text for own in shown] == [pool[0].text, pool[1].text]


def _asking(store: Store, model: Artifact, rows: Artifact, **values: Any) -> PredictSpec:
    source = {"dataset": f"artifact:{rows.id}", "read": READ}
    prompt = {
        "task": TASK, "template": "{text}\nIt was {answer}", "demonstrations": {"num_rows": 2, "sources": [source]},
    } | values  # fmt: skip
    job = {"kind": "predict", "name": "labels", "model": f"artifact:{model.id}", "data": f"artifact:{rows.id}"}
    return PredictSpec.model_validate(job | {"prompt": prompt})


def test_rows_are_answered_by_the_prompt_and_a_bad_one_fails_alone(
    store: Store, decoder: Artifact, rows: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _asking(store, decoder, rows)
    parents = {"model": decoder, "data": rows, "prompt.demonstrations.sources.0.dataset": rows}
    monkeypatch.setenv("RAYLOOM_STORE", store.uri)
    sheet = plan_prediction(job, parents, tmp_path)
    assert sheet.problems == [] and "text classification by a prompt, likelihood" in dict(sheet.facts)["model"]
    assert str(sheet.examples[-1]).count("It was") == 3

    assert job.prompt is not None
    responder = PromptedResponder(
        PromptedModel(Subject.of("model", decoder, store), job.prompt), rows_to_show(job.prompt, parents)
    )
    given = [{"text": "a film"}, {"text": " "}, {"text": None}, {"text": "dull " * 200}]
    answers = respond_to_each(responder, given, 2)
    assert set(answers[0]["probabilities"]) == {"bad", "good"} and answers[0]["labels"][0] in ("bad", "good")
    assert [answer["failed"].partition(":")[0] for answer in answers[1:]] == [
        "empty_text", "missing_column", "too_long",
    ]  # fmt: skip


def test_what_a_prediction_cannot_ask_is_refused(store: Store, decoder: Artifact, rows: Artifact) -> None:
    with pytest.raises(ValueError, match="demonstrations needs sources"):
        _asking(store, decoder, rows, demonstrations={"num_rows": 2})
    with pytest.raises(ValueError, match=r"needs generation\.engine: transformers"):
        _asking(store, decoder, rows, scoring={"type": "generated"})
    served = {"name": "asked", "model": f"artifact:{decoder.id}"}
    prompt = {"task": {"type": "token_classification", "entities": ["a"]}, "template": "{text} {answer}"}
    written = {"type": "generated", "generation": {"engine": "transformers"}}
    with pytest.raises(ValueError, match="offered here for text_classification"):
        ServedPredictor.model_validate(served | {"prompt": prompt | {"scoring": written}})


def test_choices_are_ranked_by_their_likelihood_and_one_that_does_not_fit_is_named(
    store: Store, decoder: Artifact
) -> None:
    def ask(normalisation: str) -> PromptedModel:
        scoring = {"type": "likelihood", "normalisation": normalisation}
        task = {"type": "multiple_choice"}
        prompt = Prompt.model_validate({"task": task, "template": "{question} {answer}", "scoring": scoring})
        return PromptedModel(Subject.of("model", decoder, store), prompt)

    rows = [Example(f"Which is {n}?", labels=("a cat",), choices=("a cat", "dogs and more dogs")) for n in range(3)]
    for normalisation in ("none", "tokens", "characters", "pmi"):
        answers = ask(normalisation).answers(rows, [[]] * 3, 2)
        assert all(set(answer.prediction.probabilities or ()) == set(rows[0].choices) for answer in answers)
    plain = ask("none")
    (asked, *_) = plain.asked(rows, [[]] * 3, None)
    (values, *_) = word_likelihoods(plain.subject.model, [asked], 2)
    shares = np.exp(values) / np.exp(values).sum()
    found = plain.answers(rows[:1], [[]], 2)[0].prediction.probabilities
    assert found == pytest.approx(dict(zip(rows[0].choices, shares, strict=True)), abs=1e-5)
    with pytest.raises(InputError, match="not even the row alone"):
        plain.check_lengths([Example("Which?", labels=("a",), choices=("a", "word " * 300))], [[]])


def test_a_chat_template_asks_with_demonstrations_as_turns(store: Store, decoder: Artifact) -> None:
    prompt = Prompt.model_validate(
        {"task": TASK, "template": "{text} {answer}", "instruction": "Judge.", "chat_template": True}
    )
    model = PromptedModel(Subject.of("model", decoder, store), prompt)
    model.check()
    asked, shown = Example("a film"), [Example("dull", labels=("bad",))]
    said = (("system", "Judge."), ("user", "dull"), ("assistant", "bad"), ("user", "a film"))
    messages = [{"role": role, "content": content} for role, content in said]
    assert model.prompts([asked], [shown]) == [model.subject.renderer.prompt(messages)]
    assert model.readable(asked, shown) == model.subject.renderer.prompt_text(messages)
    (words,) = model.asked([asked], [shown], None)
    own = [tuple(model.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in ("bad", "good")]
    assert list(words.words) == own
    (values,) = word_likelihoods(model.subject.model, [words], 2)
    shares = np.exp(values) / np.exp(values).sum()
    found = model.answers([asked], [shown], 2)[0].prediction.probabilities
    assert found == pytest.approx(dict(zip(("bad", "good"), shares, strict=True)), abs=1e-5)


QUESTION = Example("anna went in rome", "where?", spans=(Span(13, 17, "answer"),))
NAMED = Example("anna went in rome", spans=(Span(0, 4, "person"), Span(13, 17, "place")))


@pytest.mark.parametrize(
    ("task", "template", "example", "said", "name", "score"),
    [
        ({"type": "question_answering"}, "{text} {question} {answer}", QUESTION, ("rome", "oslo"), "answer F1", 0.5),
        (
            {"type": "token_classification", "entities": ["person", "place"]}, "{text} {answer}", NAMED,
            ("person: anna; place: rome", "person: anna"), "entity F1", 6 / 7,
        ),
        (TASK | {"multiple": True}, "{text} {answer}", Example("x", labels=("bad",)), ("bad", "?"), "micro F1", 2 / 3),
        ({"type": "sequence_to_sequence"}, "{text} {answer}", Example("x", labels=("y z",)), ("y z", "y z"), "chrF", 1),
        (
            {"type": "multiple_choice"}, "{question} {answer}", Example("x", labels=("a",), choices=("a", "b")),
            ("a", "b"), "accuracy", 0.5,
        ),
    ],
)  # fmt: skip
def test_every_task_is_judged_over_its_runs(
    task: dict[str, Any], template: str, example: Example, said: tuple[str, str], name: str, score: float
) -> None:
    scoring = {"type": "generated", "generation": {"engine": "transformers"}}
    prompt = Prompt.model_validate({"task": task, "template": template, "scoring": scoring})
    check = PromptedCheck.model_construct(prompt=prompt, name="p")
    model = PromptedModel(Subject("model", "m", Path()), prompt)
    runs = [(0, order, [model.read(example, text)]) for order, text in enumerate(said)]
    metrics, parts = judged_runs(check, [example], runs)
    assert metrics["score_name"] == name and metrics["score"] == pytest.approx(score, abs=1e-4)
    assert len(parts) == 1 and metrics["num_rows"] == 1 and len(metrics["runs"]) == 2
    assert metrics["unparsed_share"] == (0.5 if "?" in said else 0.0)
