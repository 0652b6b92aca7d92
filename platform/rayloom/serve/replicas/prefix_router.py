"""Requests that begin alike go to the replica that has computed their beginning, as long as the load stays even.

ray.serve.llm's router keeps a tree of what each replica was asked; it reads the text off a request's attributes, and
the gateway's requests are bytes.
"""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter

from rayloom.serve.replicas.request_text import text_of

BODY = 2
"""Place of the body among the arguments of `EngineReplica.http`."""
KEPT_CHARACTERS = 4_000_000
"""Of the tree; the oldest beginnings are forgotten above it."""


class PrefixRouter(PrefixCacheAffinityRouter):  # type: ignore[misc]
    """Takes the text from the request's JSON."""

    def _extract_text_from_request(self, pending_request: Any) -> str:
        return text_of(pending_request.args[BODY])
