"""Where else a job keeps its records, beside its artifact."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from rayloom.specs.base import Rule, Spec

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
