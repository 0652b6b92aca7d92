"""The fields of jobs whose work is one process: on a cluster, one task on a node with room for it."""

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Bundle, JobSpec


class OneTaskSpec(JobSpec):
    """The fields of a job whose work is one process: on a cluster, one task on a node with room for it."""

    num_cpus: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """CPUs of the task that does the work on a cluster."""

    def bundles(self) -> list[Bundle]:
        return [Bundle(self.num_cpus, 0)]


class GpuTaskSpec(OneTaskSpec):
    """The fields of a job whose work is one process that can use a GPU."""

    num_gpus: Annotated[Literal[0, 1], "unfingerprinted"] = 0
    """GPUs of the task that does the work on a cluster. Elsewhere this machine's GPU is used if there is one."""

    def bundles(self) -> list[Bundle]:
        return [Bundle(self.num_cpus, self.num_gpus)]
