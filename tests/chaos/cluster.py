"""What may go wrong on a cluster, done for real and told in a table: `make chaos-cluster`.

A training job of two workers on a head and two workers meets one fault after the other, and must end with the losses of
the run that nobody disturbed; a cleaning job, a search and a service lose nodes with their disks; then the head dies
under another service. The faults are those of tests/cluster. Prints, last, one JSON object; exits with 1 where
something was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fleet_faults import FLEET_FAULTS, node_lost_while_serving
from support.serving_cluster import debian, serving_cluster
from support.serving_faults import head_restarted
from support.training_cluster import training_cluster
from support.training_faults import FAULTS, Result, undisturbed

TRAINING_PORTS, SERVING_PORTS = (6431, 8293), (6432, 8294)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="names of faults; default: all")
    only = parser.parse_args().only
    # Three nodes share this machine's cores: threads that wait for work must leave them to others, as in tests.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    chosen = [fault for fault in (*FAULTS, *FLEET_FAULTS) if only is None or fault.__name__ in only]
    found: list[Result] = []
    table = Table("fault", "outcome", "work lost", "took", title="Faults on a cluster", title_justify="left")

    def add(result: Result, began: float) -> None:
        found.append(result)
        mark = "" if result.is_as_it_should_be else "NOT AS IT SHOULD BE: "
        told = (result.fault, mark + result.outcome, result.work_lost, f"{time.monotonic() - began:.0f} s")
        table.add_row(*told)
        print("; ".join(told), flush=True)  # all of them take half an hour

    if chosen:
        with _folder() as folder, training_cluster(folder, *TRAINING_PORTS) as training:
            if set(chosen) & set(FAULTS):
                undisturbed(training)
            for fault in chosen:
                if fault is node_lost_while_serving and not training.has_own_networks:
                    table.add_row("a node is lost under a service", "not tried: no networks for nodes here", "", "")
                    continue
                began = time.monotonic()
                add(fault(training), began)
    if only is None or head_restarted.__name__ in only:
        try:
            with _folder() as folder, serving_cluster(folder, *SERVING_PORTS) as serving:
                began = time.monotonic()
                add(head_restarted(serving), began)
        except debian.NotHereError as error:
            table.add_row("the head dies", f"not tried: {error}", "", "")
    Console(width=150).print(table)
    print(json.dumps({"faults": [asdict(result) for result in found]}, ensure_ascii=False))
    return 0 if all(result.is_as_it_should_be for result in found) else 1


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rayloom-chaos-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
