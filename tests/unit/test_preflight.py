"""What `plan` shows of conversations: where rows go, what is trained in colour, what is unusual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.text import Text
from support.models import small_config
from support.tokenizers import chatml
from transformers import LlamaForCausalLM

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.base import JobSpec
from rayloom.specs.ingest import ImportSpec
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations import row_sample
from rayloom.text.conversations.render import Renderer
from rayloom.text.packed.preview import CONTEXT, MAX_TOKENS, TRAINED, marked
from rayloom.text.packed.shards import Row
from rayloom.train import plan as train_plan
from rayloom.train.plan import plan, plan_all
from rayloom.train.planning import preflight
from rayloom.train.planning import sheet as sheet_module


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("store")))

    def published(name: str, content: Any, files: Any) -> Artifact:
        spec = ImportSpec.model_validate(
            {
                "kind": "import",
                "name": name,
                "source": {"type": "folder", "path": f"/{name}"},
                "content": {"type": content},
                "licence": "MIT",
            }
        )

        def stage(_: JobSpec, building: Build) -> Outcome:
            files(building.directory)
            return Outcome(content)

        return build(ResolvedJob(spec, 1, {}, Path.cwd()), store, stage)[0]

    def model(directory: Path) -> None:
        torch.manual_seed(0)
        tokenizer = chatml()
        sizes = {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = small_config(len(tokenizer), **sizes, max_position_embeddings=256)
        LlamaForCausalLM(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    def rows(directory: Path) -> None:
        found = [{"instruction": f"Tell me {n % 50}", "output": f"{n % 50} it is."} for n in range(60)]
        found[0] |= {"topic": "numbers", "source": None}
        (directory / "rows.json").write_text(json.dumps([*found, {"instruction": "Why?", "output": ""}]))

    return {"base": published("base", "model", model), "data.sources.0.dataset": published("rows", "dataset", rows)}


@pytest.fixture(autouse=True)
def store_of_one_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path))


def shown(example: Any) -> str:
    assert isinstance(example, Text)
    return example.markup


def planned(
    parents: dict[str, Artifact], leave_out: tuple[str, ...] = ("empty_answer",), planner: Any = plan, **changes: Any
) -> PlanSheet:
    data: dict[str, Any] = {
        "type": "conversations",
        "sources": [{"dataset": "artifact:rows", "format": "alpaca"}],
        "heldout_rows": 10,
        "leave_out": list(leave_out),
    } | changes.pop("data", {})
    values = {
        "kind": "train",
        "name": "t",
        "base": "artifact:base",
        "data": data,
        "adapter": {"type": "lora", "rank": 4},
        "sequence_length_tokens": 128,
        "global_batch_tokens": 128,
        "num_epochs": 1,
        "learning_rate": 2e-4,
    }
    return planner(TrainSpec.model_validate(values | changes), parents, Path.cwd())  # type: ignore[no-any-return]


def test_a_plan_says_where_every_row_goes(parents: dict[str, Artifact]) -> None:
    sheet = planned(parents)
    facts = dict(sheet.facts)
    assert sheet.problems == []
    assert facts["rows of source 0 artifact:rows"] == "61"
    assert facts["left out: empty_answer"] == "1"
    assert "10 held out" in facts["rows trained on"]
    assert "longest" in facts["tokens of a row"]
    assert facts["serving"] == "the server can load it beside its base, or merged"
    assert any("training rows are few" in line for line in sheet.warnings)
    assert any("say the same as an earlier one" in line for line in sheet.warnings)


def test_the_first_examples_show_what_is_trained_in_colour(parents: dict[str, Artifact]) -> None:
    example = planned(parents).examples[1]
    assert isinstance(example, Text)
    in_green = [example.plain[span.start : span.end] for span in example.spans if span.style == TRAINED]
    dim = [example.plain[span.start : span.end] for span in example.spans if span.style == CONTEXT]
    assert in_green[0].endswith("it is.<|im_end|>")
    assert dim[0].startswith("<|im_start|>user\nTell me")
    assert dim[0].endswith("<|im_start|>assistant\n")


def test_a_plan_of_many_rows_looks_at_a_sample_and_is_kept(
    parents: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sample, "SAMPLE_BYTES", 1000)
    first = planned(parents)
    assert dict(first.facts)["looked at"].endswith("(--all looks at every row)")
    with monkeypatch.context() as patch:
        patch.setattr(sheet_module, "findings_of", None)
        again = planned(parents)
    assert (again.facts, again.warnings) == (first.facts, first.warnings)
    assert [shown(one) for one in again.examples] == [shown(one) for one in first.examples]
    whole = planned(parents, planner=plan_all)
    assert dict(whole.facts)["rows of source 0 artifact:rows"] == "61"
    assert "looked at" not in dict(whole.facts)
    assert planned(parents).facts == whole.facts
    assert dict(planned(parents, learning_rate=1e-4).facts)["rows"] == dict(whole.facts)["rows"]


def test_long_examples_are_cut_and_say_so() -> None:
    renderer = Renderer(chatml())
    tokens = renderer.tokenizer("one two " * MAX_TOKENS, return_tensors="np")["input_ids"][0]
    row = Row(tokens, tokens > 0, tokens * 0)
    text = marked(row, slice(0, len(tokens)), renderer.tokenizer)
    assert text.plain.endswith(f"… and {len(tokens) - MAX_TOKENS} tokens more")


def test_a_plan_says_what_other_methods_would_hold(parents: dict[str, Artifact]) -> None:
    sheet = planned(parents)
    said = dict(sheet.facts)["memory by method"]
    assert said.startswith("all weights ")
    assert ", lora " in said
    assert ", lora on nf4 " in said
    assert not [line for line in sheet.warnings if "of memory" in line]


def test_a_method_that_the_job_cannot_have_is_not_offered(parents: dict[str, Artifact]) -> None:
    sharded = planned(parents, adapter={"type": "none"}, sharding={"zero_stage": 3})
    assert "nf4" not in dict(sharded.facts)["memory by method"]


def test_a_job_larger_than_this_machine_is_a_warning(
    parents: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_plan, "available_bytes", lambda: 1000)
    assert any("and 1 kB are free here: submit the job" in line for line in planned(parents).warnings)


def test_too_many_parameters_for_the_rows_are_a_warning(
    parents: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PARAMETERS_PER_TRAINED_TOKEN", 1)
    whole, high = planned(parents, adapter={"type": "none"}), planned(parents, adapter={"type": "lora", "rank": 16})
    assert any("trained token: adapter: {type: lora} does as well" in line for line in whole.warnings)
    assert any("trained token: a lower rank does as well, such as 8" in line for line in high.warnings)


def test_bad_rows_and_unusual_settings_are_said_before_training(parents: dict[str, Artifact]) -> None:
    assert "1 row cannot be trained on" in planned(parents, leave_out=()).problems[0]
    sheet = planned(parents, learning_rate=0.1, adapter={"type": "lora", "rank": 4, "weight_decomposed": True})
    assert "vLLM refuses DoRA" in dict(sheet.facts)["serving"]
    assert any("learning_rate 0.1 is far from what lora uses: 0.0002" in line for line in sheet.warnings)
    cut = planned(parents, learning_rate=0.1, adapter={"type": "none"}, keep_layers=[0])
    assert not any("is far from" in line for line in cut.warnings)  # what lacks layers learns much anew
    told = planned(parents, data={"system": "Be kind."})
    assert any("requests to the server must send it too" in line for line in told.warnings)


def test_keys_without_a_meaning_are_named_once(parents: dict[str, Artifact]) -> None:
    assert dict(planned(parents).facts)["keys without a meaning"] == "topic (1): not read"
