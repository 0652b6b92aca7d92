"""Which of a model's chat templates is taken, and with which settings: what vLLM takes, in process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from support.cases import CASES
from support.tokenizers import CHATML, chatml, tokenizer_with
from transformers import AutoTokenizer

from rayloom.errors import InputError
from rayloom.specs.training.training_data import TemplateKwargs
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError, as_served, tools_as_served
from rayloom.text.conversations.render import Renderer
from rayloom.text.tokenizer_files import copy_files

TWO = CASES / "templates" / "two-templates"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Time?"}, {"role": "assistant", "content": "Noon."}]
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
THINKING = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}",
).replace(
    "\n{{ message['content'] }}",
    "\n{% if message.role == 'assistant' and enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% endif %}{{ message['content'] }}",
)


def of_vllm(tokenizer: Any, messages: Any, tools: Any, **kwargs: Any) -> str:
    """What vLLM's own code renders for a request."""
    from vllm.renderers.hf import safe_apply_chat_template

    config: Any = SimpleNamespace(
        tokenizer_revision=None, code_revision=None, tokenizer="x", model="x", trust_remote_code=False
    )
    settings = {"add_generation_prompt": True} | kwargs
    return str(
        safe_apply_chat_template(
            config,
            tokenizer,
            as_served(messages, tokenizer.get_chat_template(tools=tools_as_served(tools))),
            tools=tools_as_served(tools),
            tokenize=False,
            **settings,
        )
    )


def test_rows_with_tools_are_rendered_by_the_template_for_tools() -> None:
    renderer = Renderer.of_model(TWO)
    plain, called = renderer.prompt_text(MESSAGES[:1]), renderer.prompt_text(MESSAGES[:1], [CLOCK])
    assert "Tools:" not in plain
    assert called.startswith("<|im_start|>system\nTools: clock<|im_end|>")
    assert plain == of_vllm(renderer.tokenizer, MESSAGES[:1], [])
    assert called == of_vllm(renderer.tokenizer, MESSAGES[:1], [CLOCK])
    call = {"type": "function", "function": {"name": "clock", "arguments": {"place": "Bern"}}}
    row = {"messages": [MESSAGES[0], {"role": "assistant", "tool_calls": [call]}], "tools": [CLOCK]}
    (sample,) = renderer.samples(conversation(row, "messages", {}, "x"))
    assert '<tool_call>clock {"place": "Bern"}</tool_call>' in renderer.tokenizer.decode(sample.tokens)
    with pytest.raises(ConversationError, match="does not write `tool_calls`"):
        renderer.samples(conversation({"messages": row["messages"]}, "messages", {}, "x"))


def test_a_list_of_templates_in_the_tokenizers_settings_is_the_same(tmp_path: Path) -> None:
    shutil.copytree(TWO, tmp_path / "model")
    texts = {
        "default": (TWO / "chat_template.jinja").read_text(),
        "tool_use": (TWO / "additional_chat_templates" / "tool_use.jinja").read_text(),
    }
    shutil.rmtree(tmp_path / "model" / "additional_chat_templates")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    config = tmp_path / "model" / "tokenizer_config.json"
    listed = [{"name": name, "template": text} for name, text in texts.items()]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": listed}))
    ours, theirs = Renderer.of_model(tmp_path / "model"), Renderer.of_model(TWO)
    for tools in ([], [CLOCK]):
        assert ours.prompt(MESSAGES[:1], tools) == theirs.prompt(MESSAGES[:1], tools)


def test_templates_without_a_default_are_named() -> None:
    tokenizer = chatml()
    tokenizer.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(InputError, match="rag, tool_use, and none of them is the default"):
        Renderer(tokenizer)


def test_a_copied_tokenizer_has_all_its_templates(tmp_path: Path) -> None:
    copy_files(TWO, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == AutoTokenizer.from_pretrained(TWO).chat_template


@pytest.fixture(scope="module")
def thinking() -> Any:
    return tokenizer_with(THINKING, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")


@pytest.mark.parametrize("value", [True, False])
def test_settings_of_the_template_are_those_of_the_job_unless_the_row_has_its_own(thinking: Any, value: bool) -> None:
    renderer = Renderer(thinking, template_kwargs={"enable_thinking": not value})
    own = {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": value, "other": None}}
    texts = [
        thinking.decode(renderer.samples(conversation(row, "messages", {}, "x"))[0].tokens)
        for row in (own, {"messages": MESSAGES}, own | {"chat_template_kwargs": json.dumps({"enable_thinking": value})})
    ]
    assert ["<think>" in text for text in texts] == [not value, value, not value]
    assert texts[0].startswith(of_vllm(thinking, MESSAGES[:1], [], enable_thinking=value))
    assert renderer.prompt_text(MESSAGES[:1]) == of_vllm(thinking, MESSAGES[:1], [], enable_thinking=not value)


def test_settings_that_the_template_does_not_read_are_refused(thinking: Any) -> None:
    with pytest.raises(InputError, match=r"has think, which .* does not read.*reads enable_thinking"):
        Renderer(thinking, template_kwargs={"think": True})
    row = {"messages": MESSAGES, "chat_template_kwargs": {"think": True}}
    with pytest.raises(ConversationError, match="has think, which the chat template does not read"):
        Renderer(thinking).samples(conversation(row, "messages", {}, "x"))
    with pytest.raises(ConversationError, match="add_generation_prompt"):
        conversation(row | {"chat_template_kwargs": {"add_generation_prompt": False}}, "messages", {}, "x")
    with pytest.raises(ValidationError, match="set by the renderer itself"):
        TypeAdapter(TemplateKwargs).validate_python({"tokenize": True})


def test_the_settings_that_a_template_reads_are_those_that_vllm_finds(thinking: Any) -> None:
    from vllm.renderers.hf import resolve_chat_template_kwargs

    given = {"enable_thinking": True, "other": 1, "think": []}
    read = resolve_chat_template_kwargs(thinking, THINKING, dict(given))
    templates = Renderer(thinking).templates
    for name, value in given.items():
        if name in read:
            templates.check_kwargs({name: value}, THINKING)
        else:
            with pytest.raises(ConversationError):
                templates.check_kwargs({name: value}, THINKING)


def test_a_template_that_is_no_jinja_is_named_with_its_line() -> None:
    tokenizer = chatml()
    tokenizer.chat_template = {"default": CHATML, "tool_use": "a\n{% for x %}"}
    with pytest.raises(InputError, match="'tool_use' is not valid Jinja: line 2"):
        Renderer(tokenizer)


@pytest.mark.parametrize("broken", ["{{ 1 // 0 }}", "{{ messages[9].content }}", "{{ messages.nothing() }}"])
def test_a_template_that_fails_names_the_row(broken: str) -> None:
    template = "{% if messages | length > 2 %}" + broken + "{% endif %}" + CHATML
    renderer = Renderer(tokenizer_with(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
    with pytest.raises(ConversationError, match="cannot render it"):
        renderer.samples(conversation({"messages": MESSAGES * 2}, "messages", {}, "x"))


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"eos_token_id": "x"}', '{"eos_token_id": ["x"]}'])
def test_generation_settings_that_are_no_object_are_named(tmp_path: Path, text: str) -> None:
    chatml().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"eos_token_id.*generation_config\.json"):
        Renderer.of_model(tmp_path)
