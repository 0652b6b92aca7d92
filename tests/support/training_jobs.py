"""Small training jobs on made-up rows, for tests of the loop that need neither Ray nor real text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.models.responders.subject import Subject
from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec
from rayloom.specs.train import TrainSpec
from rayloom.text.packed.shards import SHARD_TOKENS, ShardWriter, TokenShards
from rayloom.text.tokenizer_files import tokenizer_digest
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.prepare import job_of
from rayloom.train.process_group import Group
from rayloom.train.weights.vocabulary import tokenizer_for

VOCABULARY = 67
LENGTH = 16
MIXTURES = {"./mixture": 2, "./mixture-of-all": 8}
"""Bases that `small_job` can write, and how many experts a token has."""
ONE = Group(0, 1, torch.device("cpu"))


def small_spec(**changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "kind": "train",
        "name": "small",
        "architecture": {
            "type": "decoder", "num_layers": 2, "hidden_size": 16, "num_heads": 2, "feed_forward_size": 32,
            "max_positions": 32,
        },
        "data": {"type": "corpus", "corpus": "artifact:made-up"},
        "sequence_length_tokens": LENGTH,
        "micro_batch_sequences": 2,
        "global_batch_tokens": 4 * LENGTH,
        "num_steps": 12,
        "learning_rate": 0.01,
        "precision": "fp32",
        "schedule": {"type": "cosine", "warmup_steps": 2},
        "checkpoints": {"every_steps": 4},
    }  # fmt: skip
    return TrainSpec.model_validate(values | changes)


def write_rows(
    folder: Path,
    num_documents: int,
    seed: int,
    digest: str = "made-up",
    shard_tokens: int = SHARD_TOKENS,
    most_tokens: int = 40,
) -> Path:
    """Documents in which each token mostly follows from the one before, so that there is something to learn."""
    random = np.random.default_rng(seed)
    writer = ShardWriter(folder, VOCABULARY, digest, shard_tokens)
    for _ in range(num_documents):
        size = int(random.integers(5, most_tokens))
        first = int(random.integers(3, VOCABULARY))
        steps = np.where(random.random(size) < 0.9, 7, random.integers(0, VOCABULARY, size))
        writer.add(3 + (first + np.cumsum(steps)) % (VOCABULARY - 3))
    writer.close()
    return folder


def write_tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        folder
    )
    return folder


def write_teacher(folder: Path) -> Path:
    """A random model with the vocabulary of `write_tokenizer`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(9)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.5, **sizes)).save_pretrained(folder)
    return write_tokenizer(folder)


def write_mixture(folder: Path, model_type: str = "qwen3_moe", experts_per_token: int = 2) -> Path:
    """A random mixture of 8 experts with the vocabulary of `write_tokenizer`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(9)
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 8, "moe_intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 8, "vocab_size": VOCABULARY,
        "num_experts_per_tok": experts_per_token, "initializer_range": 0.2,
    }  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.mul_(20)  # so that rounding hardly ever decides which expert a token goes to
    model.save_pretrained(folder)
    return write_tokenizer(folder)


def made_up_corpus(
    store: Store,
    name: str = "made-up",
    num_documents: int = 400,
    shard_tokens: int = SHARD_TOKENS,
    most_tokens: int = 40,
) -> Artifact:
    """Publishes a corpus: by default 400 documents to train on and 20 held out, with their tokenizer."""
    from transformers import AutoTokenizer

    def stage(_: JobSpec, made: Build) -> Outcome:
        write_tokenizer(made.directory / "tokenizer")
        digest = tokenizer_digest(AutoTokenizer.from_pretrained(made.directory / "tokenizer"))
        write_rows(made.directory / "train", num_documents, 1, digest, shard_tokens, most_tokens)
        write_rows(made.directory / "heldout", 20, seed=2, digest=digest)
        return Outcome("corpus")

    source = {"name": "made-up", "dataset": "./rows", "format": {"type": "jsonl"}, "domain": "made-up"}
    output = {"type": "tokens", "tokenizer": {"type": "train"}}
    values = {"kind": "clean", "name": name, "sources": [source], "output": output}
    return build(ResolvedJob(CleanSpec.model_validate(values), 1, {}, Path.cwd()), store, stage)[0]


def streamed_job(folder: Path, store: str, corpus: str, **changes: Any) -> TrainJob:
    """A job on a corpus of a store, of which this process fetches what it reads."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    data = {"type": "corpus", "corpus": f"artifact:{corpus}", "streamed": True}
    there = Store(store)
    parents = {"data.corpus": there.open(there.resolve(corpus))}
    return job_of(small_spec(data=data, **changes), parents, work, folder / "out")


def small_job(folder: Path, **changes: Any) -> TrainJob:
    """A job whose work and result lie in `folder`; call again with the same folder to run it again.

    `./teacher` as its base is the model that teaches it, too; `./mixture` is a mixture of experts, and of
    `./mixture-of-all` each token goes to all of them, so that rounding decides nothing.
    """
    data = folder / "data"
    if not data.exists():
        write_tokenizer(data / "tokenizer")
        write_rows(data / "train", 60, seed=1)
        write_rows(data / "heldout", 8, seed=2)
        write_teacher(data / "teacher")
    work = folder / "work"
    work.mkdir(exist_ok=True)
    spec = small_spec(**changes)
    if spec.base in MIXTURES and not (data / spec.base).exists():
        write_mixture(data / spec.base, experts_per_token=MIXTURES[spec.base])
    size = len(TokenShards(data / "train", LENGTH))
    return TrainJob(
        spec=spec,
        base=data / spec.base if spec.base else None,
        tokenizer=tokenizer_for(spec.objective_in_use, data / "tokenizer", work),
        train=(data / "train",),
        shares=(1.0,),
        heldout={"heldout": data / "heldout"},
        work=work,
        out=folder / "out",
        num_rows=rows_of_run(spec, [size], [1.0]),
        micro_batch_sequences=spec.micro_batch_sequences,
        teacher=None if spec.teacher_in_use is None else Subject("teacher", "big", data / "teacher"),
    )
