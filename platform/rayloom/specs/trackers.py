"""`trackers` of a training job: where its numbers also go while it runs; the artifact has them all in any case."""

from __future__ import annotations

from typing import Literal

from rayloom.specs.base import Spec


class TensorBoard(Spec):
    """Event files for `tensorboard --logdir FOLDER`. Needs the package tensorboardX."""

    type: Literal["tensorboard"]
    folder: str = "runs"
    """Holds a folder for each artifact. Relative to the job file."""
