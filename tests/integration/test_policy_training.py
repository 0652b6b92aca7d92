"""The one loop learns from rewards by every method; a stopped run goes on with the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.artifacts import Folder
from support.models import write_model
from support.policies import (
    ENVIRONMENT,
    TURNS,
    ModelWriters,
    of,
    policy_spec,
    same_training,
    write_ending_model,
    write_prompts_file,
)
from support.training_jobs import ONE

from rayloom.artifacts.store import Artifact
from rayloom.errors import InterruptedJobError, QualityError
from rayloom.rewards.opening import opened
from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec
from rayloom.text.conversations.render import Renderer
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of
from rayloom.train.rollouts.asking import Asker
from rayloom.train.rollouts.turns import opened_environment
from rayloom.tune.search import TrialRun
from rayloom.tune.trials.trial import run_trial
from rayloom.tune.trials.trial_files import TrialFiles


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder / "plain")
    write_ending_model(folder / "ending")
    return folder


def run(spec: TrainSpec, base: Path, folder: Path, stop_after: int | None = None) -> tuple[list[dict[str, Any]], Any]:
    """The events of a run in a folder, and its writers; `stop_after`: it is asked to stop in this step."""
    assert spec.rollouts is not None
    base /= "plain" if spec.rollouts.environment is None else "ending"
    (folder / "talk.py").write_text(ENVIRONMENT)
    write_prompts_file(folder / "data")
    (folder / "work").mkdir(exist_ok=True)
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(folder / "data")}
    job = job_of(spec, parents, folder / "work", folder / "out")
    writers = ModelWriters(spec, base, sorted(Renderer.of_model(base).stop_tokens), folder / "weights")
    steps = [0]

    def tell(event: dict[str, Any]) -> None:
        steps[0] = event["step"] if event["event"] == "step" else steps[0]

    with (
        opened(spec.rewards or (), "rewards", parents, folder) as rewards,
        opened_environment(spec, base, folder) as environment,
    ):
        asker = Asker(spec, job.tokenizer, writers, rewards, environment)
        try:
            train(job, ONE, tell, lambda: stop_after is not None and steps[0] >= stop_after - 1, asker=asker)
        except InterruptedJobError:
            assert stop_after is not None
    return list(read_log(job.log)), writers


METHODS: dict[str, dict[str, Any]] = {
    "grpo with a KL": {"type": "grpo", "group_size": 4, "resampled_rounds": 1, "kl": {"coefficient": 0.05}},
    "reinforce++ inside a round": {"type": "reinforce_pp", "updates_per_rollout": 2},
    "rloo a step behind": {"type": "rloo", "staleness_steps": 1, "importance_limit": 2.0},
    "rloo in several turns": {"type": "rloo", "loss_over": "answers"},
    "ppo": {"type": "ppo", "kl": {"coefficient": 0.01, "estimator": "k1", "added_to": "reward"}},
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_run_that_was_stopped_has_the_same_answers_rewards_and_losses(
    method: dict[str, Any], base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    has_turns = "several turns" in request.node.name
    own: dict[str, Any] = TURNS if has_turns else {"rollouts": {"max_answer_tokens": 8, "placement": "own"}}
    spec = policy_spec({"cut_answers": "judged", **method}, **own)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    expected, writers = run(spec, base, tmp_path / "whole")
    run(spec, base, tmp_path / "stopped", stop_after=1)
    found, _ = run(spec, base, tmp_path / "stopped")
    assert len(of(expected, "step")) == 3
    assert same_training(found) == same_training(expected)
    assert [event["score"] for event in of(found, "heldout")] == [event["score"] for event in of(expected, "heldout")]
    assert max(event["mismatch"] for event in of(found, "step")) < (0.2 if spec.policy.staleness_steps else 1e-5)  # type: ignore[union-attr]
    assert all((event["turns"] > 1.2) == has_turns for event in of(found, "rollout"))
    assert writers.versions == sorted(set(writers.versions))
    saved = load_file(tmp_path / "whole" / "out" / "adapter_model.safetensors")
    assert not [name for name in saved if "value_head" in name]


def test_trials_of_a_search_vary_a_policys_values(base: Path, tmp_path: Path) -> None:
    write_prompts_file(tmp_path / "data")
    space = {
        "policy.clip_above": {"type": "choice", "values": [0.2, 0.28]},
        "rollouts.max_answer_tokens": {"type": "choice", "values": [6, 8]},
    }
    policy = {"type": "grpo", "group_size": 4, "cut_answers": "judged"}
    search = {
        "kind": "tune", "name": "search", "space": space, "budget": {"num_trials": 2}, "scheduler": {"type": "none"},
        "objectives": [{"metric": "heldout_score"}],
        "train": policy_spec(policy, num_steps=2).model_dump(mode="json", by_alias=True, exclude_none=True),
    }  # fmt: skip
    parents: Any = {"train.base": Folder(base / "plain"), "train.data.sources.0.dataset": Folder(tmp_path / "data")}
    files = TrialFiles(TuneSpec.model_validate(search), parents, tmp_path / "work")
    longest = []

    @contextmanager
    def asking(job: TrainJob, own: Mapping[str, Artifact]) -> Iterator[Asker]:
        writers = ModelWriters(job.spec, own["base"].path, [368], tmp_path / "weights")
        with opened(job.spec.rewards or (), "rewards", own, tmp_path) as rewards:
            yield Asker(job.spec, job.tokenizer, writers, rewards)

    for number, values in enumerate(({"policy.clip_above": 0.28, "rollouts.max_answer_tokens": 6}, {})):
        heard: list[dict[str, Any]] = []
        run_trial(files.task(TrialRun(number, values)), heard.append, asking=asking)
        assert heard[-1]["message"] == "finished", heard[-1]
        metrics = heard[-1]["metrics"]
        assert metrics["heldout_score"] == pytest.approx(1 - metrics["heldout_loss"])
        events = list(read_log(files.job(number, 0, values).log))
        longest.append(max(event["longest_answer_tokens"] for event in of(events, "rollout")))
    assert longest == [6, 8]


def test_whole_weights_are_handed_over_and_held_to_a_second_model(base: Path, tmp_path: Path) -> None:
    policy = {"type": "grpo", "group_size": 4, "cut_answers": "judged", "kl": {"coefficient": 0.1}}
    events, writers = run(policy_spec(policy, adapter={"type": "none"}, num_steps=2), base, tmp_path)
    assert writers.versions == [0, 1, 2]
    first, second = of(events, "step")
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    assert second["kl"] > 1e-7
    assert max(first["mismatch"], second["mismatch"]) < 1e-5


def test_engines_on_the_trainers_gpus_sleep_while_it_trains(base: Path, tmp_path: Path) -> None:
    shared = {"rollouts": {"max_answer_tokens": 8, "gpus_per_engine": 1}, "workers": {"gpus_per_worker": 1}}
    spec = policy_spec({"type": "grpo", "group_size": 4, "cut_answers": "judged"}, num_steps=2, **shared)
    _, writers = run(spec, base, tmp_path)
    assert writers.is_asleep
    assert writers.num_sleeps == 4  # after two rounds, and two measurements
    assert writers.versions == [0, 1, 2]


def test_an_engine_that_computes_otherwise_stops_the_training(base: Path, tmp_path: Path) -> None:
    spec = policy_spec({"type": "grpo", "group_size": 4, "cut_answers": "judged", "max_mismatch": 1e-9})
    with pytest.raises(QualityError, match=r"Engine and trainer disagree: the mean of .* over policy.max_mismatch"):
        run(spec, base, tmp_path)
