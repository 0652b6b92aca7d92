"""Searches for speed: what may vary, what becomes of trials that fail, and how services take what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from pydantic import ValidationError
from support.artifacts import note, write_note
from support.searches import tune_spec

from rayloom.artifacts.build import build
from rayloom.artifacts.manifest import Parent
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import ResourceError, SpecError
from rayloom.models.processor import machine_name
from rayloom.serve.found_engines import (
    FoundEngine,
    choice_of_engine,
    keep,
    slower_than_original,
    with_found_engines,
)
from rayloom.serve.load_test.clients import LoadTarget, MeasuredAnswer
from rayloom.serve.speed_trial import WARM_UP_TOKENS, as_measured, figures, loaded
from rayloom.specs.base import references
from rayloom.specs.search.speed import SERVING_METRICS, ServingLoad
from rayloom.specs.serve import ServeSpec
from rayloom.specs.tune import TuneSpec
from rayloom.tune.results import on_this_machine, write_best
from rayloom.tune.search import Search
from rayloom.tune.strategies.history import Journal
from rayloom.tune.strategies.ranking import best, best_by_model
from rayloom.tune.trials.speed_trials import (
    STEP,
    MeasuredTrials,
    disagreement,
    parents_of_trial,
    run_one_by_one,
    timed_figures,
)


def artifact_of(name: str, folder: Path) -> Artifact:
    return build(note(name, name=name), Store(str(folder)), write_note)[0]


CORES, MODEL = "models.0.engine.cpus_per_replica", "models.0.model"
GOODPUT = "goodput_tokens_per_second"


def serving(**changes: Any) -> TuneSpec:
    """A search over a service of one model; `serve` changes go into its model."""
    model = {"name": "m", "model": "artifact:m"} | changes.pop("served", {})
    plain: dict[str, Any] = {
        "kind": "tune", "name": "fast", "serve": {"kind": "serve", "name": "s", "models": [model]},
        "space": {
            MODEL: {"type": "model", "values": ["artifact:m", "artifact:m-int8"]},
            CORES: {"type": "choice", "values": [1, 2, 4]},
        },
        "objectives": [{"metric": GOODPUT}], "searcher": {"type": "grid"},
    }  # fmt: skip
    return TuneSpec.model_validate(plain | changes)


def timing(**changes: Any) -> TuneSpec:
    space = {"micro_batch_sequences": {"type": "choice", "values": [1, 2, 4]}}
    plain: dict[str, Any] = {"timed_steps": {}, "space": space, "objectives": [{"metric": "tokens_per_second"}]}
    return tune_spec(**(plain | {"searcher": {"type": "grid"}, "budget": {}} | changes))


def problems(spec: TuneSpec) -> str:
    return "\n".join(f"{'.'.join(map(str, path))}: {text}" for path, text in spec.further_problems())


def test_any_field_of_an_engine_varies_also_where_the_job_says_nothing_of_it() -> None:
    assert problems(serving()) == ""
    assert serving().metrics == SERVING_METRICS
    space = {
        "models.0.engine.speculation": {"type": "choice", "values": [None, {"type": "ngram", "num_tokens": 2}]},
        "models.0.engine.kv_cache.block_tokens": {"type": "choice", "values": [16, 32]},
        "models.0.engine.compiled": {"type": "choice", "values": [False, True]},
    }
    assert problems(serving(space=space)) == ""


def test_the_models_to_choose_from_are_references_as_any() -> None:
    named = {reference.path: reference.text for reference in references(serving())}
    assert named[f"space.{MODEL}.values.1"] == "artifact:m-int8"
    parents: Any = {f"space.{MODEL}.values.{i}": f"artifact {i}" for i in range(2)} | {f"serve.{MODEL}": "as written"}
    assert parents_of_trial(serving(), parents, {MODEL: "artifact:m-int8"}) == {MODEL: "artifact 1"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"models.0.engine.cpus": {"type": "choice", "values": [1]}}}, "cpus: unknown key"),
        ({"space": {CORES: {"type": "choice", "values": [0, 1]}}}, "must be at least 1"),
        ({"space": {"port": {"type": "choice", "values": [1, 2]}}}, "space.port: changes nothing that is measured"),
        ({"space": {MODEL: {"type": "choice", "values": ["artifact:m"]}}}, "names an artifact: list models as"),
        ({"space": {CORES: {"type": "model", "values": ["artifact:m"]}}}, "is for the model of a served job"),
        (
            {
                "space": {
                    "models.0.engine.speculation": {
                        "type": "choice",
                        "values": [{"type": "draft_model", "model": "artifact:d"}],
                    }
                }
            },
            "a draft model is an artifact",
        ),
        ({"objectives": [{"metric": "heldout_loss"}]}, "no metric that a search for speed measures"),
        ({"scheduler": {"type": "median"}}, "scheduler: trials of a search for speed are measured once"),
        ({"budget": {"num_steps": 5}}, "budget.num_steps: a search for speed is limited by"),
        ({"resources": {"max_concurrent_trials": 2}}, "one is measured at a time"),
        ({"timed_steps": {}}, "timed_steps: is for a search over a training job"),
    ],
)
def test_what_a_search_for_speed_cannot_do_is_said(changes: dict[str, Any], said: str) -> None:
    assert said in problems(serving(**changes))


def test_a_search_is_over_one_job() -> None:
    with pytest.raises(ValidationError, match="give train, serve or evaluate"):
        tune_spec(serve={"kind": "serve", "name": "s", "models": [{"name": "m", "model": "artifact:m"}]})
    with pytest.raises(ValidationError, match="give train, serve or evaluate"):
        TuneSpec.model_validate(serving().model_dump(by_alias=True) | {"serve": None})


def test_threads_and_micro_batches_of_a_training_job_vary() -> None:
    space = {
        "micro_batch_sequences": {"type": "choice", "values": [1, 2]},
        "workers.cpus_per_worker": {"type": "choice", "values": [1, 2]},
        "compile": {"type": "choice", "values": [False, True]},
    }
    assert problems(timing(space=space)) == ""
    assert "says what a trial holds" in problems(tune_spec(space={"workers.num_workers": space["compile"]}))


# -- trials ------------------------------------------------------------------------------------------------------------


class Bench(MeasuredTrials):
    """More cores are faster, four too many, and of the first model's two the machine dies once."""

    def __init__(self, death: BaseException | None = None) -> None:
        self.death, self.measured = death, list[dict[str, Any]]()

    def measure(self, number: int, values: dict[str, Any]) -> dict[str, float]:
        self.measured.append(values)
        if values[CORES] == 2 and self.death is not None:
            death, self.death = self.death, None
            raise death
        if values[CORES] == 4:
            raise ResourceError("m did not start: 4 cores are wanted and there are 2")
        return {GOODPUT: 10.0 * values[CORES] + (values[MODEL] == "artifact:m")}


def searched(folder: Path, trials: MeasuredTrials, spec: TuneSpec | None = None) -> Search:
    spec = spec or serving()
    search = Search(spec, Journal(folder / "journal.jsonl"), num_concurrent=1, length_of=lambda _: STEP)
    run_one_by_one(search, trials, lambda: None)
    return search


def test_a_setting_that_fails_is_an_outcome_and_the_search_goes_on(tmp_path: Path) -> None:
    trials = searched(tmp_path, Bench()).history.trials
    assert [trial.outcome for trial in trials.values()] == ["finished", "finished", "failed"] * 2
    assert trials[2].reason.startswith("m did not start: 4 cores are wanted")
    winner = best(serving(), trials.values())
    assert winner is not None
    assert winner.values == {MODEL: "artifact:m", CORES: 2}
    assert [trial.values for trial in best_by_model(serving(), trials.values())] == [
        {MODEL: "artifact:m", CORES: 2},
        {MODEL: "artifact:m-int8", CORES: 2},
    ]


def test_a_killed_search_repeats_only_the_trial_in_which_it_died(tmp_path: Path) -> None:
    first, second = Bench(KeyboardInterrupt()), Bench()
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, first)
    history = searched(tmp_path, second).history
    assert [values[CORES] for values in (*first.measured, *second.measured)] == [1, 2, 2, 4, 1, 2, 4]
    assert history.sessions == 2
    assert len(history.ended) == 6


def test_a_full_disk_stops_the_search_only_if_it_stays_full(tmp_path: Path) -> None:
    search = searched(tmp_path, Bench(OSError("no space left")))
    assert search.hindrance is None
    assert search.history.trials[1].crashes == 1
    assert search.history.trials[1].outcome == "finished"


def test_the_budget_ends_it(tmp_path: Path) -> None:
    search = searched(tmp_path, Bench(), serving(budget={"wall_seconds": 1e-9}))
    search.cut_off()
    assert search.history.trials == {}


def step(number: int, loss: float, seconds: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "seconds": seconds, "tokens": 100}


def test_steps_after_the_warm_up_are_timed_and_losses_must_agree(tmp_path: Path) -> None:
    events = [step(1, 4.0, 9.0), step(2, 3.0, 2.0), step(3, 2.0, 3.0), {"event": "finished", "peak_memory_bytes": 7}]
    assert timed_figures(events, 1) == {"tokens_per_second": 40.0, "train_loss": 3.0, "peak_memory_bytes": 7.0}
    measure: Callable[..., dict[str, float]] = lambda *_: timed_figures(events, 1)  # noqa: E731
    trials = type("Same", (MeasuredTrials,), {"measure": measure})()
    history = searched(tmp_path, trials, timing()).history
    assert disagreement(3.02, history.trials.values(), 0.01) is None
    assert disagreement(3.02, [], 1e-9) is None
    assert "these values change what is learned" in str(disagreement(3.04, history.trials.values(), 0.01))


def answer(first: float, total: float, tokens: int = 11, error: str = "") -> MeasuredAnswer:
    return MeasuredAnswer(0.0, 200, first, total, tokens, error=error)


def test_goodput_is_the_tokens_of_answers_within_both_bounds() -> None:
    load = ServingLoad(first_token_seconds=1.0, per_token_seconds=0.2)
    answers = [answer(0.5, 2.0), answer(1.5, 2.0), answer(0.5, 10.0), answer(0.2, 1.2, error="cut")]
    found = figures(answers, load, 12.34)
    assert set(found) == set(SERVING_METRICS)
    assert (found[GOODPUT], found["goodput_share"]) == (1.1, 0.25)
    assert (found["tokens_per_second"], found["first_token_seconds"], found["seconds_to_start"]) == (3.3, 0.5, 12.3)
    with pytest.raises(ResourceError, match="No request was answered under load: cut"):
        figures(answers[3:], load, 1.0)


def test_a_load_begins_with_a_warm_up_and_ends_by_the_clock(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    seen: list[dict[str, Any]] = []

    async def write(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(body["max_tokens"]):
            await response.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
            await asyncio.sleep(0.001)
        await response.write(b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\n' % body["max_tokens"])
        return response

    async def run() -> list[MeasuredAnswer]:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", write)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            return await loaded(LoadTarget(f"http://127.0.0.1:{port}", "m"), load, tmp_path)
        finally:
            await runner.cleanup()

    load = ServingLoad(clients=3, seconds=0.2, new_tokens=5, prompts="prompts.txt")
    answers = asyncio.run(run())
    assert [body["max_tokens"] for body in seen[:4]] == [WARM_UP_TOKENS] * 3 + [5]
    assert {body["max_tokens"] for body in seen[3:]} == {5}
    assert len(answers) == len(seen) - 3 >= 3
    assert all(body["ignore_eos"] for body in seen)
    assert max(answer.started_seconds for answer in answers) < 0.2
    found = figures(answers, load, 1.0)
    assert found[GOODPUT] == pytest.approx(found["tokens_per_second"], rel=0.05)
    assert found["goodput_share"] == 1


def test_a_trials_service_keeps_its_engine_and_none_of_its_doors() -> None:
    job = ServeSpec.model_validate(
        {"kind": "serve", "name": "s", "host": "0.0.0.0", "doors": {"keys_required": True, "requests_per_minute": 1},
         "models": [{"name": "m", "model": "artifact:m", "engine": {"max_sequences": 3}}]}
    )  # fmt: skip
    measured = as_measured(job, ServingLoad())
    assert (measured.host, measured.doors.keys_required, measured.doors.requests_per_minute) == (
        "127.0.0.1",
        False,
        None,
    )
    assert measured.models[0].engine == job.models[0].engine
    assert measured.port != job.port


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_result_is_a_serve_job_with_the_model_that_was_measured(tmp_path: Path) -> None:
    spec = on_this_machine(serving(), {})
    winner = best(spec, searched(tmp_path / "w", Bench(), spec).history.trials.values())
    assert winner is not None
    parents: Any = {MODEL: artifact_of("m", tmp_path)}
    write_best(tmp_path, spec, winner, parents)
    text = (tmp_path / "best.yaml").read_text()
    job = ServeSpec.model_validate(yaml.safe_load(text))
    assert job.models[0].model == f"artifact:{parents[MODEL].id}"
    assert job.models[0].engine.cpus_per_replica == 2
    assert f"{GOODPUT} 21, on {machine_name()}." in text


def test_another_machines_result_is_not_this_ones() -> None:
    assert on_this_machine(tune_spec(), {}).hardware is None
    assert on_this_machine(serving(), {}).hardware == machine_name()
    with pytest.raises(SpecError, match="is for an-abacus"):
        on_this_machine(serving(hardware="an-abacus"), {})


def found(goodput: float, search: str = "fast@1", load: ServingLoad | None = None, **engine: Any) -> FoundEngine:
    metrics = {GOODPUT: goodput, "first_token_seconds": 0.25}
    return FoundEngine(engine, search, (load or ServingLoad()).model_dump(mode="json"), metrics)


def service(**served: Any) -> ServeSpec:
    return ServeSpec.model_validate(
        {"kind": "serve", "name": "s", "models": [{"name": "m", "model": "artifact:m"} | served]}
    )


def kept(folder: Path, goodput: float, **engine: Any) -> Artifact:
    artifact = artifact_of("m", folder)
    keep(artifact.store, machine_name(), artifact.manifest, found(goodput, **engine))
    return artifact


def test_auto_takes_what_was_found_here_and_says_so(tmp_path: Path) -> None:
    artifact = artifact_of("m", tmp_path)
    for job in (service(), service(engine="auto")):
        assert with_found_engines(job, {MODEL: artifact}) == job
        assert "`rayloom init speed`" in str(choice_of_engine(job.models[0], artifact))
    keep(artifact.store, "an-abacus", artifact.manifest, found(900.0, cpus_per_replica=9))
    assert with_found_engines(service(), {MODEL: artifact}).models[0].engine.cpus_per_replica == 1
    kept(tmp_path, 312.0, cpus_per_replica=2, max_sequences=64)
    (served,) = with_found_engines(service(), {MODEL: artifact}).models
    assert (served.engine.cpus_per_replica, served.engine.max_sequences) == (2, 64)
    assert choice_of_engine(served, artifact) == (
        "found by fast@1 on this kind of machine: 312 good tokens/s to 32 clients, the first after 0.25 s"
    )


def test_what_the_file_says_stays(tmp_path: Path) -> None:
    artifact = kept(tmp_path, 312.0, cpus_per_replica=2)
    job = service(engine={"max_sequences": 4})
    assert with_found_engines(job, {MODEL: artifact}) == job
    assert choice_of_engine(job.models[0], artifact) is None


def test_settings_that_the_job_refuses_are_not_taken(tmp_path: Path) -> None:
    artifact = kept(tmp_path, 312.0, compiled=True)
    job = service(adapters={})
    assert with_found_engines(job, {MODEL: artifact}) == job
    assert "do not fit this job" in str(choice_of_engine(job.models[0], artifact))


def quantised(original: Artifact, folder: Path) -> Artifact:
    manifest = original.manifest
    origin = Parent(field="model", name=manifest.name, version=manifest.version, digest=manifest.digest)
    made = artifact_of("m-int8", folder).manifest.model_copy(
        update={"kind": "quantize", "parents": (origin,), "files": ()}
    )
    return Artifact(made, Store(str(folder)))


def test_a_quantised_model_that_is_slower_here_is_served_only_if_the_file_says_so(tmp_path: Path) -> None:
    original = kept(tmp_path, 300.0)
    int8 = quantised(original, tmp_path)
    assert int8.manifest.digest != original.manifest.digest
    served = service().models[0]
    assert slower_than_original(served, int8) is None
    keep(int8.store, machine_name(), int8.manifest, found(200.0))
    said = str(slower_than_original(served, int8))
    assert "200 good tokens/s" in said
    assert "300 good tokens/s" in said
    assert "serve_if_slower: true" in said
    assert slower_than_original(service(serve_if_slower=True).models[0], int8) is None
    assert slower_than_original(served, original) is None
    keep(int8.store, machine_name(), int8.manifest, found(301.0))
    assert slower_than_original(served, int8) is None
    keep(int8.store, machine_name(), int8.manifest, found(200.0, load=ServingLoad(clients=1)))
    assert slower_than_original(served, int8) is None


def test_a_machine_is_named_by_its_gpus_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text("Model: \t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    before = machine_name()
    monkeypatch.setattr("rayloom.models.processor._GPUS", tmp_path)
    assert machine_name() == f"{before}-2-nvidia-h100-80gb-hbm3"
