"""Who may ask for what: the middleware in front of every page.

- `Host` must be this machine's address or name: another site's name that leads here (DNS rebinding) gets nothing.
- What changes something needs `--write`, and an `Origin` that is this server, which other sites cannot send.
- Elsewhere than on loopback, and with `--write`, everything needs the key: in the address once, then in a cookie.
- Answers carry a policy under which only this server's own scripts and styles run, and no other page can embed them.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import urlencode

from starlette.datastructures import URL, Headers, MutableHeaders, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY_PARAMETER = "key"
COOKIE_SECONDS = 30 * 24 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SAFE_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Access:
    """What this server allows."""

    port: int
    names: frozenset[str] = frozenset({"localhost"})
    """Names in `Host` besides addresses in digits."""
    key: str | None = None
    """None: no key is asked for."""
    may_write: bool = False
    session: str = field(default_factory=secrets.token_urlsafe)
    """The cookie's value, another one for each start of the server."""

    @property
    def cookie(self) -> str:
        """Cookies do not know ports: two servers on one machine need two names."""
        return f"rayloom_ui_{self.port}"

    def is_known_host(self, host: str) -> bool:
        """Whether a `Host` is this machine: a site that rebinds its name cannot use digits."""
        name = URL(f"http://{host}").hostname or ""
        return name in self.names or _is_address(name)

    def is_same_origin(self, headers: Headers) -> bool:
        origin = URL(headers.get("origin", ""))
        return bool(origin.netloc) and origin.netloc == headers.get("host")

    def is_entitled(self, connection: HTTPConnection) -> bool:
        if self.key is None:
            return True
        given = connection.headers.get("authorization", "").removeprefix("Bearer ")
        return _equal(given, self.key) or _equal(connection.cookies.get(self.cookie, ""), self.session)


def names_of_machine(host: str) -> frozenset[str]:
    """The names under which this machine is asked for."""
    return frozenset({"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), host.lower()})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Protection:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_policy(MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(HTTPConnection(scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        access, headers, method = self._access, connection.headers, connection.scope["method"]
        if not access.is_known_host(headers.get("host", "")):
            text = "This server does not answer under this name. --name NAME adds one.\n"
            return PlainTextResponse(text, 421)
        if KEY_PARAMETER in connection.query_params and method == "GET":
            return self._entered(connection)
        if not access.is_entitled(connection):
            return PlainTextResponse("This page needs the key that the command printed when it started.\n", 401)
        if method not in SAFE_METHODS and not access.is_same_origin(headers):
            return PlainTextResponse("This request comes from another site.\n", 403)
        return None

    def _entered(self, connection: HTTPConnection) -> Response:
        """Takes the key out of the address, where others could read it, into a cookie."""
        values = [(name, value) for name, value in connection.query_params.multi_items() if name != KEY_PARAMETER]
        path = f"/{connection.url.path.lstrip('/')}"  # `//host` would be another site
        answer = RedirectResponse(path + (f"?{urlencode(values)}" if values else ""), 303)
        if self._access.key is None:
            return answer
        if not _equal(QueryParams(connection.scope["query_string"])[KEY_PARAMETER], self._access.key):
            return PlainTextResponse("This is not the key that the command printed when it started.\n", 401)
        answer.set_cookie(
            self._access.cookie, self._access.session, max_age=COOKIE_SECONDS, httponly=True, samesite="lax"
        )
        return answer


def add_policy(headers: MutableHeaders) -> None:
    """Headers of every answer; one that brings its own policy, such as a chart, keeps it."""
    headers.setdefault("content-security-policy", POLICY)
    headers["x-content-type-options"] = "nosniff"
    # Not `no-referrer`: browsers then send `Origin: null` with this server's own forms.
    headers["referrer-policy"] = "same-origin"
    headers["cross-origin-resource-policy"] = "same-origin"
    headers["cross-origin-opener-policy"] = "same-origin"
    headers.setdefault("cache-control", "no-store")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
