"""Whatever strikes a training job on a cluster: it ends with the undisturbed run's losses, bit for bit.

Cleaning jobs and searches likewise end with the undisturbed ones' files and losses, and a service answers on.

At most one checkpoint's interval of work is done again; nothing where the job had notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.fleet_faults import FLEET_FAULTS, node_lost_while_serving
from support.training_cluster import TrainingCluster, training_cluster
from support.training_faults import FAULTS, Result, undisturbed

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.full, NODES_LIVE_ON]
PORT, DASHBOARD_PORT = 6411, 8279


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingCluster]:
    with training_cluster(tmp_path_factory.mktemp("faults"), PORT, DASHBOARD_PORT) as made:
        yield made


@pytest.mark.parametrize("fault", FLEET_FAULTS, ids=lambda fault: fault.__name__)
def test_cleaning_searching_and_serving_are_as_undisturbed(
    here: TrainingCluster, fault: Callable[[TrainingCluster], Result]
) -> None:
    if fault is node_lost_while_serving and not here.has_own_networks:
        pytest.skip("this machine does not allow networks for nodes")
    found = fault(here)
    assert found.is_as_it_should_be, found


@pytest.fixture(scope="module")
def trained(here: TrainingCluster) -> TrainingCluster:
    undisturbed(here)
    return here


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_losses_are_the_undisturbed_runs(
    trained: TrainingCluster, fault: Callable[[TrainingCluster], Result]
) -> None:
    found = fault(trained)
    assert found.is_as_it_should_be, found
