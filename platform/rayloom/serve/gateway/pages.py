"""Web pages of the gateway: the API reference (also as an OpenAPI document; it names no model) and the chat page."""

from __future__ import annotations

import functools
import html
import json
from importlib.resources import files
from typing import Any

from pydantic.json_schema import models_json_schema

from rayloom.serve.replicas.predictor_requests import ENDPOINTS, PredictorEndpoint
from rayloom.serve.transport.asgi_call import Headers

_DOCS_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_HEADERS: Headers = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _DOCS_POLICY),
    (b"x-content-type-options", b"nosniff"),
)
# The page may load nothing from other hosts, and no other page may embed it in a frame.
_CHAT_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)
CHAT_HEADERS: Headers = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _CHAT_POLICY + b"; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "the request is malformed, or this model answers at another path",
    "401": "the API key is missing or not valid, if the service asks for one",
    "404": "there is no such model",
    "413": "the request is too large",
    "429": "too many requests: `Retry-After` says when to come back",
    "503": "no replica could answer, or the service cannot read its API keys",
}
_OPENAI = (
    "Language models answer as OpenAI's do, with every field that vLLM knows: /v1/chat/completions, "
    "/v1/completions, /v1/embeddings, /v1/responses, /tokenize, /detokenize. GET /v1/models lists all models; those "
    "with a `path` answer there. Keys go into `Authorization: Bearer KEY`."
)


@functools.cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    forms = [form for endpoint in ENDPOINTS.values() for form in (endpoint.request, endpoint.item)]
    _, schemas = models_json_schema([(form, "validation") for form in forms], ref_template=_REF)
    predictors = {path: {"post": _operation(endpoint)} for path, endpoint in ENDPOINTS.items()}
    others = {
        "/v1/models": {"get": {"summary": "The models", "responses": _responses({"type": "object"})}},
        "/ready": {"get": {"summary": "Whether every model answers", "responses": {"200": {"description": "they do"}}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rayloom", "version": "1", "description": _OPENAI},
        "paths": predictors | others,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(endpoint: PredictorEndpoint) -> dict[str, Any]:
    request = {"schema": {"$ref": _ref(endpoint.request)}, "example": {"model": "NAME", "input": endpoint.example}}
    items = {"type": "array", "items": {"$ref": _ref(endpoint.item)}, "description": "one for each text, in order"}
    properties = {"object": {"const": "list"}, "model": {"type": "string"}, "data": items}
    answer = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "summary": endpoint.summary,
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": _responses(answer),
    }


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    errors = {status: {"description": text} for status, text in _ERRORS.items()}
    return {"200": {"description": "an answer", "content": {"application/json": {"schema": schema}}}, **errors}


def _ref(form: type) -> str:
    return _REF.format(model=form.__name__)


@functools.cache
def docs_page() -> bytes:
    """The API reference as one HTML page that loads nothing else."""
    parts = [_section(endpoint) for endpoint in ENDPOINTS.values()]
    errors = "".join(f"<tr><td>{status}</td><td>{html.escape(text)}</td></tr>" for status, text in _ERRORS.items())
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>API</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
pre {{ background: #f4f4f2; padding: .8rem; overflow-x: auto; border-radius: 4px }} td {{ padding: .1rem 1rem .1rem 0 }}
code {{ font-size: .95em }}
</style></head><body><h1>API</h1><p>{html.escape(_OPENAI)}</p>{"".join(parts)}
<h2>Errors</h2><p>As OpenAI's: <code>{{"error": {{"message", "type", "code", "param", "request_id"}}}}</code>.</p>
<table>{errors}</table><p><a href="openapi.json">openapi.json</a> for programs.</p></body></html>
"""
    return page.encode()


def _section(endpoint: PredictorEndpoint) -> str:
    request = json.dumps({"model": "NAME", "input": endpoint.example}, indent=2)
    fields = "".join(
        f"<tr><td><code>{name}</code></td><td>{html.escape(_type_text(field))}</td></tr>"
        for name, field in endpoint.item.model_json_schema()["properties"].items()
    )
    return (
        f"<h2><code>POST {endpoint.path}</code></h2><p>{html.escape(endpoint.summary)}.</p>"
        f"<pre>{html.escape(request)}</pre><p>Each of <code>data</code> has:</p><table>{fields}</table>"
    )


def _type_text(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_text(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].lower()
    if schema.get("type") == "array":
        return f"list of {_type_text(schema['items'])}"
    return str(schema.get("type", "anything"))


def chat_page() -> bytes:
    """The chat page as one HTML file. It sends requests to this service only, and stores only the key, for its tab."""
    return files("rayloom.serve.gateway").joinpath("chat_page.html").read_bytes()
