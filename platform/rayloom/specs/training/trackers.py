"""`trackers` of a training job: services to which its metrics are logged too; the artifact always has all of them."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from rayloom.specs.base import Rule, Spec

# Records of a job in MLflow, in addition to its artifact.

TrackingUri = Annotated[
    str,
    StringConstraints(pattern=r"^(https?://.+|sqlite:///.+|postgresql://.+|mysql.*://.+|databricks(://.+)?)$"),
    Rule("must be a server (http://HOST:PORT, databricks) or a database (sqlite:////absolute/path.db, postgresql://…)"),
]


class MlflowRecords(Spec):
    """Records in MLflow, which must be installed (`pip install mlflow-skinny`, or mlflow for its pages)."""

    uri: TrackingUri | None = None
    """`http://HOST:5000`, or `sqlite:////absolute/path.db` for a database without a server. Default: such a database,
    `mlflow.db`, beside the job file."""
    experiment: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Default: the name of the job."""


class TensorBoard(Spec):
    """Event files for `tensorboard --logdir FOLDER`. Needs the package tensorboardX."""

    type: Literal["tensorboard"]
    folder: str = "runs"
    """Holds a folder for each artifact. Relative to the job file."""


class Mlflow(MlflowRecords):
    """A run in MLflow with the job's settings and its metrics by step; a resumed job continues its run."""

    type: Literal["mlflow"]


class WeightsAndBiases(Spec):
    """A run in Weights & Biases. Needs the package wandb."""

    type: Literal["wandb"]
    project: str | None = None
    """Default: the name of the job."""
    mode: Literal["offline", "online"] = "offline"
    """offline: files in `folder`, which `wandb sync` sends later; nothing leaves the machine before. online: sent at
    once, for which wandb must be logged in."""
    folder: str = "runs"
    """Relative to the job file."""


Tracker = Annotated[TensorBoard | Mlflow | WeightsAndBiases, Field(discriminator="type")]
