"""Data sets of a hub on loopback: subset and split by the card, columns and classes, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import TypeAdapter, ValidationError
from support.hub import OWNER_TOKEN, LoopbackHub, loopback_hub

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, resolve, run
from rayloom.errors import InputError, ResourceError
from rayloom.reading.files import table_rows
from rayloom.reading.files_in_place import files_in_place, stamp_of_files
from rayloom.reading.hub import _commit_of
from rayloom.reading.hub_datasets import hub_uri_parts
from rayloom.reading.sources import row_files
from rayloom.specs.training.labelled_data import LabelledSource
from rayloom.specs.training.training_data import ConversationSource
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.judged_rows import judged_row
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.labelled.examples import Example
from rayloom.text.labelled.labelled_rows import labelled_rows

CARD = """---
license: apache-2.0
configs:
- config_name: en
  data_files:
  - {split: train, path: en/train-*}
  - {split: test, path: en/test-*}
- config_name: de
  data_files: de/*
dataset_info:
- config_name: en
  features:
  - {name: question, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': negative, '1': positive}}}
---
A data set.
"""
ASKED = {"role": "user", "content": "Hi"}
CHAT = [{"messages": [ASKED, {"role": "assistant", "content": f"Hello {n}"}]} for n in (1, 2)]


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch, tmp_path / "hf") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), cache=tmp_path / "cache")


def imported(store: Store, folder: Path, source: str, content: str = "{type: dataset}") -> Artifact:
    job = folder / "import.yaml"
    head = f"kind: import\nname: thing\nlicence: unknown\ncontent: {content}\n"
    job.write_text(head + f"source: {{type: hub, repository: {source}}}\n")
    return run(load_job(job), store)[0]


def names(artifact: Artifact) -> list[str]:
    return [file.path for file in artifact.manifest.files]


def rows(source: dict[str, Any], artifact: Artifact | None = None) -> list[Any]:
    spec = ConversationSource.model_validate({"format": "messages"} | source)
    return [row for _, row in table_rows(row_files(spec, artifact), spec)]


def add_card(hub: LoopbackHub, name: str = "org/two", **how: bool) -> None:
    files = {
        "README.md": CARD,
        "dataset_infos.json": json.dumps({"en": {}}),
        "en/train-0.parquet": parquet([{"question": "good?", "label": 1}, {"question": "bad?", "label": 0}]),
        "en/train-1.parquet": parquet([{"question": "hidden?", "label": -1}]),
        "en/test-0.parquet": parquet([{"question": "test?", "label": 1}]),
        "de/alles.parquet": parquet([{"question": "gut?", "label": 1}]),
    }
    hub.add(name, {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}, **how)


# -- the card decides --------------------------------------------------------------------------------------------------


def test_subset_and_split_by_the_card_with_classes_commit_and_licence(
    hub: LoopbackHub, store: Store, tmp_path: Path
) -> None:
    add_card(hub)
    artifact = imported(store, tmp_path, "org/two, subset: en")
    assert names(artifact) == ["en/train-0.parquet", "en/train-1.parquet"]
    metrics = artifact.manifest.metrics
    commit = hub.repositories["dataset", "org/two"].branches["main"]
    assert metrics["source"] == {"commit": commit, "subset": "en", "split": "train"}
    assert artifact.manifest.licences == ("apache-2.0",)
    assert [row["label"] for row in rows({"dataset": "artifact:thing"}, artifact)] == ["positive", "negative", None]
    other = imported(store, tmp_path, "org/two, subset: en, split: test")
    assert names(other) == ["en/test-0.parquet"] and other.id != artifact.id


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("", r"2 subsets, and the job names none.*`subset:`.*one of: en, de"),
        (", subset: fr", r"no subset 'fr'.*It has: en, de"),
        (", subset: en, split: validation", r"no split 'validation'.*org/two@main \(en\).*It has: train, test"),
        (", revision: master", r"no such revision.*org/two@master.*branches and tags: main"),
    ],
)
def test_a_part_that_must_be_named_or_is_not_there_is_listed(
    hub: LoopbackHub, store: Store, tmp_path: Path, part: str, message: str
) -> None:
    add_card(hub)
    with pytest.raises(InputError, match=message):
        imported(store, tmp_path, f"org/two{part}")


def test_without_a_card_the_names_of_files_say_the_split(hub: LoopbackHub, store: Store, tmp_path: Path) -> None:
    hub.add("org/plain", {"data/train-0.parquet": parquet(CHAT), "data/test-0.parquet": parquet(CHAT[:1])})
    assert names(imported(store, tmp_path, "org/plain")) == ["data/train-0.parquet"]


FORMATS = {
    "rows.jsonl": json_lines(CHAT),
    "rows.json": json.dumps(CHAT).encode(),
    "rows.jsonl.gz": gzip.compress(json_lines(CHAT)),
    "rows.jsonl.zst": zstandard.compress(json_lines(CHAT)),
    "rows.parquet": parquet(CHAT),
    "böse [name] #1 ?.jsonl": json_lines(CHAT),
}


@pytest.mark.parametrize(
    "name", FORMATS
)  # by name: workers of one run must agree on a test's id, and gzip writes the time
def test_formats_of_the_hub_in_the_store_and_in_place(
    hub: LoopbackHub, store: Store, tmp_path: Path, name: str
) -> None:
    hub.add("org/chat", {"README.md": b"# no head", "dataset_infos.json": b"{}", name: FORMATS[name]})
    artifact = imported(store, tmp_path, "org/chat")
    assert names(artifact) == [name]
    assert rows({"dataset": "artifact:thing"}, artifact) == CHAT
    assert rows({"uri": "hf://datasets/org/chat"}) == CHAT


def test_in_place_a_revision_is_one_commit_and_a_change_another_stamp(hub: LoopbackHub) -> None:
    made = hub.add("org/chat", {"train.parquet": parquet(CHAT)})
    first = files_in_place("hf://datasets/org/chat@main")
    commit = made.branches["main"]
    assert [file.uri for file in first] == [f"hf://datasets/org/chat@{commit}/train.parquet"]
    changed = made.commit({"train.parquet": parquet(CHAT[:1])}, "next")
    second = files_in_place("hf://datasets/org/chat@next", "*.parquet")
    assert changed in second[0].uri and stamp_of_files(first) != stamp_of_files(second)
    assert rows({"uri": f"hf://datasets/org/chat@{commit}/train.parquet"}) == CHAT
    # Main has moved on meanwhile, but this process reads one commit.
    made.commit({"train.parquet": parquet(CHAT[:1])})
    assert rows({"uri": "hf://datasets/org/chat@main"}) == CHAT


def test_classes_that_only_the_parquet_file_names(hub: LoopbackHub) -> None:
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    made = datasets.Dataset.from_dict({"tokens": [["I", "am", "Ada"]], "tags": [[0, 0, 1]]}, features=features)
    made.to_parquet(buffer := io.BytesIO())
    hub.add("org/ner", {"train.parquet": buffer.getvalue()})
    assert rows({"uri": "hf://datasets/org/ner"}) == [{"tokens": ["I", "am", "Ada"], "tags": ["O", "O", "B-PER"]}]


def test_a_number_without_a_class_is_a_bad_row(hub: LoopbackHub) -> None:
    add_card(hub)
    files = dict(hub.repositories["dataset", "org/two"].files("main")[1])
    hub.repositories["dataset", "org/two"].commit(
        files | {"en/train-0.parquet": parquet([{"question": "?", "label": 7}])}
    )
    (bad, *_) = rows({"uri": "hf://datasets/org/two", "subset": "en"})
    assert str(bad) == "unknown_class: label is 7, and its classes are 0 to 1"


# -- columns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"prompt": "question"}, {"prompt": "q", "answer": {"text": "a"}, "a.b": 3}),
        ({"completion": "answer.text"}, {"completion": "a", "question": "q", "answer": {"text": "a"}, "a.b": 3}),
        ({"x": "a.b"}, {"x": 3, "question": "q", "answer": {"text": "a"}}),
        ({"question": "answer", "answer": "question"}, {"question": {"text": "a"}, "answer": "q", "a.b": 3}),
        ({"question": "answer.text"}, {"question": "a", "answer": {"text": "a"}, "a.b": 3}),
        ({"prompt": "missing.part"}, {"question": "q", "answer": {"text": "a"}, "a.b": 3}),
    ],
)  # fmt: skip
def test_columns_under_other_names(tmp_path: Path, columns: dict[str, str], expected: dict[str, Any]) -> None:
    row = {"question": "q", "answer": {"text": "a"}, "a.b": 3}
    for name, content in {"rows.jsonl": json_lines([row]), "rows.parquet": parquet([row])}.items():
        (tmp_path / name).write_bytes(content)
        assert rows({"uri": f"file://{tmp_path / name}", "columns": columns}) == [expected]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_subset_and_split_are_the_hubs() -> None:
    check = TypeAdapter(ConversationSource).validate_python
    with pytest.raises(ValidationError, match="subset is for data sets of the hub"):
        check({"dataset": "artifact:a", "format": "messages", "subset": "en"})
    with pytest.raises(ValidationError, match="`datasets/` is written in a `uri` only"):
        check({"dataset": "hf://datasets/a/b", "format": "messages"})
    with pytest.raises(InputError, match="choose twice"):
        files_in_place("hf://datasets/org/chat@" + "0" * 40 + "/x.parquet", split="train")
    with pytest.raises(InputError, match="no address of a data set"):
        hub_uri_parts("hf://org/chat")


def test_gated_private_unknown_and_wrong_tokens(
    hub: LoopbackHub, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_card(hub, "org/gated", is_gated=True)
    add_card(hub, "org/secret", is_private=True)
    with pytest.raises(InputError, match=r"accepted its terms.*Accept its terms at .*/datasets/org/gated, "):
        imported(store, tmp_path, "org/gated, subset: en")
    for missing in ("org/secret", "org/none"):
        with pytest.raises(InputError, match=f"no such repository.*{missing}@main.*private one needs the token"):
            imported(store, tmp_path, missing)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(InputError, match=r"does not know this token.*Correct HF_TOKEN"):
        imported(store, tmp_path, "org/gated, subset: en")
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert len(names(imported(store, tmp_path, "org/gated, subset: en"))) == 2


def test_offline_and_unreachable(
    hub: LoopbackHub, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    add_card(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE forbids"):
        imported(store, tmp_path, "org/two, subset: en")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="cannot be reached"):
        imported(store, tmp_path, "org/two, subset: en")


def test_a_repository_that_is_a_script(hub: LoopbackHub, store: Store, tmp_path: Path) -> None:
    made = hub.add("org/script", {"script.py": "import os", "README.md": "---\nlicense: mit\n---\n"})
    made.commit({"default/train/0000.parquet": parquet(CHAT)}, "refs/convert/parquet")
    with pytest.raises(InputError, match=r"loading script.*write hf://org/script@refs/convert/parquet"):
        imported(store, tmp_path, "org/script")
    assert rows({"uri": "hf://datasets/org/script@refs/convert/parquet"}) == CHAT
    assert names(imported(store, tmp_path, "org/script, revision: refs/convert/parquet"))


def with_files(pattern: str) -> dict[str, bytes | str]:
    """A repository whose card's subset has these files."""
    card = f"---\nconfigs: [{{config_name: a, data_files: {pattern}}}]\n---\n"
    return {"README.md": card, "a.jsonl": "{}"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": "# only words"}, "no files of rows"),
        ({"a.png": b"\x89PNG", "b.png": b"\x89PNG"}, r"no rows that can be read, but files of \.png"),
        (with_files("[7]"), "card cannot be used"),
        (with_files("x/*"), "no files of rows"),
        (with_files("/etc/hostname"), "does not have: /etc/hostname"),
        (with_files("'hf://datasets/org/two/de/*'"), "names a file outside the repository: hf://datasets/org/two"),
    ],
)
def test_cards_and_repositories_that_cannot_be_used(
    hub: LoopbackHub, store: Store, tmp_path: Path, files: dict[str, bytes | str], message: str
) -> None:
    add_card(hub)
    hub.add("org/odd", files)
    with pytest.raises(InputError, match=message):
        imported(store, tmp_path, "org/odd")


def test_a_cut_download_goes_on_and_other_bytes_are_refused(hub: LoopbackHub, store: Store, tmp_path: Path) -> None:
    add_card(hub)
    hub.fault = lambda request: 500 if request.startswith("GET /lfs") else None
    with pytest.raises(ResourceError, match="Run the same command again"):
        imported(store, tmp_path, "org/two, subset: en")
    cut = iter([-1, -1])  # in the middle of the body, once for each connection
    hub.fault = lambda request: next(cut, None) if request.startswith("GET /lfs") else None
    assert len(names(imported(store, tmp_path, "org/two, subset: en"))) == 2
    hub.fault = lambda _: None
    content = hub.repositories["dataset", "org/two"].files("main")[1]["en/test-0.parquet"]
    digest = hashlib.sha256(content).hexdigest()
    hub.objects[digest] = content[:-1] + b"x"
    with pytest.raises(ResourceError, match="other bytes than the hub says"):
        imported(store, tmp_path, "org/two, subset: en, split: test")


def test_shards_whose_columns_differ_are_read_row_by_row(hub: LoopbackHub) -> None:
    older = [{"messages": CHAT[0]["messages"], "source": "a"}]
    hub.add("org/mixed", {"train-0.parquet": parquet(CHAT), "train-1.parquet": parquet(older)})
    assert [sorted(row) for row in rows({"uri": "hf://datasets/org/mixed"})] == [
        ["messages"], ["messages"], ["messages", "source"],
    ]  # fmt: skip


# -- shapes of known sets ----------------------------------------------------------------------------------------------


HH = "\n\nHuman: Hi\n\nAssistant: "
ANSWERED = [ASKED, {"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi", "input": "", "output": "good"},
        {"messages": ANSWERED, "prompt": "Hi", "prompt_id": "1"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "good"}]},
        {"prompt": "Hi", "completion": "good"},
    ],
)
def test_the_form_of_conversations_is_known_by_their_columns(row: dict[str, Any]) -> None:
    assert [(m["role"], m["content"]) for m in conversation(row, None, {}, "row 1").messages] == [
        ("user", "Hi"), ("assistant", "good"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "is_paired"),
    [
        ({"chosen": f"{HH}good", "rejected": f"{HH}bad"}, True),
        ({"prompt": "Hi", "chosen": ANSWERED, "rejected": [ASKED, {"role": "assistant", "content": "bad"}]}, True),
        ({"prompt": "Hi", "completion": "good", "label": True}, False),
        ({"conversations": [{"from": "human", "value": "Hi"}], "chosen": "good", "rejected": "bad"}, True),
    ],
)
def test_the_form_of_judged_answers_is_known_by_their_columns(row: dict[str, Any], is_paired: bool) -> None:
    read = judged_row(row, None, "row 1")
    read.check(is_paired)
    assert read.prompt[-1]["content"] == "Hi" and read.better[-1]["content"] == "good"


def test_columns_of_no_known_form_are_named() -> None:
    with pytest.raises(ConversationError, match=r"columns question, answer, which are of no known format.*`columns`"):
        conversation({"question": "Hi", "answer": "good"}, None, {}, "row 1")


def test_words_and_tags_of_the_hub_are_entities(hub: LoopbackHub) -> None:
    card = (
        "---\ndataset_info:\n  features:\n  - {name: tokens, list: string}\n"
        "  - name: ner_tags\n    list: {class_label: {names: {'0': O, '1': B-PER, '2': I-PER}}}\n---\n"
    )
    row = {"id": "0", "tokens": ["Ada", "Lovelace", "wrote"], "ner_tags": [1, 2, 0]}
    hub.add("org/conll", {"README.md": card, "train.jsonl": json_lines([row, row | {"ner_tags": [1, 2]}])})
    source = {"uri": "hf://datasets/org/conll", "read": {"type": "tokens", "names": {"PER": "person"}}}
    spec = TypeAdapter(LabelledSource).validate_python(source)
    first, second = (found for _, found in labelled_rows(row_files(spec, None), spec.read, spec))
    assert isinstance(first, Example) and first.text == "Ada Lovelace wrote"
    assert [(span.start, span.end, span.label) for span in first.spans] == [(0, 12, "person")]
    assert str(second) == "has 3 words and 2 tags"


def test_numbers_of_labels_are_their_names_and_hidden_ones_no_label(hub: LoopbackHub) -> None:
    add_card(hub)
    read = {"type": "table", "text": "question"}
    source = {"uri": "hf://datasets/org/two", "subset": "en", "read": read}
    spec = TypeAdapter(LabelledSource).validate_python(source)
    found = [row for _, row in labelled_rows(row_files(spec, None), spec.read, spec)]
    assert [row.labels if isinstance(row, Example) else str(row) for row in found] == [
        ("positive",), ("negative",), "has no column label; its columns are question, label",
    ]  # fmt: skip


def test_the_commit_of_data_read_in_place_stands_among_the_jobs_inputs(
    hub: LoopbackHub, store: Store, tmp_path: Path
) -> None:
    made = hub.add("org/raw", {"train.jsonl": json_lines([{"text": "a"}])})
    source = "{name: raw, domain: raw, uri: 'hf://datasets/org/raw@next', format: {type: jsonl}}"
    (file := tmp_path / "clean.yaml").write_text(
        f"kind: clean\nname: corpus\noutput: {{type: rows}}\nsources:\n- {source}\n"
    )
    versions = []
    for card in ("# one", "# two"):
        commit = made.commit({"train.jsonl": json_lines([{"text": "a"}]), "README.md": card.encode()}, "next")
        _commit_of.cache_clear()  # as in another process
        job = resolve(load_job(file), store)
        assert job.outside["sources.0.uri"].startswith(f"{commit} ")
        versions.append(job.version)
    assert versions[0] == versions[1]
