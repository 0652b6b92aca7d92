"""The pages of a rating: a name, then one decision a screen, by keys or by buttons, with undo and progress."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from rayloom.ui.pages import form_of, templates
from rayloom.ui.protection import Access, Protection
from rayloom.ui.rating.items import PAIR_CHOICES, ROW_CHOICES, RatedItem
from rayloom.ui.rating.journal import JudgementJournal, RaterJudgement

_RATER = re.compile(r"[\w .@-]{1,60}")
MOST_NOTE_CHARACTERS = 4_000


@dataclass
class Rating:
    """What is rated, by how many people each."""

    items: Sequence[RatedItem]
    journal: JudgementJournal
    seed: int
    each: int

    @property
    def choices(self) -> tuple[str, ...]:
        return PAIR_CHOICES if len(self.items[0].answers) == 2 else ROW_CHOICES

    def item(self, id_: str) -> RatedItem | None:
        return next((item for item in self.items if item.id == id_), None)

    def num_done(self) -> int:
        """How many of the wanted judgements are made."""
        return len(self.journal.judgements)


def application(rating: Rating, access: Access) -> ASGIApp:
    """The ASGI application."""
    with as_file(files("rayloom.ui").joinpath("static")) as static:
        mount = Mount("/static", StaticFiles(directory=Path(static)))
    routes = [
        Route("/", begin),
        Route("/rate/{rater}", rate),
        Route("/rate/{rater}/judge", judge, methods=["POST"]),
        Route("/rate/{rater}/undo", undo, methods=["POST"]),
        mount,
    ]
    app = Starlette(routes=routes)
    app.state.rating = rating
    return Protection(app, access)


def begin(request: Request) -> Response:
    """Asks for a name."""
    given = request.query_params.get("rater", "").strip()
    if _RATER.fullmatch(given):
        return RedirectResponse(f"/rate/{quote(given)}", 303)
    return _page(request, "rating/begin.html", title="Rate", problem=bool(given))


def rate(request: Request) -> Response:
    """The next decision of a rater, or the one that was taken back."""
    rating, rater = _rating(request), _rater(request)
    again = rating.item(request.query_params.get("item", ""))
    item = again or rating.journal.next_item(rating.items, rater, rating.each)
    mine = rating.journal.of(rater)
    values = {"rater": rater, "mine": len(mine), "all": rating.num_done(), "wanted": len(rating.items) * rating.each}
    if item is None:
        return _page(request, "rating/done.html", title="Done", **values)
    shown = item.shown(rater, rating.seed)
    return _page(request, "rating/rate.html", title="Rate", item=item, shown=shown, choices=rating.choices, **values)


async def judge(request: Request) -> Response:
    """Keeps a judgement, then shows the next item. It is on the disk when the answer goes out."""
    rating, rater, fields = _rating(request), _rater(request), await form_of(request)
    item = rating.item(fields.get("item", ""))
    if item is None or fields.get("choice") not in rating.choices:
        raise HTTPException(422, "There is no such item or choice")
    swapped = item.is_swapped(rater, rating.seed) if len(item.answers) == 2 else None
    note = fields.get("note", "").strip()[:MOST_NOTE_CHARACTERS]
    await run_in_threadpool(rating.journal.add, RaterJudgement(item.id, rater, fields["choice"], note, swapped))
    return RedirectResponse(f"/rate/{quote(rater)}", 303)


def undo(request: Request) -> Response:
    """Takes the last judgement back and shows its item again."""
    rater = _rater(request)
    item = _rating(request).journal.undo(rater)
    return RedirectResponse(f"/rate/{quote(rater)}" + (f"?item={item}" if item else ""), 303)


def _rating(request: Request) -> Rating:
    rating: Rating = request.app.state.rating
    return rating


def _rater(request: Request) -> str:
    rater = str(request.path_params["rater"])
    if not _RATER.fullmatch(rater):
        raise HTTPException(404, "This is no name")
    return rater


def _page(request: Request, template: str, **values: object) -> HTMLResponse:
    return templates().TemplateResponse(request, template, dict(values))
