"""The prompts of a policy's job, prepared once, each with the fields that its rewards need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayloom.artifacts.durable import write_durably
from rayloom.observe.progress import progress
from rayloom.reading.files import RowFile
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.policies import PromptData
from rayloom.text.conversations.prompt_rows import PromptRows


def prepared_prompts(
    spec: TrainSpec, base: Path, files: Mapping[str, Sequence[RowFile]], folder: Path, counts_name: str
) -> Path:
    """Folder with `train/`, `heldout/` and row counts, rendered unless it is complete already.

    Raises InputError with every row that is no prompt, leaves no room for an answer, or lacks what a reward needs.
    """
    data, rollouts = spec.data, spec.rollouts
    if (folder / counts_name).exists() or not isinstance(data, PromptData) or rollouts is None:
        return folder
    from rayloom.rewards.opening import check_rows
    from rayloom.text.conversations.prompt_rows import prepare_prompts
    from rayloom.text.conversations.render import Renderer
    from rayloom.train.rollouts.turns import check_continues

    renderer = Renderer.of_model(base, template_kwargs=data.chat_template_kwargs)
    room = spec.sequence_length_tokens - rollouts.max_answer_tokens
    with progress("rendering prompts", unit="rows") as bar:
        counts = prepare_prompts(data, files, renderer, room, spec.seed, folder, bar.advance)
    for part in ("train", "heldout"):
        rows = PromptRows(folder / part)
        if rollouts.environment is not None:
            check_continues(renderer, rows.row(0))
        check_rows(spec.rewards or (), ((row.origin, row.row) for row in map(rows.row, range(len(rows)))))
    write_durably(folder / counts_name, json.dumps(counts.as_json(), indent=2))
    return folder
