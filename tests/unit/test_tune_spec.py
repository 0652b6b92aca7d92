"""Search jobs: the training job is put in place, and every path and value is checked before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayloom.errors import InputError, SpecError
from rayloom.specs.base import fingerprinted, references
from rayloom.specs.files.load import load
from rayloom.specs.tune import TuneSpec

TRAIN = """\
kind: train
name: tuned
base: artifact:small
data: {type: corpus, corpus: artifact:words}
adapter: {type: lora, rank: 16}
sequence_length_tokens: 128
micro_batch_sequences: 2
global_batch_tokens: 512
num_epochs: 3
learning_rate: 2e-4
evaluate_every_steps: 10
"""
TUNE = """\
kind: tune
name: search
train: train.yaml
space:
  adapter.rank: {type: choice, values: [4, 8]}
  learning_rate: {type: loguniform, low: 1e-5, high: 1e-2}
budget: {num_trials: 6}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(TRAIN)
    return tmp_path


def read(folder: Path, text: str = TUNE, *overrides: str) -> TuneSpec:
    (folder / "tune.yaml").write_text(text)
    spec = load(folder / "tune.yaml", {"tune": TuneSpec}, overrides).spec
    assert isinstance(spec, TuneSpec)
    return spec


def problems(folder: Path, text: str = TUNE, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        read(folder, text, *overrides)
    return [problem.removeprefix(f"{folder}/") for problem in refused.value.problems]


def with_space(lines: str) -> str:
    head, _, tail = TUNE.partition("  adapter.rank")
    return f"{head}{lines}\nbudget{tail.partition('budget')[2]}"


def test_the_training_job_is_put_in_place_of_its_path(folder: Path) -> None:
    spec = read(folder)
    assert spec.train.name == "tuned"
    assert spec.train.learning_rate == 2e-4
    assert [(r.path, r.text) for r in references(spec)] == [
        ("train.base", "artifact:small"),
        ("train.data.corpus", "artifact:words"),
    ]
    (folder / "train.yaml").write_text(TRAIN.replace("2e-4", "3e-4"))
    assert fingerprinted(read(folder)) != fingerprinted(spec)


def test_the_training_job_may_be_written_out_in_the_same_file(folder: Path) -> None:
    inline = TRAIN.replace("\n", "\n  ").rstrip()
    assert read(folder, TUNE.replace("train: train.yaml", f"train:\n  {inline}")).train == read(folder).train


def test_changes_beside_the_job_apply_to_it_and_the_command_line_comes_last(folder: Path) -> None:
    text = TUNE + "set: [num_epochs=null, num_steps=40, learning_rate=1e-3]\n"
    spec = read(folder, text, "train.learning_rate=5e-4")
    assert (spec.train.num_epochs, spec.train.num_steps, spec.train.learning_rate) == (None, 40, 5e-4)
    assert read(folder, text, "set=[num_epochs=7]").train.num_epochs == 7


def test_the_command_line_can_name_another_training_job(folder: Path) -> None:
    (folder / "other.yaml").write_text(TRAIN.replace("name: tuned", "name: other"))
    assert read(folder, TUNE, "train.seed=5", "train=other.yaml").train.name == "other"


def test_relative_paths_in_the_training_job_go_on_starting_at_its_own_file(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "train.yaml").write_text(TRAIN.replace("artifact:small", "./model"))
    spec = read(folder, TUNE.replace("train.yaml", "parts/train.yaml"))
    assert spec.train.base is not None
    assert (folder / spec.train.base).resolve() == (folder / "parts" / "model").resolve()


def test_problems_of_both_files_come_at_once_each_with_its_place(folder: Path) -> None:
    (folder / "train.yaml").write_text(TRAIN.replace("rank: 16", "rank: 0").replace("name: tuned", "nome: tuned"))
    assert problems(folder, TUNE.replace("num_trials: 6", "num_trials: 0")) == [
        "train.yaml:1  train.name: this key is missing",
        "train.yaml:2  train.nome: unknown key; did you mean name?",
        "train.yaml:5  train.adapter.rank: must be at least 1 (it is 0)",
        "tune.yaml:7  budget.num_trials: must be at least 1 (it is 0)",
    ]


def test_a_training_job_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no such job file.*trian\.yaml.*Did you mean.*train\.yaml"):
        read(folder, TUNE.replace("train.yaml", "trian.yaml"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("adapter.rnk: {type: choice, values: [4]}", "unknown key where type is lora; did you mean rank?"),
        ("adapter.rank: {type: choice, values: [4, 0]}", "must be at least 1 (it is 0)"),
        ("adapter.rank: {type: integer, low: 8, high: 1024}", "must be at most 512 (it is 1024)"),
        ("learning_rate: {type: uniform, low: 0, high: 1}", "must be more than 0 (it is 0.0)"),
        ("adapter.dropout: {type: choice, values: [0.1, none]}", "must be a number (it is 'none')"),
        ("early_stopping.patience: {type: choice, values: [1]}", "no such field, because early_stopping is empty"),
        ("adapter.alpha: {type: multiple, of: adapter.rnk, times: [2]}", "a multiple of adapter.rnk: there is no such"),
        ("adapter.alpha: {type: multiple, of: adapter.type, times: [2]}", "adapter.type is not a number"),
        ("micro_batch_sequences: {type: choice, values: [1, 3]}", "global_batch_tokens must be a multiple of 384"),
        ("workers.num_workers: {type: choice, values: [1, 2]}", "says what a trial holds"),
        ("base: {type: choice, values: ['artifact:a']}", "names an artifact"),
        ("data: {type: choice, values: [1]}", "names an artifact"),
        ("name: {type: choice, values: [a, b]}", "changes nothing that is trained"),
    ],
)
def test_every_path_and_value_is_checked_against_the_training_job(folder: Path, line: str, reason: str) -> None:
    found = problems(folder, with_space(f"  {line}"))
    assert len(found) == 1
    assert found[0].startswith(f"tune.yaml:5  space.{line.partition(':')[0]}: ")
    assert reason in found[0]


def test_a_rank_on_a_full_run_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "train.yaml").write_text(TRAIN.replace("{type: lora, rank: 16}", "{type: none}"))
    assert problems(folder) == [
        "tune.yaml:5  space.adapter.rank: unknown key where type is none; the keys here are type"
    ]


def test_fields_that_must_change_together_may(folder: Path) -> None:
    together = (
        "  sequence_length_tokens: {type: choice, values: [128, 512]}\n"
        "  global_batch_tokens: {type: multiple, of: sequence_length_tokens, times: [4, 8]}"
    )
    assert set(read(folder, with_space(together)).space) == {"sequence_length_tokens", "global_batch_tokens"}


def test_multiples_in_a_circle_are_refused(folder: Path) -> None:
    circle = (
        "  adapter.rank: {type: multiple, of: adapter.alpha, times: [1]}\n"
        "  adapter.alpha: {type: multiple, of: adapter.rank, times: [1]}"
    )
    assert "multiples of each other in a circle" in problems(folder, with_space(circle))[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "objectives=[{metric: heldout_lose}]",
            "no metric that training or a check reports; did you mean heldout_loss?",
        ),
        ("objectives=[{metric: checks.name.share}]", "'checks.name.share' is no metric"),
        ("objectives=[{metric: trainable_parameters}]", "is known at the end of a trial only, and asha compares"),
        ("objectives=[{metric: seconds}, {metric: seconds}]", "the two objectives are the same metric"),
        ("budget={}", "budget.num_trials is needed with the searcher tpe"),
        ("budget={num_trials: 2, cost: 5}", "budget: cost needs price_per_hour"),
        ("searcher={type: grid}", "space.learning_rate: a grid needs a list of values here"),
        ("scheduler={type: asha, grace_steps: 15}", "multiple of the training job's evaluate_every_steps (10)"),
        ("train.evaluate_every_steps=null", "asha compares trials while they run: set evaluate_every_steps"),
        ("mlflow={uri: runs}", "mlflow.uri: must be a server (http://HOST:PORT, databricks) or a database"),
        ("resources={gpus_per_trial: -1}", "resources.gpus_per_trial: must be at least 0"),
        ("resources={gpus_per_trial: 1.5}", "resources.gpus_per_trial: must be a part of one GPU, or a whole number"),
        ("objectives=[{metric: heldout_accuracy}]", "'heldout_accuracy' is no metric that training or a check reports"),
        (
            "checks=[{type: task, rows_of: 'artifact:a'}]",
            "checks.0.type: the training job has no task: use heldout_loss or answers",
        ),
    ],
)
def test_searcher_scheduler_and_budget_are_checked_too(folder: Path, change: str, reason: str) -> None:
    assert any(reason in problem for problem in problems(folder, TUNE, change))


def test_a_part_of_a_gpu_is_for_one_worker(folder: Path) -> None:
    halves = "train.workers={num_workers: 2, gpus_per_worker: 1}"
    found = problems(folder, TUNE, halves, "resources.gpus_per_trial=0.5")
    assert any("resources.gpus_per_trial: a part of a GPU is for trials of one worker" in line for line in found)


def test_where_mlflow_is_does_not_make_another_search(folder: Path) -> None:
    with_records = read(folder, TUNE, "mlflow={uri: 'http://host:5000', experiment: loomie}")
    assert with_records.mlflow is not None
    assert fingerprinted(with_records) == fingerprinted(read(folder))


def test_a_population_varies_only_what_leaves_weights_as_they_are(folder: Path) -> None:
    population = TUNE.replace("budget: {num_trials: 6}", "scheduler: {type: population, interval_steps: 10}")
    found = problems(folder, population)
    assert {problem.partition("  ")[2].partition(":")[0] for problem in found} == {
        "space.adapter.rank",
        "searcher.type",
    }
    assert any("shapes or scales them" in problem for problem in found)


def test_a_searched_job_written_to_a_manifest_can_be_read_back(folder: Path) -> None:
    spec = read(folder)
    plain: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True))
    assert TuneSpec.model_validate(plain) == spec


def test_checks_of_finished_trials_can_be_objectives(folder: Path) -> None:
    checks = "checks=[{type: answers, name: name, prompts: ['Who are you?'], contains: Loomie}]"
    objectives = "objectives=[{metric: heldout_loss}, {metric: checks.name.share}]"
    spec = read(folder, TUNE, checks, objectives)
    assert [objective.sign for objective in spec.objectives] == [1, -1]
    assert spec.metrics[-2:] == ("checks.name.share", "checks.name.count")


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("{type: text_classification, labels: [no, yes]}", ["score", "accuracy", "macro_f1", "micro_f1"]),
        ("{type: question_answering}", ["score", "exact_match"]),
    ],
)
def test_a_search_over_a_task_may_go_by_its_accuracy_and_scores(folder: Path, task: str, keys: list[str]) -> None:
    data = "{type: labelled, sources: [{dataset: 'artifact:reviews', read: {type: questions}}]}"
    changes = [f"train.task={task}", f"train.data={data}", "checks=[{type: task, name: texts, rows_of: 'artifact:a'}]"]
    spec = read(folder, TUNE, *changes, "objectives=[{metric: heldout_score}]")
    assert [metric.removeprefix("checks.texts.") for metric in spec.metrics[-len(keys) :]] == keys
    assert spec.objectives[0].sign == -1
    found = problems(folder, TUNE, *changes[:2], "checks=[{type: answers, name: a, prompts: [b], contains: c}]")
    assert found[0].endswith("checks.0.type: the training job learns a task: use a check of type task")


def test_cost_and_time_give_one_limit(folder: Path) -> None:
    budget = "budget={num_trials: 2, cost: 5, price_per_hour: 10, wall_seconds: 3600}"
    assert read(folder, TUNE, budget).budget.seconds == 1800
    assert read(folder, TUNE, budget).budget.cost_of(360) == 1
    assert read(folder).budget.seconds is None
    assert read(folder).budget.cost_of(360) is None


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ("{type: choice, values: [8, 8, 8]}", "gives 8 3 times"),
        ("{type: choice, values: [4, 8, 8.0]}", "adapter.rank"),
        ("{type: multiple, of: adapter.rank, times: [0.5, 1, 1.0]}", "gives 16 2 times"),
        ("{type: multiple, of: micro_batch_sequences, times: [4, 4.1], to_whole: true}", "gives 8 2 times"),
    ],
)
def test_a_value_that_is_listed_twice_is_refused_by_one_sentence(folder: Path, dimension: str, said: str) -> None:
    found = problems(folder, with_space(f"  adapter.rank: {dimension}\n"))
    assert len(found) == 1
    assert "adapter.rank" in found[0]
    assert said in found[0]
