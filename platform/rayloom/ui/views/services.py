"""The services of the store: which run, what they serve, in which versions, with how many replicas, and their load."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from rayloom.errors import RayloomError
from rayloom.serve import control_records
from rayloom.ui.pages import page
from rayloom.ui.workbench import workbench


def overview(request: Request) -> Response:
    """The services, as their records say."""
    return page(request, "running/services.html", title="Services")


def overview_part(request: Request) -> Response:
    """The part of the page that changes."""
    try:
        states, problem = control_records.states(workbench(request).store), ""
    except (RayloomError, OSError, TypeError) as error:
        states, problem = [], str(error)
    services = [(state, control_records.is_up(state), max(0.0, time.time() - state.beat)) for state in states]
    ordered = sorted(services, key=lambda service: (not service[1], service[0].service))
    return page(request, "running/services_part.html", services=ordered, problem=problem)
