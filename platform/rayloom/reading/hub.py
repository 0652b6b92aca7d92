"""The Hugging Face hub, or the mirror that `HF_ENDPOINT` names: commits of revisions, and its refusals as our errors.

The client finds its token itself: `HF_TOKEN`, or what `hf auth login` left.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rayloom.errors import InputError, RayloomError, ResourceError

HubKind = Literal["model", "dataset"]
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)
"""Of a model or adapter: no pickles, no code, no training state, and no rows, which are other people's texts."""
_MAX_NAMED = 12


def hub_api() -> Any:
    """The hub's client."""
    import huggingface_hub

    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def commit_of(repository: str, revision: str, kind: HubKind) -> str:
    """The commit to which a revision resolves, the same one for the whole life of this process.

    Raises InputError or ResourceError as `hub_errors` does; for an unknown revision, with the branches and tags that
    there are.
    """
    return _commit_of(repository, revision, kind, os.environ.get("HF_ENDPOINT"))


@functools.lru_cache(maxsize=256)
def _commit_of(repository: str, revision: str, kind: HubKind, _endpoint: str | None) -> str:
    from huggingface_hub.errors import RevisionNotFoundError

    api = hub_api()
    with hub_errors(f"{repository}@{revision}"):
        try:
            return str(api.repo_info(repository, revision=revision, repo_type=kind).sha)
        except RevisionNotFoundError:
            refs = api.list_repo_refs(repository, repo_type=kind)
            names = ", ".join([ref.name for ref in (*refs.branches, *refs.tags)][:_MAX_NAMED]) or "none"
            fix = f"Its branches and tags: {names}. A commit's id pins it."
            where = f"{repository}@{revision}"
            raise InputError("The hub's repository has no such revision", where=where, fix=fix) from None


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Turns what the hub's client raises into InputError (what was asked for) or ResourceError (the network).

    `where`: the repository, for messages.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(where, error) from error
    except HFValidationError as error:
        raise InputError(f"This cannot be a repository's name: {error}", where=where, fix="Correct it.") from None
    except OfflineModeIsEnabled as error:
        fix = "Unset HF_HUB_OFFLINE for this command; what is in the store already needs no network."
        raise ResourceError("HF_HUB_OFFLINE forbids asking the hub", where=where, fix=fix) from error
    except (httpx2.HTTPError, OSError) as error:
        inner = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else None
        if inner is not None:
            raise _refused(where, inner) from error
        fix = "Check the network (or HF_ENDPOINT, for a mirror) and run the same command again: it continues."
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"The hub cannot be reached: {reason}", where=where, fix=fix) from error


def _refused(where: str, error: Any) -> RayloomError:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    status = error.response.status_code
    message = error.response.headers.get("X-Error-Message") or ""
    if isinstance(error, GatedRepoError):
        fix = f"Accept its terms at {_page(error)}, and give the token of that account: HF_TOKEN or `hf auth login`."
        return InputError("The hub gives this repository only to those who accepted its terms", where=where, fix=fix)
    if status == 401 and "Invalid credentials" in message:
        fix = "Correct HF_TOKEN, or leave it out for what is public; `hf auth login` writes a new one."
        return InputError("The hub does not know this token", where=where, fix=fix)
    if isinstance(error, EntryNotFoundError):
        return InputError("The hub's repository has no such file", where=where, fix="Check the spelling.")
    if status in (401, 404):
        fix = "Check the spelling; a private one needs the token of an account that sees it (HF_TOKEN)."
        return InputError("The hub has no such repository", where=where, fix=fix)
    if status == 403:
        fix = "Give a token that may do this (HF_TOKEN); fine-grained ones list their repositories."
        return InputError(f"The hub forbids this: {message or 'no reason given'}", where=where, fix=fix)
    if status == 429:
        fix = (
            "Wait some minutes, or give a token (HF_TOKEN), which has a higher limit; then run the same command again."
        )
        return ResourceError("The hub answers that this address asks too often", where=where, fix=fix)
    fix = "Run the same command again: it continues where it was."
    return ResourceError(f"The hub answered with an error ({status})", where=where, fix=fix)


def _page(error: Any) -> str:
    """The repository's page for people."""
    url = str(error.response.request.url)
    for mark in ("/resolve/", "/tree/", "/revision/", "/auth-check"):
        url = url.partition(mark)[0]
    return url.replace("/api/models/", "/").replace("/api/", "/")
