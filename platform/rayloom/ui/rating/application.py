"""The pages of a rating: a name, then one decision a screen, by keys or by buttons, with undo and progress.

What a page asks for says which item it is about, so that a request that comes twice, because its answer was lost with
the server or the page, does what it did the first time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rayloom.errors import InputError, RayloomError, unwrapped
from rayloom.ui.pages import assets, form_of, templates
from rayloom.ui.protection import Access, Protection
from rayloom.ui.rating.items import PAIR_CHOICES, ROW_CHOICES, RatedItem
from rayloom.ui.rating.journal import JudgementJournal, RaterJudgement

MOST_NAME_CHARACTERS = 60
MOST_NOTE_CHARACTERS = 4_000


@dataclass
class Rating:
    """What is rated, by how many people each."""

    items: Sequence[RatedItem]
    journal: JudgementJournal
    key: bytes
    """Decides sides and what items are called in pages; `blinding_key`."""
    each: int
    on_pages: dict[str, str] = field(default_factory=dict)
    """The item that each rater was shown last, by its id: two who rate at once are not shown the same."""

    @property
    def choices(self) -> tuple[str, ...]:
        return PAIR_CHOICES if len(self.items[0].answers) == 2 else ROW_CHOICES

    @cached_property
    def by_token(self) -> Mapping[str, RatedItem]:
        return {item.token(self.key): item for item in self.items}

    def next_item(self, rater: str) -> RatedItem | None:
        """What a rater is shown."""
        item = self.journal.next_item(self.items, rater, self.each, dict(self.on_pages))
        if item is not None:
            self.on_pages[rater] = item.id
        return item

    def num_done(self) -> int:
        """How many of the wanted judgements are made."""
        return len(self.journal.all())


def application(rating: Rating, access: Access) -> ASGIApp:
    """The ASGI application."""
    routes = [
        Route("/", begin),
        Route("/rate/{rater}", rate),
        Route("/rate/{rater}/judge", judge, methods=["POST"]),
        Route("/rate/{rater}/undo", undo, methods=["POST"]),
        assets(),
    ]
    handlers = {HTTPException: _refused, RayloomError: _failed, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.rating = rating
    return Protection(app, access)


def begin(request: Request) -> Response:
    """Asks for a name."""
    given = request.query_params.get("rater")
    name = _name(given or "")
    if name is not None:
        return RedirectResponse(f"/rate/{quote(name)}", 303)
    return _page(request, "rating/begin.html", title="Rate", problem=given is not None)


def rate(request: Request) -> Response:
    """The next decision of a rater, or the one that was taken back."""
    rating, rater = _rating(request), _rater(request)
    again = rating.by_token.get(request.query_params.get("item", ""))
    item = again or rating.next_item(rater)
    mine = rating.journal.of(rater)
    last = next((one.token(rating.key) for one in rating.items if mine and one.id == mine[-1].item), "")
    values: dict[str, Any] = {
        "rater": rater,
        "mine": len(mine),
        "all": rating.num_done(),
        "wanted": len(rating.items) * rating.each,
        "last": last,
        "has_replaced": "replaced" in request.query_params,
    }
    if item is None:
        return _page(request, "rating/done.html", title="Done", **values)
    values |= {"prompt": item.prompt, "question": item.question, "token": item.token(rating.key)}
    shown = item.shown(rater, rating.key)
    return _page(request, "rating/rate.html", title="Rate", shown=shown, choices=rating.choices, **values)


async def judge(request: Request) -> Response:
    """Keeps a judgement, then shows the next item. It is on the disk when the answer goes out."""
    rating, rater, fields = _rating(request), _rater(request), await form_of(request)
    item = rating.by_token.get(fields.get("item", ""))
    if item is None or fields.get("choice") not in rating.choices:
        what = "This page is of another rating: here is no such item or choice"
        raise InputError(what, fix="Nothing of it is kept; begin again at the first page.")
    swapped = item.is_swapped(rater, rating.key) if len(item.answers) == 2 else None
    note = fields.get("note", "").strip()[:MOST_NOTE_CHARACTERS]
    judged = RaterJudgement(item.id, rater, fields["choice"], note, swapped)
    earlier = await run_in_threadpool(rating.journal.add, judged)
    has_replaced = earlier is not None and (earlier.meant, earlier.note) != (judged.meant, judged.note)
    return _next(rater, replaced="yes" if has_replaced else "")


async def undo(request: Request) -> Response:
    """Takes a judgement back and shows its item again."""
    rating, rater, fields = _rating(request), _rater(request), await form_of(request)
    item = rating.by_token.get(fields.get("item", ""))
    if item is not None:
        await run_in_threadpool(rating.journal.undo, rater, item.id)
    return _next(rater, item=fields["item"] if item else "")


def _next(rater: str, **asked: str) -> Response:
    given = urlencode({name: value for name, value in asked.items() if value})
    return RedirectResponse(f"/rate/{quote(rater)}" + (f"?{given}" if given else ""), 303)


def _rating(request: Request) -> Rating:
    rating: Rating = request.app.state.rating
    return rating


def _rater(request: Request) -> str:
    rater = str(request.path_params["rater"])
    if _name(rater) != rater:
        raise HTTPException(404, "This is no name")
    return rater


def _name(given: str) -> str | None:
    """A name as it is kept, in one spelling; None for what is none, or what an address would read otherwise (`..`)."""
    name = unicodedata.normalize("NFC", " ".join(given.split()))
    is_known = all(one.isalnum() or one in " _.@-" or unicodedata.category(one)[0] == "M" for one in name)
    return name if is_known and len(name) <= MOST_NAME_CHARACTERS and any(map(str.isalnum, name)) else None


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = InputError(error.detail, where=request.url.path, fix="The first page asks for a name.")
    return _page(request, "rating/problem.html", error.status_code, title="This did not work", error=problem)


async def _failed(request: Request, error: Exception) -> Response:
    status = 422 if isinstance(error, InputError) else 500
    return _page(request, "rating/problem.html", status, title="This did not work", error=unwrapped(error))


def _page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    return templates().TemplateResponse(request, template, dict(values), status_code=status)
