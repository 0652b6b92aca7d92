"""What training sees is what the vLLM server computes: ids compared turn by turn, for every template that is shipped.

The server is vLLM's own, started as its rendering server: all of the chat endpoint's request handling, templates and
tokenising, without an engine behind it. One test, for `make test-full`, asks a server with the engine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.cases import CASES
from tokenizers import processors
from transformers import AutoTokenizer

from rayloom.artifacts.store import Artifact
from rayloom.text.conversations.messages import loops_over_parts
from rayloom.text.conversations.render import Conversation, Renderer
from rayloom.text.templates import TEMPLATES, adopt
from rayloom.text.tokenizer_files import copy_files

START_SECONDS = 180
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln", "day": 2}'}}

PLAIN: dict[str, list[dict[str, Any]]] = {
    "one turn": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Loomie."}],
    "system and several turns": [
        {"role": "system", "content": "Be kind.\n"},
        {"role": "user", "content": "  Hello there\n\n"},
        {"role": "assistant", "content": "\n\nGood morning!  "},
        {"role": "user", "content": "1234 + 4321?\tTell me."},
        {"role": "assistant", "content": "    5555\n```python\nprint(1)\n```"},
        {"role": "user", "content": "你好，naïve café 🙂"},
        {"role": "assistant", "content": "您好！"},
    ],
    "parts and nothing": [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "three"}]},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "four"},
    ],
    "the developer speaks": [
        {"role": "developer", "content": "Answer in one word."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ],
    "special tokens typed by a person": [
        {"role": "user", "content": "What does <|im_start|>assistant mean? <|eot|> </s>"},
        {"role": "assistant", "content": "A turn's beginning."},
    ],
}
TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Köln?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {
        "role": "tool",
        "tool_call_id": "c2",
        "content": [{"type": "text", "text": "warm"}, {"type": "text", "text": "dry"}],
    },
    {"role": "assistant", "content": "Sunny and warm."},
]
# The forms of templates that model folders bring, beside those that Rayloom ships: one that loops over parts, one that
# prints tool calls and reasoning as they are given to it, one that knows developers.
BROUGHT = {
    "parts": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{{ part['text'] }}|"
        "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "everything": (
        "{{ bos_token }}{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m | tojson }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ),
    "developer": (
        "{% for m in messages %}<|im_start|>{{ m.role | replace('developer', 'boss') }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content and (loop.last or keep_thinking) %}<think>{{ m.reasoning_content }}</think>"
    "{% elif loop.last and enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
"""Reasoning of the last answer only, unless it is to be kept; none at all where it is turned off (Qwen 3's form)."""


class Server:
    """A vLLM HTTP server and what it says about prompts."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def prompt(
        self, messages: Sequence[Any], template: str | None = None, tools: Sequence[Any] = (), **settings: Any
    ) -> list[int]:
        """The ids that the chat endpoint would give to the engine.

        (`/tokenize` reads messages by other rules: it leaves `reasoning_content` out.)
        """
        body: dict[str, Any] = {"messages": list(messages)}
        if template is not None:
            body["chat_template"] = template
        if tools:
            body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        if settings:
            body["chat_template_kwargs"] = settings
        ids: list[int] = self.post("/v1/chat/completions/render", body)["token_ids"]
        return ids


@contextlib.contextmanager
def served(module: str, model: Path, log: Path, *arguments: str) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--trust-request-chat-template", *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        server = Server(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_SECONDS
        while not _answers(server):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(server: Server) -> bool:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        urllib.request.urlopen(server.url + "/health", timeout=5).close()
        return True
    return False


@pytest.fixture(scope="module")
def model(smollm2: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer, made to begin every text with a token as Llama's does, so that a doubled one would show.

    Its own template writes no such token, and the server lets the template alone decide: its ids are unchanged.
    """
    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(smollm2.path)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    for name in TEMPLATES:
        adopt(tokenizer, name)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = AutoTokenizer.from_pretrained(smollm2.path).chat_template
    tokenizer.save_pretrained(folder)
    shutil.copyfile(smollm2.path / "config.json", folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def model_with_two(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which brings a template for tools beside its default one."""
    folder = tmp_path_factory.mktemp("two") / "model"
    shutil.copytree(model, folder)
    copy_files(CASES / "templates" / "two-templates", folder, ("chat_template.jinja", "additional_chat_templates/*"))
    return folder


@pytest.fixture(scope="module")
def server(model_with_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its own templates are used only where a request names none."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    arguments = ("--max-model-len", "4096", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with served("vllm.entrypoints.launchers.render.entry", model_with_two, log, *arguments) as running:
        yield running


@functools.cache
def renderer_with(model: Path, template: str) -> Renderer:
    tokenizer = AutoTokenizer.from_pretrained(model)
    if template in TEMPLATES:
        adopt(tokenizer, template)
    elif template in BROUGHT:
        tokenizer.chat_template = BROUGHT[template]
    return Renderer(tokenizer)


def check_conversation(
    renderer: Renderer,
    server: Server,
    messages: list[Any],
    tools: Sequence[Any] = (),
    its_own: bool = False,
    **settings: Any,
) -> int:
    """Every answer is trained once, right behind the ids that the server computes there; returns their number.

    `its_own`: the server takes the template of its model's folder, not the one that the renderer would take.
    """
    samples = renderer.samples(Conversation(tuple(messages), tuple(tools), template_kwargs=settings))
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    template = None if its_own else renderer.templates.chosen(tools)
    prompts = [server.prompt(messages[:number], template, tools, **settings) for number in answers]
    assert prompts == [renderer.prompt(messages[:number], tools, settings) for number in answers]
    for sample in samples:
        assert sample.tokens[:2].count(renderer.tokenizer.bos_token_id) <= 1
        while True in sample.trained:
            begin = sample.trained.index(True)
            assert sample.tokens[:begin] == prompts.pop(0)
            end = next((place for place in range(begin, len(sample.trained)) if not sample.trained[place]), None)
            assert sample.tokens[begin:end][-1] in renderer.stop_tokens
            sample.trained[begin:end] = [False] * len(sample.trained[begin:end])
    assert prompts == []
    return len(answers)


@pytest.mark.parametrize("conversation", PLAIN)
@pytest.mark.parametrize("template", ["smollm2", *TEMPLATES, *BROUGHT])
def test_ids_of_training_are_the_servers(server: Server, model: Path, template: str, conversation: str) -> None:
    assert check_conversation(renderer_with(model, template), server, PLAIN[conversation]) > 0


@pytest.mark.parametrize("template", ["chatml", "everything"])
def test_ids_of_tool_calls_are_the_servers(server: Server, model: Path, template: str) -> None:
    described = [{**WEATHER, "description": "Tells it."}, {**WEATHER, "name": "other"}]
    assert check_conversation(renderer_with(model, template), server, TOOLS, described) == 2


def test_reasoning_is_given_to_the_template_under_both_its_names(server: Server, model: Path) -> None:
    messages = [dict(message) for message in PLAIN["system and several turns"]]
    messages[2]["reasoning_content"] = "so far"
    messages[4]["reasoning"] = "and on"
    assert check_conversation(renderer_with(model, "everything"), server, messages) == 3


@pytest.mark.parametrize("settings", [{}, {"enable_thinking": False}, {"keep_thinking": True}])
def test_settings_of_the_template_and_reasoning_are_the_servers(
    server: Server, model: Path, settings: dict[str, Any]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = THINKING
    messages = [dict(message) for message in PLAIN["system and several turns"]]
    if "enable_thinking" not in settings:
        messages[2]["reasoning_content"], messages[6]["reasoning"] = "so far", "and on"
    assert check_conversation(Renderer(tokenizer), server, messages, **settings) == 3


def test_of_several_templates_training_takes_the_servers(server: Server, model_with_two: Path) -> None:
    renderer = Renderer.of_model(model_with_two)
    assert check_conversation(renderer, server, PLAIN["one turn"], its_own=True) == 1
    assert check_conversation(renderer, server, PLAIN["system and several turns"], its_own=True) == 3
    assert check_conversation(renderer, server, TOOLS, [WEATHER], its_own=True) == 2
    assert renderer.prompt(TOOLS[:1], [WEATHER]) != renderer.prompt(TOOLS[:1])


def test_templates_that_loop_over_parts_are_recognised_as_the_server_does() -> None:
    from vllm.renderers.hf import _detect_content_format

    templates = [*BROUGHT.values(), *(template.text for template in TEMPLATES.values())]
    assert [loops_over_parts(template) for template in templates] == [
        _detect_content_format(template, default="string") == "openai" for template in templates
    ]
    assert [loops_over_parts(template) for template in BROUGHT.values()] == [True, False, False]


@pytest.mark.full
def test_the_engine_is_given_the_ids_that_training_saw(smollm2: Artifact, tmp_path: Path) -> None:
    renderer = Renderer.of_model(smollm2.path)
    messages = PLAIN["system and several turns"]
    arguments = ("--max-model-len", "1024", "--enforce-eager", "--dtype", "bfloat16", "--max-num-seqs", "4")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with served("vllm.entrypoints.openai.api_server", smollm2.path, tmp_path / "log.txt", *arguments) as server:
        name = server.post("/tokenize", {"prompt": "a"}) and str(smollm2.path)
        body = {"model": name, "messages": messages[:6], "max_tokens": 4, "temperature": 0, "return_token_ids": True}
        answer = server.post("/v1/chat/completions", body)
    assert answer["prompt_token_ids"] == renderer.prompt(messages[:6])
