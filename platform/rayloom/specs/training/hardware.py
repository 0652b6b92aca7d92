"""`hardware`: GPUs by number and name, such as `8xH100-80GB` or `4x8xH100-80GB`, to plan a job for on any machine.

Memory and dense half-precision speed are from the makers' data sheets; matrix products reach less than that, and
training less again. `rayloom plan --probe` measures the machine at hand.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator


@dataclass(frozen=True)
class Device:
    """One type of accelerator."""

    name: str
    memory_bytes: int
    peak_flops: float
    """FLOP/s of dense matrix products in bf16, or in fp16 if `has_bf16` is False."""
    has_bf16: bool = True
    has_float8: bool = False
    """Whether it multiplies matrices in float8: compute capability 8.9 and later."""
    link_bytes_per_second: float = 25e9
    """What a device sends to others of its node, one way: NVLink where there is one, else about what PCIe gives."""


_GB = 10**9
DEVICES = {
    device.name: device
    for device in (
        Device("B200-180GB", 180 * _GB, 2250e12, link_bytes_per_second=900e9, has_float8=True),
        Device("H200-141GB", 141 * _GB, 989e12, link_bytes_per_second=450e9, has_float8=True),
        Device("H100-80GB", 80 * _GB, 989e12, link_bytes_per_second=450e9, has_float8=True),
        Device("H100-PCIe-80GB", 80 * _GB, 756e12, has_float8=True),
        Device("A100-80GB", 80 * _GB, 312e12, link_bytes_per_second=300e9),
        Device("A100-40GB", 40 * _GB, 312e12, link_bytes_per_second=300e9),
        Device("L40S-48GB", 48 * _GB, 362e12, has_float8=True),
        Device("A10-24GB", 24 * _GB, 125e12),
        Device("L4-24GB", 24 * _GB, 121e12, has_float8=True),
        Device("V100-32GB", 32 * _GB, 125e12, has_bf16=False, link_bytes_per_second=150e9),
        Device("T4-16GB", 16 * _GB, 65e12, has_bf16=False),
    )
}


def device_named(driver_name: str) -> Device | None:
    """The device that the driver calls by this name (`NVIDIA H100 80GB HBM3`, `NVIDIA A100-SXM4-40GB`), or None.

    Variants of a chip with other speeds, such as the H100 NVL, are not in the table.
    """
    words = set(re.split(r"[\s-]+", driver_name))
    same_chip = [device for device in DEVICES.values() if device.name.partition("-")[0] in words]
    if "NVL" in words or not same_chip:
        return None
    return next((device for device in same_chip if ("PCIe" in device.name) == ("PCIe" in words)), same_chip[0])


@dataclass(frozen=True)
class Fleet:
    """Equal nodes of equal devices."""

    num_nodes: int
    devices_per_node: int
    device: Device

    @property
    def num_devices(self) -> int:
        return self.num_nodes * self.devices_per_node


def fleet_of(text: str) -> Fleet:
    """The fleet that the text names. Raises ValueError if it names none."""
    match = re.fullmatch(r"(?:(\d+)x)?(?:(\d+)x)?([A-Za-z]\w*(?:-\w+)+)", text)
    if match is None:
        raise ValueError("must be COUNTxDEVICE or NODESxCOUNTxDEVICE, such as 8xH100-80GB or 4x8xH100-80GB")
    first, second, name = match.groups()
    by_name = {device.lower(): device for device in DEVICES}
    if name.lower() not in by_name:
        near = difflib.get_close_matches(name.lower(), by_name, 1)
        hint = f"; did you mean {by_name[near[0]]}" if near else ""
        raise ValueError(f"knows no device {name}{hint}; the table has {', '.join(DEVICES)}")
    nodes, per_node = (int(first), int(second)) if second else (1, int(first or 1))
    if not nodes * per_node:
        raise ValueError("must have at least one node and one device")
    return Fleet(nodes, per_node, DEVICES[by_name[name.lower()]])


def _known_device(name: str) -> str:
    if name not in DEVICES:
        near = difflib.get_close_matches(name, DEVICES, 1)
        hint = f"; did you mean {near[0]}" if near else ""
        raise ValueError(f"is no device of the table{hint}; it has {', '.join(DEVICES)}")
    return name


DeviceName = Annotated[str, AfterValidator(_known_device)]
"""`H100-80GB`."""


def _check(text: str) -> str:
    fleet_of(text)
    return text


Hardware = Annotated[str, AfterValidator(_check)]
"""`8xH100-80GB`, or `4x8xH100-80GB` for four nodes."""
