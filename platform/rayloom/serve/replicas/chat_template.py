"""The chat template of a served model: the job's file, and whether the model was trained with the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from jinja2 import TemplateSyntaxError, meta

from rayloom.artifacts.store import Artifact
from rayloom.specs.serve import ServedModel


def own_templates(folder: Path) -> frozenset[str]:
    """The texts of a model folder's chat templates, which a training leaves there as it used them; often one."""
    files = [folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    named = settings.get("chat_template") or ()
    if not texts:  # transformers prefers the files
        texts = [named] if isinstance(named, str) else [str(one["template"]) for one in named]
    return frozenset(text for text in texts if text.strip())


def template_problem(served: ServedModel) -> str | None:
    """Why the job's chat template cannot be used; None if it can, or the model's own is."""
    from rayloom.text.conversations.messages import parsed_template

    if served.chat_template is None:
        return None
    try:
        parsed = parsed_template(served.chat_template)
    except TemplateSyntaxError as error:
        return f"chat_template is not valid Jinja: line {error.lineno}: {error.message}"
    if "messages" not in meta.find_undeclared_variables(parsed):
        return "chat_template does not read `messages`: every prompt would be the same text"
    return None


def template_note(served: ServedModel, artifact: Artifact) -> str | None:
    """Where the job's chat template is not the one that the model was trained with; None if it is, or there is none."""
    if served.chat_template is None:
        return None
    own = own_templates(artifact.path)
    if own == {served.chat_template}:
        return None
    theirs = " and ".join(sorted(map(_digest, own))) or "none"
    return (
        f"{served.name}: prompts differ from those that {artifact.id} was trained on: chat_template is "
        f"{_digest(served.chat_template)}, the model's own is {theirs} (SHA-256)"
    )


def _digest(template: str) -> str:
    return hashlib.sha256(template.encode()).hexdigest()[:12]
