"""The machines of a Kubernetes cluster, for `rayloom manifest --nodes FILE`: what job files do not say."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import Spec


class Toleration(Spec):
    """A taint of nodes that pods tolerate."""

    key: str
    """Key of the taint."""
    value: str | None = None
    """Value of the taint. Default: any."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """Effect of the taint."""


class CacheVolume(Spec):
    """A volume for each pod's copies of artifacts, and for what engines compile."""

    gib: Annotated[int, Field(ge=1)]
    """Its size in GiB; copies take at most nine tenths of it."""
    storage_class: str | None = None
    """The storage class of a volume claim that lives as long as the pod. Default: the node's own disk."""
    host_path: Annotated[str, StringConstraints(pattern="^/")] | None = None
    """A folder of each machine that user 1000 may write to. It outlives pods: the next one on the machine finds copies
    of artifacts, and what engines compiled. Default: none; the volume goes with its pod."""

    @model_validator(mode="after")
    def _is_one_kind_of_volume(self) -> Self:
        if self.storage_class is not None and self.host_path is not None:
            raise ValueError("storage_class and host_path are two kinds of volumes: leave out one")
        return self


class NodeValues(Spec):
    """Machines, and how pods are placed on them."""

    gpus_per_node: Annotated[int, Field(ge=1)] = 8
    """GPUs of one machine. Workers of a job share a pod up to so many, since NCCL goes through sockets between pods."""
    memory_gib_per_gpu: Annotated[int, Field(ge=1)] = 96
    """Memory of a pod for each of its GPUs, of which a quarter may be shared memory."""
    cpus_per_node: Annotated[int, Field(ge=1)] = 16
    """CPUs of one machine without GPUs, for jobs that take all that there are."""
    max_cpu_nodes: Annotated[int, Field(ge=1)] = 8
    """Largest number of such machines for one job."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of the machines for workers, beside that of GPUs."""
    cache: CacheVolume | None = None
    """A volume for copies of artifacts. Default: the container's own file system."""
    gpu_pod_devices: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Further devices of a pod with all GPUs of a machine, such as `vpc.amazonaws.com/efa: 4` or `rdma/hca: 1`."""
    queue: str | None = None
    """Kueue's local queue. All of a job's pods are then admitted at once, and the cluster does not grow or shrink."""
    priority_class: str | None = None
    """Priority class of the pods, and of the job in Kueue's queue."""
