"""The tiny job of each kind whose result is written down, run in this process without Ray."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from rayloom.artifacts.build import ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.kinds import SPECS, imported
from rayloom.models.responders.responder import respond_to_each, responder_for
from rayloom.models.responders.subject import Subject
from rayloom.specs.predict import PredictSpec
from rayloom.text.packed.shards import ShardWriter
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.loop import loop
from support.chat_server import chat_server
from support.models import VOCABULARY_SIZE, made, tiny_llama
from support.passes import cleaned
from support.searches import Laboratory, search_in, tune_spec
from support.tasks import write_encoder
from support.tokenizers import chatml
from support.training_jobs import ONE, small_job

LENGTH = 32


def import_job(folder: Path) -> Any:
    (folder / "files").mkdir()
    for name in ("a.jsonl", "b.txt"):
        (folder / "files" / name).write_text(f'{{"text": "{name}"}}\n')
    values = {
        "source": {"type": "folder", "path": str(folder / "files")}, "content": {"type": "dataset"}, "licence": "MIT",
    }  # fmt: skip
    artifact = _made("import", Store(str(folder / "store")), {}, values)
    return {"digest": artifact.manifest.digest, "licences": artifact.manifest.licences}


def clean_job(folder: Path) -> Any:
    texts = [_prose(number % 40, 90 + number % 40) for number in range(48)] + ["too short", "x" * 400]
    texts += [f"{_prose(7, 97)} w1000"]  # a near duplicate
    rows = [json.dumps({"text": text, "label": "even" if n % 2 else "odd"}) for n, text in enumerate(texts)]
    (folder / "rows").mkdir()
    (folder / "rows" / "a.jsonl").write_text("\n".join(rows) + "\n")
    source = {"name": "pages", "dataset": str(folder / "rows"), "format": {"type": "jsonl"}, "domain": "web"}
    corpus = {
        "sources": [source],
        "output": {"type": "tokens", "tokenizer": {"type": "train", "vocabulary_size": 320}, "heldout_share": 0.2},
    }
    artifact = cleaned(folder, corpus)
    kept = {name: value for name, value in artifact.manifest.metrics.items() if isinstance(value, int | dict)}
    return {"digest": artifact.manifest.digest, "metrics": kept}


def generate_job(folder: Path) -> Any:
    """One task of each way of comparing; all answers come from a function behind an endpoint."""

    def say(prompt: str) -> str:
        number = int(prompt.rpartition(" ")[2]) if prompt[-1].isdigit() else 0
        return f"{number % 3}, I'm sure" if number % 5 else "As an AI, I cannot say"

    rows = [{"prompt": f"How many of these are left over of {number}", "id": number} for number in range(20)]
    (folder / "rows").mkdir()
    (folder / "rows" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(str(folder / "store"))
    given = made(store, "rows", "dataset", lambda target: shutil.copy(folder / "rows" / "a.jsonl", target))
    found = {}
    with chat_server(say) as server:
        engine = {"type": "endpoint", "url": server.url, "model": "m", "licence": "CC0-1.0"}
        for task in ({"type": "answers"}, {"type": "consistency", "num_samples": 2, "agree_by": "numeric"}):
            values = {"engine": engine, "task": task | {"data": {"dataset": "artifact:rows", "keep": ["id"]}}}
            artifact = _made("generate", store, {"task.data.dataset": given}, values)
            kept = {name: artifact.manifest.metrics[name] for name in ("num_rows", "dropped", "verbs")}
            found[task["type"]] = kept | {"digest": artifact.manifest.digest}
    return found


def compare_job(folder: Path) -> Any:
    """A judge that prefers the longer answer, and now and then says nothing; all answers stand in the rows."""

    def say(prompt: str) -> str:
        first, _, second = prompt.partition("[Answer A]\n")[2].partition("[Answer B]\n")
        if "seven" in prompt:
            return "I cannot say"
        return "A" if len(first.strip()) > len(second.partition("\n")[0]) else "B"

    rows = [{"prompt": f"Q{n}", "one": "x" * (n % 5), "two": "seven" if n == 7 else "yy"} for n in range(15)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    given = made(Store(str(folder / "store")), "rows", "dataset", lambda to: (to / "a.jsonl").write_text(text))
    models = [{"name": name, "type": "column", "column": name} for name in ("one", "two")]
    with chat_server(say) as server:
        values = {
            "data": {"dataset": "artifact:rows"}, "models": models,
            "judge": {"type": "endpoint", "url": server.url, "model": "m"},
        }  # fmt: skip
        artifact = _made("compare", Store(str(folder / "store")), {"data.dataset": given}, values)
    kept = ("outcomes", "pairs", "position", "longer_wins")
    return {name: artifact.manifest.metrics[name] for name in kept}


def train_job(folder: Path) -> Any:
    changes: dict[str, dict[str, Any]] = {
        "decoder": {},
        "smaller micro batch": {"micro_batch_sequences": 1, "optimizer": {"type": "muon"}},
        "encoder": {
            "architecture": {
                "type": "encoder", "num_layers": 2, "hidden_size": 16, "num_heads": 2, "feed_forward_size": 32,
                "max_positions": 32,
            },
            "objective": {"type": "masked"},
        },
    }  # fmt: skip
    return {name: _losses(folder / name, **change) for name, change in changes.items()}


def _losses(folder: Path, **changes: Any) -> list[list[float]]:
    folder.mkdir()
    events: list[dict[str, Any]] = []
    loop.train(small_job(folder, **changes), ONE, events.append)
    steps = [[event["loss"], event["gradient_norm"]] for event in events if event["event"] == "step"]
    return steps + [[float(event["mean_nats"])] for event in events if "mean_nats" in event]


def tune_job(folder: Path) -> Any:
    found = {}
    for name in ("random", "tpe"):
        (folder / name).mkdir()
        search = Laboratory(search_in(folder / name, tune_spec(searcher={"type": name}))).work().search
        found[name] = [
            [trial.values["learning_rate"], trial.step, trial.outcome] for trial in search.history.trials.values()
        ]
    return found | {"trained": _losses(folder / "trained")}


def evaluate_job(folder: Path) -> Any:
    store = Store(str(folder / "store"))
    parents = {"model": _model(store), "checks.0.rows_of": _heldout(store)}
    checks = [
        {"type": "heldout_loss", "rows_of": "artifact:trained"},
        {"type": "answers", "name": "says", "prompts": ["Who?"], "contains": "zebra", "max_new_tokens": 4},
    ]
    artifact = _made("evaluate", store, parents, {"model": "artifact:model", "checks": checks})
    return artifact.manifest.metrics["checks"]


def predict_job(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    from rayloom.models.task_models import save_task
    from rayloom.specs.training.tasks import TextClassification

    def write(target: Path) -> None:
        names = {0: "no", 1: "yes"}
        model = AutoModelForSequenceClassification.from_pretrained(write_encoder(target), id2label=names)
        _set_weights(model, 3)
        model.save_pretrained(target)
        save_task(TextClassification(type="text_classification", labels=("no", "yes")), 32, target)

    store = Store(str(folder / "store"))
    subject = Subject.of("model", made(store, "tagger", "model", write), store)
    spec = PredictSpec(kind="predict", name="golden", model="artifact:tagger", data="artifact:rows")
    texts = ({"text": "a good film"}, {"text": "not a good film"}, {"text": ""})
    return respond_to_each(responder_for(subject, spec.generation), list(texts), 2)


def merge_job(folder: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    store = Store(str(folder / "store"))
    base = _model(store)

    def write(target: Path) -> None:
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned = get_peft_model(_llama(), config)
        _set_weights(tuned, 5, only_trained=True)
        tuned.save_pretrained(str(target))
        chatml().save_pretrained(target)

    adapter = made(store, "adapter", "adapter", write, {"base": base})
    return _weights(_made("merge", store, {"adapter": adapter, "base": base}, {"adapter": "artifact:adapter"}))


def quantize_job(folder: Path) -> Any:
    store = Store(str(folder / "store"))
    parents = {"model": _model(store), "rows_of": _heldout(store)}
    # vLLM has no attention for heads as small as this model's.
    values = {"model": "artifact:model", "rows_of": "artifact:trained", "max_engine_difference": None}
    scheme = {"scheme": {"type": "int8", "smoothing": None}}
    return _weights(_made("quantize", store, parents, values | scheme))


JOBS: dict[str, Callable[[Path], Any]] = {
    "import": import_job,
    "clean": clean_job,
    "generate": generate_job,
    "train": train_job,
    "tune": tune_job,
    "evaluate": evaluate_job,
    "compare": compare_job,
    "predict": predict_job,
    "merge": merge_job,
    "quantize": quantize_job,
}
"""All but `serve`, whose result is how fast one machine answered."""


def _made(kind: str, store: Store, parents: dict[str, Artifact], values: dict[str, Any]) -> Artifact:
    from rayloom.kinds import KINDS

    spec = SPECS[kind].model_validate({"kind": kind, "name": "golden"} | values)
    return build(ResolvedJob(spec, 1, parents, Path.cwd()), store, imported(KINDS[kind].stage))[0]


def _prose(seed: int, num_words: int) -> str:
    dice = random.Random(seed)
    common = ("the", "river", "and", "a", "boat", "that", "leaves", "with", "lamp", "to", "be", "of", "letters")
    words = (dice.choice(common) if dice.random() < 0.7 else f"w{dice.randrange(999)}" for _ in range(num_words))
    return " ".join(words)


def _set_weights(model: nn.Module, seed: int, only_trained: bool = False) -> None:
    """Weights that are the same on every processor, and exact in bf16."""
    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not only_trained:
                values = numbers.integers(-64, 65, parameter.shape) / 512
                parameter.copy_(torch.from_numpy(values) + (1.0 if parameter.ndim == 1 else 0.0))


def _llama() -> Any:
    model = tiny_llama()
    _set_weights(model, 1)
    return model


def _model(store: Store) -> Artifact:
    def write(folder: Path) -> None:
        _llama().to(torch.bfloat16).save_pretrained(folder)
        chatml().save_pretrained(folder)

    return made(store, "model", "model", write)


def _heldout(store: Store) -> Artifact:
    def write(folder: Path) -> None:
        numbers = np.random.default_rng(2)
        digest = tokenizer_digest(chatml())
        writer = ShardWriter(folder / "heldout", VOCABULARY_SIZE, digest, sequence_length_tokens=LENGTH)
        for _ in range(8):
            writer.start_row()
            for size in (20, 10):
                writer.add(numbers.integers(0, VOCABULARY_SIZE, size), np.arange(size) % 2 == 0)
        writer.close()

    return made(store, "trained", "adapter", write, sequence_length_tokens=LENGTH)


def _weights(artifact: Artifact) -> Any:
    """Type, shape, mean size and weighted sum of each tensor."""
    tensors = load_file(artifact.path / "model.safetensors")
    return {name: [str(t.dtype), list(t.shape), float(t.float().abs().mean())] for name, t in sorted(tensors.items())}
