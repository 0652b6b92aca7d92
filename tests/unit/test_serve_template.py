"""A service's own chat template: read with the job, checked before anything starts, compared with the training's."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rayloom.errors import SpecError
from rayloom.kinds import SPECS
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.serve.plan import add_template
from rayloom.serve.replicas.chat_template import own_templates, template_note, template_problem
from rayloom.serve.replicas.engine_settings import EngineSettings, engine_arguments
from rayloom.specs.files.load import Job, load
from rayloom.specs.serve import ServedModel, ServeSpec
from rayloom.submit.package import job_package

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def served(template: str | None = TEMPLATE) -> ServedModel:
    return ServedModel.model_validate({"name": "m", "model": "artifact:m", "chat_template": template})


def job(folder: Path, written: str, *overrides: str) -> Job:
    """A job whose model has this `chat_template`, beside the file `own.jinja`."""
    (folder / "own.jinja").write_text(TEMPLATE)
    model = {"name": "m", "model": "artifact:m", "chat_template": written}
    (folder / "serve.yaml").write_text(yaml.safe_dump({"kind": "serve", "name": "s", "models": [model]}))
    return load(folder / "serve.yaml", SPECS, overrides)


def model(folder: Path, *templates: str) -> Any:
    """A model of the store with these chat templates."""
    (folder / "config.json").write_text("{}")
    for number, text in enumerate(templates):
        (folder / "additional_chat_templates").mkdir(exist_ok=True)
        name = f"additional_chat_templates/{number}.jinja" if number else "chat_template.jinja"
        (folder / name).write_text(text)
    return SimpleNamespace(path=folder, id="m@1")


@pytest.mark.parametrize("overrides", [(), ("models.0.chat_template=./own.jinja",)])
def test_the_job_holds_the_text_of_the_file(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    found = job(tmp_path, "other.jinja" if overrides else "./own.jinja", *overrides)
    assert isinstance(found.spec, ServeSpec)
    assert found.spec.models[0].chat_template == TEMPLATE
    assert found.included == ((tmp_path / "own.jinja").resolve(),)


def test_a_resolved_job_that_is_written_out_is_read_again(tmp_path: Path) -> None:
    found = job(tmp_path, TEMPLATE)
    assert isinstance(found.spec, ServeSpec)
    assert found.spec.models[0].chat_template == TEMPLATE
    assert found.included == ()


def test_the_file_goes_with_a_submitted_job(tmp_path: Path) -> None:
    files = job_package(job(tmp_path, "own.jinja"))
    with zipfile.ZipFile(BytesIO(files.package.content)) as archive:
        assert archive.read("own.jinja").decode() == TEMPLATE


def test_a_file_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        job(tmp_path, "./no.jinja")
    (problem,) = error.value.problems
    assert "serve.yaml:" in problem
    assert "models.0.chat_template: the file './no.jinja' cannot be read (No such file" in problem


@pytest.mark.parametrize("written", ["a\0b", "~nobody-of-this-name/x", ".", "own.png"])
def test_a_path_that_cannot_be_read_is_a_problem_of_the_file(tmp_path: Path, written: str) -> None:
    (tmp_path / "own.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(SpecError) as error:
        job(tmp_path, written)
    assert "models.0.chat_template: the file" in error.value.problems[0]


def test_vllm_gets_the_text() -> None:
    settings = EngineSettings(served(), "store", "m", "0")
    assert engine_arguments(settings)["chat_template"] == TEMPLATE
    assert "chat_template" not in engine_arguments(EngineSettings(served(None), "store", "m", "0"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TEMPLATE, None),
        ("{% generation %}{{ messages }}{% endgeneration %}", None),  # transformers' own tag
        ("a\n{% for message in messages %}", "not valid Jinja: line 2"),
        ("{{ prompt }}", "does not read `messages`"),
    ],
)
def test_a_template_is_checked_before_anything_starts(template: str, said: str | None) -> None:
    problem = template_problem(served(template))
    assert (problem is None) if said is None else (said in str(problem))


def test_another_template_than_the_trainings_is_said_by_digest(tmp_path: Path) -> None:
    artifact, sheet = model(tmp_path, "{{ messages }}"), PlanSheet()
    add_template(sheet, served(), artifact)
    (warning,) = sheet.warnings
    assert "m: prompts differ from those that m@1 was trained on: chat_template is 61f768745df2, the model" in warning


def test_the_same_template_is_no_difference(tmp_path: Path) -> None:
    artifact, sheet = model(tmp_path, TEMPLATE), PlanSheet()
    add_template(sheet, served(), artifact)
    assert sheet.warnings == []
    assert template_note(served(), artifact) is None
    assert template_note(served(None), artifact) is None


def test_a_second_template_of_the_model_is_a_difference_too(tmp_path: Path) -> None:
    note = template_note(served(), model(tmp_path, TEMPLATE, "{{ tools }}"))
    assert " and " in str(note)


def test_a_model_that_has_no_template_was_trained_without(tmp_path: Path) -> None:
    assert "the model's own is none" in str(template_note(served(), model(tmp_path)))


def test_templates_in_the_tokenizers_settings_are_found(tmp_path: Path) -> None:
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": TEMPLATE}))
    assert own_templates(tmp_path) == {TEMPLATE}
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "{{ tools }}"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert own_templates(tmp_path) == {TEMPLATE, "{{ tools }}"}
