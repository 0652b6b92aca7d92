"""What tests of clusters share: networks where they are allowed, and a cluster that only the test knows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rayloom.errors import ResourceError
from rayloom.submit import own_networks


@contextlib.contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Inside, a local cluster is known to this process only, and beside others of this machine."""
    before = os.environ.get("RAYLOOM_CACHE")
    os.environ["RAYLOOM_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["RAYLOOM_CACHE"]
        if before is not None:
            os.environ["RAYLOOM_CACHE"] = before


def networks_if_allowed(num_nodes: int) -> own_networks.OwnNetworks | None:
    try:
        return own_networks.make(num_nodes)
    except ResourceError:
        return None
