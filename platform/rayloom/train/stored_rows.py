"""The prepared rows in a folder, opened as what the training job's spec trains on."""

from __future__ import annotations

from pathlib import Path

from rayloom.specs.train import TrainSpec
from rayloom.specs.training.tasks import step_separator_of
from rayloom.text.conversations.preference_rows import PreferenceRows
from rayloom.text.conversations.prompt_rows import PromptRows
from rayloom.text.conversations.step_rows import StepRows
from rayloom.text.labelled.encoded_rows import TaskRows
from rayloom.text.labelled.example_rows import ExampleRows
from rayloom.text.packed.shards import TokenShards
from rayloom.train.streaming.streamed_rows import StreamedRows, is_streamed

AnyRows = TokenShards | StreamedRows | TaskRows | ExampleRows | PreferenceRows | StepRows | PromptRows


def stored_rows(spec: TrainSpec, folder: Path) -> AnyRows:
    """The prepared rows in a folder, of the kind that the spec trains on."""
    if step_separator_of(spec.headed_task) is not None:
        return StepRows(folder)
    if spec.preference is not None or spec.learns_reward:
        return PreferenceRows(folder, spec.sequence_length_tokens)
    if spec.task is not None:
        return TaskRows(folder) if spec.prompt is None else ExampleRows(folder)
    if spec.policy is not None:
        return PromptRows(folder)
    if is_streamed(folder):
        return StreamedRows(folder, spec.sequence_length_tokens)
    return TokenShards(folder, spec.sequence_length_tokens)
