"""The guide's path with the hub on both ends: data, base and adapter from it, and the results back to it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file
from support.hub import OWNER_TOKEN, STRANGER_TOKEN, LoopbackHub, loopback_hub
from support.models import made, write_adapter, write_model
from support.service import MODEL, free_port, served_by, write_job

from rayloom.artifacts.store import Artifact, Store
from rayloom.cli import main
from rayloom.commands.shipped import TEMPLATES
from rayloom.dispatch import load_job, resolve, run
from rayloom.specs.training.prompted import PROMPT_FILE, SHOWN_FILE
from rayloom.train.__main__ import main as train

CARD = "---\nlicense: {licence}\n---\nFor tests.\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch, tmp_path / "hf") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    return Store(str(tmp_path / "store"))


@pytest.fixture
def filled(hub: LoopbackHub, tmp_path: Path) -> LoopbackHub:
    """A hub with a base, a plain adapter of it, and chat rows in two Parquet files."""
    (base := tmp_path / "base").mkdir()
    write_model(base, num_attention_heads=2, num_key_value_heads=1)  # vLLM's attention on CPUs begins at heads of 32
    (base / "README.md").write_text(CARD.format(licence="apache-2.0"))
    write_adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter" / "README.md").write_text(CARD.format(licence="mit"))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "them/base"}))
    hub.add_folder("them/base", base)
    hub.add_folder("them/adapter", tmp_path / "adapter")
    hub.add("them/chat", {"README.md": CARD.format(licence="cc-by-4.0"), **_shards()})
    return hub


def _shards() -> dict[str, bytes]:
    shards = {}
    for shard in range(2):
        rows = [
            {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}]}
            for n in range(20 * shard, 20 * shard + 20)
        ]
        pq.write_table(pa.Table.from_pylist(rows), buffer := io.BytesIO())
        shards[f"data/train-0000{shard}-of-00002.parquet"] = buffer.getvalue()
    return shards


def _run(store: Store, folder: Path, **job: Any) -> Artifact:
    file = folder / f"{job['name']}.yaml"
    file.write_text(yaml.safe_dump(job))
    return run(load_job(file), store)[0]


TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "tuned",
    "base": "hf://them/base",
    "data": {"type": "conversations", "sources": [{"dataset": "hf://them/chat"}], "heldout_rows": 8},
    "adapter": {"type": "lora", "rank": 4},
    "sequence_length_tokens": 64,
    "micro_batch_sequences": 2,
    "global_batch_tokens": 128,
    "num_steps": 4,
    "learning_rate": 1e-3,
}


def _trained_without_ray(store: Store, folder: Path) -> Artifact:
    """The training job of the hub's data and base, once its references were imported."""
    (file := folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    parents = resolve(load_job(file), store).parents
    assert {field: found.manifest.name for field, found in parents.items()} == {
        "base": "hub.them-base",
        "data.sources.0.dataset": "hub.them-chat",
    }
    named = {"base": "artifact:hub.them-base", "data.sources.0.dataset": "artifact:hub.them-chat"}
    overrides = [part for field, text in named.items() for part in ("--set", f"{field}={text}")]
    assert train([str(file), *overrides]) == 0
    return store.open(store.resolve("tuned"))


def test_from_the_hub_to_the_hub(
    filled: LoopbackHub,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuned = _trained_without_ray(store, tmp_path)
    assert tuned.manifest.metrics["rows"]["train"]["rows"] == 32
    # The adapter that was made elsewhere is merged into the base that it names.
    merged = _run(store, tmp_path, kind="merge", name="merged", adapter="hf://them/adapter")
    assert merged.manifest.licences == ("apache-2.0", "mit")
    small = _run(
        store,
        tmp_path,
        kind="quantize",
        name="small",
        model="artifact:merged",
        scheme={"type": "int8"},
        rows_of="artifact:tuned",
        max_quality_loss=2.0,
        max_engine_difference=None,
        num_compared_answers=0,
    )
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    for name, relation, base in (("tuned", "adapter", "them/base"), ("small", "quantized", "them/base")):
        assert main(["push", name, f"hf://me/{name}"]) == 0
        _, files = filled.repositories["model", f"me/{name}"].files("main")
        (tmp_path / "README.md").write_bytes(files["README.md"])
        head = metadata_load(tmp_path / "README.md")
        assert head is not None
        assert (head["base_model"], head["base_model_relation"]) == (base, relation)
        assert head["license"] == "other" and "apache-2.0" in head["license_name"]
        assert "heldout" not in " ".join(files) and str(tmp_path) not in files["README.md"].decode()
    _, files = filled.repositories["model", "me/tuned"].files("main")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "them/base"
    # What was pushed comes back as it was.
    again = _run(store, tmp_path, kind="merge", name="again", adapter="hf://me/tuned")
    assert again.manifest.parents[0].name == "hub.me-tuned"
    weights = store.open(store.resolve("hub.me-tuned")).path / "adapter_model.safetensors"
    assert {name: t.tolist() for name, t in load_file(weights).items()} == {
        name: t.tolist() for name, t in load_file(tuned.path / "adapter_model.safetensors").items()
    }
    assert small.manifest.content == "model"
    assert "hub.them-chat" in _shown(capsys, "artifacts", "lineage", "tuned")


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def _guides_job() -> dict[str, Any]:
    """The job file under "The Hugging Face hub" in the guide."""
    guide = (Path(__file__).parents[2] / "jobs" / "README.md").read_text(encoding="utf-8")
    section = guide.partition("\n## The Hugging Face hub\n")[2]
    job: dict[str, Any] = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
    return job


def _starter(kind: str) -> dict[str, Any]:
    """The job file that `rayloom init KIND` writes."""
    job: dict[str, Any] = yaml.safe_load((TEMPLATES / f"{kind}.yaml").read_text(encoding="utf-8"))
    return job


def _of_subset(subset: str, *tables: bytes) -> dict[str, bytes]:
    """A data set of one subset: its card, and a Parquet file for each table."""
    card = f"---\nlicense: mit\nconfigs:\n- config_name: {subset}\n  data_files: {subset}/*.parquet\n---\n"
    shards = {f"{subset}/train-{number:05}.parquet": table for number, table in enumerate(tables)}
    return {"README.md": card.encode()} | shards


@pytest.mark.full
def test_the_guides_path_from_the_hub_to_the_hub_through_a_service(
    filled: LoopbackHub, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own job files on tiny repositories of the names in them, and an adapter of the hub trained on."""
    job = _guides_job()
    chat, sums = job["data"]["sources"]
    base = job["base"].removeprefix("hf://")
    filled.add_folder(base, tmp_path / "base")
    filled.add(chat["dataset"].removeprefix("hf://"), _of_subset(chat["subset"], *_shards().values()))
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), table := io.BytesIO())
    filled.add(sums["dataset"].removeprefix("hf://"), _of_subset(sums["subset"], table.getvalue()))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    filled.add_folder("them/tuned", tmp_path / "adapter")
    job["data"]["heldout_rows"] = 8
    job |= {"sequence_length_tokens": 128, "micro_batch_sequences": 2, "global_batch_tokens": 256}
    job |= {"adapter": {"type": "lora", "rank": 4, "alpha": 8, "start_from": "hf://them/tuned"}}
    tuned = _run(store, tmp_path, **job)
    assert {one.name for one in tuned.manifest.parents} >= {"hub.them-tuned"}
    assert tuned.manifest.metrics["rows"]["train"]["rows"] == 52
    _run(store, tmp_path, **_starter("merge"))
    small = _run(store, tmp_path, **_starter("quantize"))
    assert small.manifest.metrics["engine_difference"]["mean_nats"] < 0.05
    serve, port = _starter("serve"), free_port()
    (model,) = serve["models"]
    job_file = write_job(tmp_path, port, {"max_model_length_tokens": 128}, model={"model": model["model"]})
    with served_by(job_file, port, store) as service:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        answer = service.post(json.dumps(asked).encode())
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert main(["push", "my-model-int8", "hf://me/my-model-int8"]) == 0
    _, pushed = filled.repositories["model", "me/my-model-int8"].files("main")
    (tmp_path / "README.md").write_bytes(pushed["README.md"])
    head = metadata_load(tmp_path / "README.md")
    assert head is not None and head["base_model"] == base


# -- publishing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(store: Store) -> Artifact:
    return made(store, "model", "model", write_model)


def test_a_dry_run_shows_the_card_and_asks_no_one(
    hub: LoopbackHub, model: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _shown(capsys, "push", "model", "hf://me/model", "--dry-run")
    assert shown.startswith("---\nlicense: cc0-1.0\n") and 'from_pretrained("me/model"' in shown
    assert hub.requests == []


def test_a_push_that_was_cut_goes_on_and_stale_weights_go(
    hub: LoopbackHub, model: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    hub.fault = lambda request: 500 if request.startswith("POST") and "/commit/" in request else None
    assert main(["push", "model", "hf://me/model"]) == 4
    assert "Run the same command again" in capsys.readouterr().err
    assert list(hub.repositories["model", "me/model"].files("main")[1]) == [".gitattributes"]
    uploaded = len([one for one in hub.requests if one.startswith("PUT")])
    hub.fault = lambda _: None
    assert main(["push", "model", "hf://me/model"]) == 0
    assert len([one for one in hub.requests if one.startswith("PUT")]) == uploaded
    made = hub.repositories["model", "me/model"]
    made.commit(dict(made.files("main")[1]) | {"model-00002-of-00002.safetensors": b"old", "notes.md": b"mine"})
    assert main(["push", "model", "hf://me/model"]) == 0
    names = set(made.files("main")[1])
    assert "notes.md" in names and "model-00002-of-00002.safetensors" not in names


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "Nobody may write to the hub without a token"),
        ("hf_expired", "does not know this token"),
        (STRANGER_TOKEN, "forbids this: You don't have the rights"),
    ],
)
def test_a_push_without_the_right_to_write(
    hub: LoopbackHub,
    model: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    message: str,
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", "model", "hf://me/model"]) == 3
    assert message in capsys.readouterr().err
    assert not hub.repositories


@pytest.mark.parametrize("licence", ["unknown", "CC-BY-ND-4.0", "MIT AND CC-BY-NC-ND-4.0", "All rights reserved"])
def test_a_licence_that_forbids_it_keeps_it_private(
    hub: LoopbackHub,
    model: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    licence: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert main(["push", "model", "hf://me/model", "--licence", licence]) == 3
    assert "may not be published" in capsys.readouterr().err and not hub.repositories
    assert main(["push", "model", "hf://me/model", "--licence", licence, "--private"]) == 0
    assert hub.repositories["model", "me/model"].is_private
    hub.add("me/public", {"a": b""}, "model")
    assert main(["push", "model", "hf://me/public", "--licence", licence, "--private"]) == 3
    assert "public already" in capsys.readouterr().err


def test_a_folder_and_what_cannot_be_published(
    hub: LoopbackHub, model: Artifact, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "model", str(tmp_path / "out" / "model")]) == 0
    assert {"README.md", "config.json", "model.safetensors"} <= {one.name for one in (tmp_path / "out/model").iterdir()}
    assert main(["push", "model", str(tmp_path / "out" / "model")]) == 3
    assert "not empty" in capsys.readouterr().err
    made(store, "headless", "model", lambda folder: (folder / "config.json").write_text("{}"))
    made(store, "words", "report", lambda folder: (folder / "a.txt").write_text("a"))
    for name, message in (("headless", r"has no *.safetensors"), ("words", "is a report")):
        assert main(["push", name, "hf://me/model"]) == 3
        assert message in capsys.readouterr().err
    assert main(["push", "model", "hf://model"]) == 3
    assert "no repository of the hub" in capsys.readouterr().err


def test_rows_that_a_prompt_shows_are_published_if_asked_for_only(
    hub: LoopbackHub, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(folder: Path) -> None:
        write_model(folder)
        (folder / PROMPT_FILE).write_text("{}")
        (folder / SHOWN_FILE).write_text('{"text": "Great.", "label": "good"}\n')

    made(store, "asked", "model", write)
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert main(["push", "asked", "hf://me/asked"]) == 0
    assert "--with-demonstrations" in capsys.readouterr().err
    _, files = hub.repositories["model", "me/asked"].files("main")
    assert PROMPT_FILE in files and SHOWN_FILE not in files
    assert main(["push", "asked", "hf://me/asked", "--with-demonstrations"]) == 0
    assert "--with-demonstrations" not in capsys.readouterr().err
    source = {"type": "hub", "repository": "me/asked", "revision": "main"}
    job = {"kind": "import", "name": "back", "source": source, "content": {"type": "model"}, "licence": "CC0-1.0"}
    back = _run(store, tmp_path, **job)
    assert (back.path / SHOWN_FILE).read_text() == '{"text": "Great.", "label": "good"}\n'
