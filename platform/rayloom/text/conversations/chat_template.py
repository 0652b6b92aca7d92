"""A model's chat templates, chosen and called as the vLLM server does it.

Read off vLLM 0.32 (`renderers/hf.py`, `resolve_chat_template` and `resolve_chat_template_kwargs`). A model may bring
several: one named `tool_use` is taken where there are tools, `default` everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError, meta

from rayloom.errors import InputError
from rayloom.text.conversations.messages import (
    ConversationError,
    Message,
    as_served,
    compiled_template,
    parsed_template,
    tools_as_served,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplates:
    """The templates of one tokenizer, with the settings of a job for them.

    Raises InputError where there is none, where one is no valid template, or where none reads one of the settings.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, where: str, kwargs: Mapping[str, Any] | None = None) -> None:
        self.kwargs = dict(kwargs or {})
        check_templates(tokenizer, where)
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self.default = _chosen(tokenizer, None, where)
        self.with_tools = _chosen(tokenizer, [{}], where)
        self._variables = {
            template: meta.find_undeclared_variables(parsed_template(template))
            for template in (self.default, self.with_tools)
        }
        unread = [key for key in self.kwargs if not any(key in found for found in self._variables.values())]
        if unread:
            what = f"chat_template_kwargs has {', '.join(unread)}, which this model's chat template does not read"
            read = ", ".join(self.settings) or "nothing of the kind"
            raise InputError(what, where=where, fix=f"Correct the name or leave it out; the template reads {read}.")

    @property
    def settings(self) -> list[str]:
        """Names that `chat_template_kwargs` may have."""
        return sorted(set.union(*self._variables.values()) - _USUAL)

    def chosen(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """The template that the server takes for a request with these tools."""
        return self.with_tools if tools else self.default

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        open_answer: bool,
        template: str | None = None,
    ) -> str:
        """What the server renders for these messages; with `open_answer` up to where the answer begins.

        `kwargs`: settings of a row, which go before the job's. `template`: instead of the one that the server takes.
        Raises ConversationError where the template cannot render it.
        """
        template = template or self.chosen(tools)
        return self.rendered(as_served(messages, template), tools, kwargs, open_answer, template)

    def rendered(
        self,
        served: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
        open_answer: bool,
        template: str,
    ) -> str:
        """The same for messages that were edited already, as the server edits them."""
        settings = self.kwargs | dict(kwargs) if kwargs else self.kwargs
        read = self._variables[template]
        try:
            if not served:
                raise ValueError("there are no messages")
            # As transformers' apply_chat_template does it, without the options that take it longer than the template.
            text = compiled_template(template).render(
                self._special_tokens | {key: value for key, value in settings.items() if key in read},
                messages=served,
                tools=tools_as_served(tools),
                documents=None,
                add_generation_prompt=open_answer,
            )
        # A template is a program: it can fail in every way in which arithmetic on texts and lists can.
        except (TemplateError, TypeError, LookupError, ValueError, AttributeError, ArithmeticError) as error:
            raise ConversationError("unrenderable", f"the chat template cannot render it: {error}") from error
        except RecursionError:
            raise ConversationError("unrenderable", "the chat template cannot render it: nested too deep") from None
        return str(text)

    def check_kwargs(self, kwargs: Mapping[str, Any], template: str) -> None:
        """Raises ConversationError where the template does not read one of a row's settings."""
        unread = [key for key in kwargs if key not in self._variables[template]]
        if unread:
            said = f"`chat_template_kwargs` has {', '.join(unread)}, which the chat template does not read"
            raise ConversationError("unrenderable", said)


_USUAL = {
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now",
    "content", "reasoning_content",
}  # fmt: skip
"""What every template has, and names that templates give to parts of a message."""


def _chosen(tokenizer: PreTrainedTokenizerBase, tools: list[dict[str, Any]] | None, where: str) -> str:
    try:
        return str(tokenizer.get_chat_template(tools=tools))
    except ValueError:
        fix = "Name one with data.template (chatml, gemma, llama3, zephyr), or train an instruction-tuned model."
        names = tokenizer.chat_template
        what = "This model has no chat template"
        if isinstance(names, dict) and names:
            what = f"This model has the chat templates {', '.join(sorted(names))}, and none of them is the default"
            fix = "Name the one that the server should take `default`: as chat_template.jinja in the model's folder."
        raise InputError(what, where=where, fix=fix) from None


def templates_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """By name; one without a name is the default."""
    found = tokenizer.chat_template
    return dict(found) if isinstance(found, dict) else {"default": found} if found and found.strip() else {}


def check_templates(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises InputError where a chat template of the tokenizer is not valid Jinja."""
    for name, template in templates_of(tokenizer).items():
        try:
            parsed_template(template)
        except (TemplateSyntaxError, RecursionError) as error:
            reason = f"line {error.lineno}: {error.message}" if isinstance(error, TemplateSyntaxError) else str(error)
            fix = "Correct chat_template.jinja (or chat_template in tokenizer_config.json)."
            what = f"The chat template {name!r} is not valid Jinja: {reason}"
            raise InputError(what, where=where, fix=fix) from None
