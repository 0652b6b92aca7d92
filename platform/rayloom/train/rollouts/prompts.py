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
from rayloom.text.conversations.prompt_rows import PromptRow, PromptRows


def prepared_prompts(
    spec: TrainSpec, base: Path, files: Mapping[str, Sequence[RowFile]], folder: Path, counts_name: str
) -> Path:
    """Folder with `train/`, `heldout/` and row counts, rendered unless it is complete already.

    Raises InputError with every row that is no prompt, leaves no room for an answer, or lacks what a reward needs.
    """
    data, rollouts = spec.data, spec.rollouts
    if (folder / counts_name).exists() or not isinstance(data, PromptData) or rollouts is None:
        return folder
    from rayloom.rewards.opening import fields_of, lacking
    from rayloom.text.conversations.messages import ConversationError
    from rayloom.text.conversations.prompt_rows import prepare_prompts
    from rayloom.text.conversations.render import Renderer
    from rayloom.train.rollouts.turns import check_continues

    renderer = Renderer.of_model(base, template_kwargs=data.chat_template_kwargs)
    room = spec.sequence_length_tokens - rollouts.max_answer_tokens
    fields = fields_of(spec.rewards or ())

    def check(prompt: PromptRow) -> None:
        for field, name in fields.items():
            if prompt.row.get(field) is None:
                raise ConversationError("missing_column", lacking(field, name))

    with progress("rendering prompts", unit="rows") as bar:
        counts = prepare_prompts(data, files, renderer, room, spec.seed, folder, bar.advance, check)
    if rollouts.environment is not None:
        check_continues(renderer, PromptRows(folder / "train").row(0))
    write_durably(folder / counts_name, json.dumps(counts.as_json(), indent=2))
    return folder
