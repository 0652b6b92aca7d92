"""Downloads a repository of the Hugging Face hub at one commit; an interrupted download is resumed."""

from __future__ import annotations

import os
from pathlib import Path

from rayloom.errors import InputError, RayloomError, ResourceError
from rayloom.observe.progress import say
from rayloom.specs.ingest import HubSource, ImportSpec

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack")


def snapshot(spec: ImportSpec, source: HubSource, target: Path) -> str:
    """Downloads the repository's files to `target`; returns the commit to which the revision resolves now.

    Raises ResourceError if the hub cannot be reached, InputError if the repository is missing or access is denied.
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    repository_type = "model" if spec.content.type == "model" else "dataset"
    try:
        api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        commit = api.repo_info(source.repository, revision=source.revision, repo_type=repository_type).sha
        say(f"{source.repository}: {source.revision} is commit {commit}")
        api.snapshot_download(
            source.repository,
            revision=commit,
            repo_type=repository_type,
            local_dir=target,
            allow_patterns=list(source.patterns),
            ignore_patterns=list(PICKLED),
        )
    except HfHubHTTPError as error:
        raise _refused(source, error) from error
    except (httpx2.HTTPError, OSError) as error:
        fix = "Check the network (or HF_ENDPOINT, for a mirror) and run the same command again: it continues."
        raise ResourceError("The model hub cannot be reached", where=source.repository, fix=fix) from error
    return str(commit)


def _refused(source: HubSource, error: Exception) -> RayloomError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    where = f"{source.repository}@{source.revision}"
    if status in (401, 403):
        fix = "Accept its terms on the hub if it has any, and give a token: HF_TOKEN or `hf auth login`."
        return InputError("The hub does not give this repository to us", where=where, fix=fix)
    if status == 404:
        return InputError("The hub has no such repository or revision", where=where, fix="Check the spelling.")
    fix = "Run the same command again: the download continues."
    return ResourceError(f"The hub answered with an error ({status})", where=where, fix=fix)
