"""The chat page that a service shows at `/` when its job file asks for one."""

from __future__ import annotations

from importlib.resources import files

from rayloom.serve.transport.asgi_call import Headers

# Nothing of the page comes from elsewhere, and no other page may frame it.
_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)
HEADERS: Headers = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY + b"; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def chat_page() -> bytes:
    """The page as one file. It asks this service for models and answers, and keeps only the key, for its tab."""
    return files("rayloom.serve.gateway").joinpath("chat_page.html").read_bytes()
