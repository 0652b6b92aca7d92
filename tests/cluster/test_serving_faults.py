"""A service on a cluster, with the control store in Redis: its figures, and the head's restart under it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.monitoring import prometheus, queries
from support.serving_cluster import Asker, ServingCluster, debian, debian_program, figures_jobs, serving_cluster
from support.serving_faults import head_restarted

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.full, NODES_LIVE_ON]
PORT, DASHBOARD_PORT = 6439, 8299
# All went well with the training and nothing waited.
NOTHING_TO_SHOW = {'ray_rayloom_training_bad_steps_total{run=~".*"}'}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCluster]:
    try:
        debian_program("redis-server")
    except debian.NotHereError as error:
        pytest.skip(str(error))
    with serving_cluster(tmp_path_factory.mktemp("serving"), PORT, DASHBOARD_PORT) as made:
        yield made


def test_every_query_of_the_dashboards_finds_figures_in_a_real_prometheus(here: ServingCluster, tmp_path: Path) -> None:
    """While a cleaning job, a training job and an evaluation run and the service is asked, rightly and wrongly."""
    began = time.time()
    with prometheus(debian_program("prometheus"), here.cluster, tmp_path / "prometheus") as asked, Asker(here):
        for name, job in figures_jobs(here.folder).items():
            (here.folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
            ended = here.rayloom("submit", f"{name}.yaml", "--wait")
            assert ended.returncode == 0, ended.stderr + here.rayloom("jobs", "logs", name).stdout
        assert not replace(here, key="wrong").ask()
        assert set(asked.health()) == {"up"}
        until = time.monotonic() + 60
        while (empty := {query for query in queries() if not asked.num_series(query, began)} - NOTHING_TO_SHOW) and (
            time.monotonic() < until
        ):
            time.sleep(1)
    assert empty == set()


def test_the_service_answers_on_while_the_head_is_away_and_afterwards(here: ServingCluster) -> None:
    found = head_restarted(here)
    assert found.is_as_it_should_be, found
