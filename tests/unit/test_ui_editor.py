"""The job editor: values changed in a text that keeps its comments, forms from schemas, checks, plans and runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.ui_store import HOSTILE, PORT, family, workbench

from rayloom.commands.shipped import templates
from rayloom.kinds import SPECS
from rayloom.ui.application import application
from rayloom.ui.editing.form_fields import FormField, form_of
from rayloom.ui.editing.yaml_edit import MISSING, changed
from rayloom.ui.running.job_logs import run_of
from rayloom.ui.workbench import Workbench

HERE = f"http://127.0.0.1:{PORT}"
ORIGIN = {"origin": HERE}
TEXT = """# What it is for.
kind: train
name: adapter   # its name
adapter: {type: lora, rank: 16}  # small
data:
  type: conversations
  # the rows
  sources:
    - {dataset: artifact:rows, repeat: 2}
    - dataset: artifact:more
      repeat: 1

learning_rate: 1e-3
"""
COMMENTS = ("# What it is for.", "# its name", "# small", "# the rows")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "other"),
        (("adapter", "rank"), 32),
        (("adapter", "alpha"), 8),
        (("adapter", "dropout"), {"a": [1, 2]}),
        (("data", "heldout_rows"), 20),
        (("data", "sources", 0, "repeat"), 5),
        (("data", "sources", 1, "repeat"), 5),
        (("data", "sources", 1, "format"), "alpaca"),
        (("micro_batch_sequences",), 2),
        (("resources", "cpus"), 2),
        (("learning_rate",), 0.5),
        (("learning_rate",), MISSING),
        (("name",), MISSING),
    ],
)
def test_a_change_keeps_comments_and_everything_else(path: tuple[Any, ...], value: Any) -> None:
    after, expected = changed(TEXT, path, value), yaml.safe_load(TEXT)
    inner = expected
    for key in path[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    assert yaml.safe_load(after) == expected
    kept = COMMENTS if path != ("name",) or value is not MISSING else (COMMENTS[0], *COMMENTS[2:])
    assert all(comment in after for comment in kept)
    assert list(yaml.safe_load(after)) == list(expected)


KEYS = st.sampled_from(["a", "b", "c d", "e-f"])
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab: #'\"\n-", max_size=6)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), KEYS, KEYS, VALUES, st.sampled_from([True, False, None]))
def test_the_new_text_says_what_it_should_whatever_the_style(
    values: dict[str, Any], outer: str, inner: str, value: Any, style: bool | None
) -> None:
    assume(not isinstance(values.get(outer), list))
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=style)
    after = yaml.safe_load(changed(text, (outer, inner), value))
    assert after[outer][inner] == value if isinstance(after[outer], dict) else True
    assert {key: one for key, one in after.items() if key != outer} == {k: v for k, v in values.items() if k != outer}


def test_an_empty_text_gets_its_first_key() -> None:
    assert yaml.safe_load(changed("", ("kind",), "train")) == {"kind": "train"}
    assert yaml.safe_load(changed("# note\n", ("a", "b"), 1)) == {"a": {"b": 1}}


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_starter_has_a_form_with_its_values(name: str) -> None:
    values = yaml.safe_load(templates()[name])
    fields = form_of(values["kind"], SPECS[values["kind"]], values)
    given_fields = {field.name: field for field in fields}
    assert {key for key, field in given_fields.items() if field.is_given} == set(values) - {"kind"}
    assert all(field.words for field in _all(fields))
    assert any(field.description for field in _all(fields))


def _all(fields: tuple[FormField, ...]) -> list[FormField]:
    return [one for field in fields for one in (field, *_all(field.fields))]


def test_a_variant_is_chosen_by_type_and_has_its_own_fields() -> None:
    values = {"adapter": {"type": "lora", "rank": 16}}
    (adapter,) = (one for one in form_of("train", SPECS["train"], values) if one.name == "adapter")
    names = [one.name for one in adapter.fields]
    assert names[0] == "type"
    assert "rank" in names
    assert "lora" in adapter.fields[0].choices


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    bench = workbench(tmp_path, may_write=True)
    family(bench.store)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello\n")
    return bench


@pytest.fixture
def client(bench: Workbench) -> TestClient:
    return TestClient(application(bench), base_url=HERE, headers=ORIGIN)


IMPORT = """kind: import
name: texts
source: {type: folder, path: ./texts}
content: {type: dataset}
licence: my own
"""


def test_checking_names_every_problem_with_its_line(client: TestClient) -> None:
    said = client.post("/editor/check", data={"text": "kind: train\nname: x\nbose: artifact:y\n"}).json()
    assert "line 3" in said["verdict"]
    assert "bose" in said["verdict"]
    assert 'data-path="learning_rate"' in said["form"]
    assert "ok: import texts" in client.post("/editor/check", data={"text": IMPORT}).json()["verdict"]


@pytest.mark.parametrize(
    "text", ["", ":", "- a", "kind: nothing", "kind: [train]", "\x00", "a: &a [*a]", "x" * 100_000]
)
def test_any_text_has_a_verdict(client: TestClient, text: str) -> None:
    answer = client.post("/editor/check", data={"text": text})
    assert answer.status_code == 200
    assert "problem" in answer.json()["verdict"]


def test_hostile_text_stays_text(client: TestClient) -> None:
    said = client.post("/editor/check", data={"text": f"kind: train\nname: {HOSTILE!r}\n"}).json()
    assert "<script" not in said["form"] + said["verdict"]
    assert "<img" not in said["form"] + said["verdict"]


def test_the_form_writes_into_the_text(client: TestClient) -> None:
    said = client.post("/editor/change", data={"text": IMPORT, "path": "source.path", "value": "./other"}).json()
    assert said["text"] == IMPORT.replace("./texts", "./other")
    said = client.post("/editor/change", data={"text": IMPORT, "path": "licence", "value": ""}).json()
    assert "licence" not in said["text"]
    assert (
        "no value" in client.post("/editor/change", data={"text": IMPORT, "path": "a", "value": "[1"}).json()["problem"]
    )


def test_a_server_that_only_reads_opens_no_file_that_a_text_names(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("password: 12345\n")
    client = TestClient(application(workbench(tmp_path)), base_url=HERE, headers=ORIGIN)
    said = client.post("/editor/check", data={"text": "kind: tune\nname: x\ntrain: ./secret.yaml\n"}).json()
    assert "12345" not in said["verdict"]
    assert "password" not in said["verdict"]
    assert "only reads" in client.post("/editor/act", data={"text": IMPORT, "file": "a.yaml", "action": "run"}).text
    assert not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize("file", ["../out.yaml", "/tmp/out.yaml", "a.py", "", "texts"])
def test_files_are_saved_below_the_folder_only(client: TestClient, file: str) -> None:
    assert client.post("/editor/act", data={"text": IMPORT, "file": file, "action": "save"}).status_code == 404


def test_another_file_is_replaced_only_if_that_is_marked(client: TestClient, bench: Workbench) -> None:
    fields = {"text": IMPORT, "file": "a.yaml", "action": "save"}
    assert client.post("/editor/act", data=fields).status_code == 200
    assert "another file" in client.post("/editor/act", data=fields | {"text": "kind: x\n"}).text
    assert (bench.folder / "a.yaml").read_text() == IMPORT
    assert client.post("/editor/act", data=fields | {"text": "kind: x\n", "replace": "yes"}).status_code == 200


def test_a_plan_is_made_in_a_process_of_its_own_and_leaves_no_file(client: TestClient, bench: Workbench) -> None:
    answer = client.post("/editor/act", data={"text": IMPORT, "file": "plan.yaml", "action": "plan"})
    assert "not made yet" in answer.text
    assert sorted(path.name for path in bench.folder.glob("*plan*")) == []


def test_a_job_that_is_run_makes_its_artifact(client: TestClient, bench: Workbench) -> None:
    fields = {"text": IMPORT, "file": "import.yaml", "action": "run"}
    answer = client.post("/editor/act", data=fields, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    log, end = answer.headers["location"].rsplit("/", 1)[-1], time.monotonic() + 60
    while run_of(bench.store.log_directory, log).state == "running" and time.monotonic() < end:
        time.sleep(0.2)
    assert run_of(bench.store.log_directory, log).state == "finished"
    assert run_of(bench.store.log_directory, log).file == str(bench.folder / "import.yaml")
    assert any(entry.name == "texts" for entry in bench.index.read_now().entries)
