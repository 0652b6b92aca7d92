"""Chat templates for models that bring none, by name.

Each is the published form of a model family, so that what a base may have seen of it helps. None writes a
beginning-of-text token itself: where a tokenizer puts one before every text, it is put before the template.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class NamedTemplate:
    """A chat template and the tokens that it needs."""

    name: str
    special_tokens: tuple[str, ...]
    """Tokens that must each be one id; those that a vocabulary lacks are added to it."""
    end_of_turn: str | None
    """What the model must write to end its answer, and the server must stop at. None: the end-of-sequence token."""

    @property
    def text(self) -> str:
        return (Path(__file__).parent / f"{self.name}.jinja").read_text(encoding="utf-8")


TEMPLATES: dict[str, NamedTemplate] = {
    template.name: template
    for template in (
        NamedTemplate("chatml", ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
        NamedTemplate("gemma", ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
        NamedTemplate("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
        NamedTemplate("zephyr", (), None),
    )
}


def adopt(tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """Gives the tokenizer a named template; returns the special tokens that its vocabulary did not have.

    The template's end of turn becomes the end-of-sequence token, which is what servers stop at.
    """
    template = TEMPLATES[name]
    known = tokenizer.get_vocab()
    added = [token for token in template.special_tokens if token not in known]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": list(template.special_tokens)}, replace_extra_special_tokens=False
    )
    if template.end_of_turn is not None:
        tokenizer.eos_token = template.end_of_turn
    tokenizer.chat_template = _begin(tokenizer) + template.text
    return added


def _begin(tokenizer: PreTrainedTokenizerBase) -> str:
    """`{{- bos_token }}` where the tokenizer begins every text with that token by itself."""
    ids = tokenizer("a")["input_ids"]
    adds_one = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return "{{- bos_token }}" if adds_one else ""
