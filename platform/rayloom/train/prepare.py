"""Makes a TrainJob from a spec and its parents: prepared rows for training and held-out loss, and the tokenizer.

Also the same job with the paths of another node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens_of
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.policies import PromptData
from rayloom.specs.training.preferences import PreferenceData
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.row_workers import RowWorkers
from rayloom.train.job import TrainJob, rows_of_run
from rayloom.train.job_rows import (
    COUNTS_NAME,
    DATA_NAME,
    SHARE_NAME,
    conversation_rows,
    labelled_task_rows,
    preference_rows,
    row_counts,
    source_files,
)
from rayloom.train.objectives.recorded import records_of
from rayloom.train.rollouts.prompts import prepared_prompts
from rayloom.train.stored_rows import AnyRows, stored_rows
from rayloom.train.streaming.streamed_rows import streamed_corpus
from rayloom.train.weights.retention import check_retention, earlier_of, start_of
from rayloom.train.weights.teacher import check_teacher, teacher_of
from rayloom.train.weights.vocabulary import corpus_tokenizer, templated_tokenizer, tokenizer_for

RESULT_NAME = "result"
"""The folder of the finished model in the work folder."""

STREAMED_FOLDER = "streamed"
"""The folder in the work folder that says where the shards of a streamed corpus are."""


def job_of(
    spec: TrainSpec,
    parents: Mapping[str, Artifact],
    work: Path,
    out: Path,
    workers: RowWorkers | None = None,
    store: Store | None = None,
    *,
    may_sample: bool = False,
) -> TrainJob:
    """The job, with its rows prepared in `work` if that is not done yet; by other processes here, or by `workers`.

    `store`: where rows of conversations are kept, and looked for first. `may_sample`: if there are many conversations,
    some of them are enough, as for a plan; `row_counts` then says which share.
    Raises InputError if rows, base and tokenizer do not fit together.
    """
    base = parents["base"].path if "base" in parents else None
    train: list[Path] = []
    if isinstance(spec.data, ConversationData):
        tokenizer = templated_tokenizer(spec.data, parents["base"].path, work) if base else Path()
        data = conversation_rows(spec, parents, work / DATA_NAME, tokenizer, workers, store, may_sample=may_sample)
    elif isinstance(spec.data, LabelledData):
        data = labelled_task_rows(spec, parents, work / DATA_NAME)
        tokenizer = parents["base"].path
    elif isinstance(spec.data, PreferenceData):
        data = preference_rows(spec, parents, work / DATA_NAME, workers)
        tokenizer = parents["base"].path
    elif isinstance(spec.data, PromptData):
        tokenizer, files = parents["base"].path, source_files(spec.data.sources, parents)
        data = prepared_prompts(spec, tokenizer, files, work / DATA_NAME, COUNTS_NAME)
    elif spec.is_streamed:
        train = [work / STREAMED_FOLDER]
        data = streamed_corpus(parents["data.corpus"], "train", train[0])
        tokenizer = corpus_tokenizer(base, data / "tokenizer")
    else:
        data = parents["data.corpus"].path
        tokenizer = corpus_tokenizer(base, data / "tokenizer")
    train, heldout, token_shares = train or [data / "train"], {"heldout": data / "heldout"}, [1.0]
    if spec.replay is not None:
        general = parents["replay.corpus"].path
        train.append(general / "train")
        token_shares = [1 - spec.replay.share, spec.replay.share]
        heldout = {"domain": data / "heldout", "general": general / "heldout"}
    shards = [stored_rows(spec, folder) for folder in train]
    looked_at = row_counts(work).get(SHARE_NAME, 1.0)
    sizes, shares = [round(len(found) / looked_at) for found in shards], row_shares(token_shares, shards)
    job = TrainJob(
        spec=spec,
        base=base,
        tokenizer=tokenizer,
        train=tuple(train),
        shares=shares,
        heldout=heldout,
        work=work,
        out=out,
        num_rows=rows_of_run(spec, sizes, shares),
        micro_batch_sequences=spec.micro_batch_sequences,
        teacher=teacher_of(spec, parents),
        start=start_of(spec, parents),
        earlier=earlier_of(spec, parents),
    )
    check_rows(job)
    check_retention(spec, base)
    job = replace(job, tokenizer=tokenizer_for(spec.objective_in_use, tokenizer, work))
    check_teacher(spec, job.teacher, job.tokenizer, job.base)
    return replace(job, records=records_of(spec, job.teacher, job.train))


def row_shares(token_shares: Sequence[float], shards: Sequence[AnyRows]) -> tuple[float, ...]:
    """Each data set's share of the rows that gives the wanted share of tokens, as rows may be partly filled."""
    rows = [share * len(s) / max(1, s.num_tokens) for share, s in zip(token_shares, shards, strict=True)]
    return tuple(share / sum(rows) for share in rows) if sum(rows) else tuple(token_shares)


def check_rows(job: TrainJob) -> None:
    """Raises InputError if there are no rows, if they are too long for the base, or made with another tokenizer."""
    from rayloom.pretrained import AutoTokenizer
    from rayloom.text.tokenizer_files import tokenizer_digest

    length = job.spec.sequence_length_tokens
    digest = tokenizer_digest(AutoTokenizer.from_pretrained(job.tokenizer))
    for folder in (*job.train, *job.heldout.values()):
        shards = stored_rows(job.spec, folder)
        if shards.tokenizer_digest != digest:
            what = "These token shards were made with another tokenizer than the model's"
            fix = "Make the corpus with tokenizer: {type: model, model: …} naming the base, or train fresh weights."
            raise InputError(what, where=str(folder), fix=fix)
        if not len(shards):
            what = f"There is not one row of {length} tokens here (there are {shards.num_tokens} tokens)"
            raise InputError(what, where=str(folder), fix="Give more text, or lower sequence_length_tokens.")
    if job.base is not None:
        limit = context_tokens_of(job.base)
        if limit is not None and length > limit:
            what = f"sequence_length_tokens is {length}, but the base has {limit} positions"
            raise InputError(what, where=str(job.base), fix=f"Give at most {limit}.")


def job_with_rows(
    spec: TrainSpec,
    parents: Mapping[str, Artifact],
    work: Path,
    out: Path,
    copy: WorkCopy,
    workers: RowWorkers | None = None,
) -> TrainJob:
    """As `job_of`; rows that an earlier attempt prepared on another node are fetched, and new ones are put there."""
    copy.fetch(DATA_NAME)
    counts = work / DATA_NAME / COUNTS_NAME
    is_prepared = counts.exists()
    job = job_of(spec, parents, work, out, workers, copy.store)
    if not is_prepared and counts.exists():
        copy.put(DATA_NAME)
    return job


# A training job on another node: the same artifacts and rows, in that node's folders.


def on_this_node(job: TrainJob, parents: Mapping[str, Artifact]) -> TrainJob:
    """The job with this node's paths. `parents`: the artifacts that the spec names, by path of the reference.

    Files are fetched from the store, once for all workers of the node. If workers share a disk, the job is returned
    unchanged.
    """
    if job.copy is None:
        return job
    work, rows = job.copy.folder, job.rows or job.copy
    for folder in (work, rows.folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(rows.folder / ".preparing"):
        rows.fetch(DATA_NAME)
        here = job_of(job.spec, parents, rows.folder, work / RESULT_NAME)
    return replace(
        here,
        work=work,
        num_rows=job.num_rows,
        rows=job.rows,
        micro_batch_sequences=job.micro_batch_sequences,
        retry_after_steps=job.retry_after_steps,
        copy=job.copy,
    )
