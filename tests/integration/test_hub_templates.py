"""The hub's most used chat templates, as TRL's package brings them: training's ids and labels are the server's.

TRL is in an environment of its own (`make bench-finetune`), and so these tests are skipped where that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.text.conversations.messages import ConversationError, as_served
from rayloom.text.conversations.render import Conversation, Renderer

TEMPLATES = sorted(Path(__file__).parents[2].glob(".venv-trl/lib/*/site-packages/trl/chat_templates/*.jinja"))
STOPS = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|END_OF_TURN_TOKEN|>", "</s>", "<｜end▁of▁sentence｜>",
    "<|return|>", "<|call|>", "<|endoftext|>", "<eos>", "<turn|>", "<end_of_utterance>", "<|user|>", "<|observation|>",
    "<|tool_response>",
)  # fmt: skip
"""Where their models' generation_config.json lets answers end."""
TOWN = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a town.", "parameters": TOWN}}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"town": "Paris"}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **further: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **further}


TURNS = (user("Who?"), answer("I.\n"), user("How old?\n"), answer("Three,\n\nI think."), user("Bye"), answer("🙂"))
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "sunny"}
CALLED = (user("Weather in Paris?"), answer("", tool_calls=[CALL]), RESULT, answer("It is sunny."))
REASONS = (answer("4", reasoning_content="Two twice."), answer("3", reasoning_content="As said."))
CONVERSATIONS: Mapping[str, tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]] = {
    "one turn": ((user("Who are you?"), answer("I am Loomie.")), ()),
    "turns": (TURNS, ()),
    "system": (({"role": "system", "content": "Be brief."}, *TURNS), ()),
    "tools": (CALLED, (WEATHER,)),
    "reasoning": ((user("2+2?"), REASONS[0], user("3?"), REASONS[1]), ()),
}


@pytest.fixture(scope="module")
def renderers(smollm2: Artifact) -> Mapping[str, Renderer | InputError]:
    """SmolLM2's tokenizer, to which each template's markers are added, so that they are one token each."""

    def made(file: Path) -> Renderer | InputError:
        template, tokenizer = file.read_text(encoding="utf-8"), AutoTokenizer.from_pretrained(smollm2.path)
        stops = [stop for stop in STOPS if stop in template]
        markers = re.findall(r"<[^<>/\s{}'\"=]{1,40}>", template)
        special: dict[str, Any] = {"additional_special_tokens": sorted({*markers, *stops})}
        special |= {"bos_token": "<|bos|>"} if "bos_token" in template else {}
        special |= {"eos_token": "<|eos|>"} if "eos_token" in template or not stops else {}
        tokenizer.add_special_tokens(special)
        tokenizer.chat_template = template
        try:
            return Renderer(tokenizer, tokenizer.convert_tokens_to_ids(stops), file.stem)
        except InputError as error:
            return error

    return {file.stem: made(file) for file in TEMPLATES if not file.stem.endswith("_training")}


@pytest.mark.full
@pytest.mark.skipif(not TEMPLATES, reason="TRL's environment is not here: make bench-finetune")
def test_ids_and_labels_are_the_servers_or_the_template_or_row_is_refused_by_name(
    renderers: Mapping[str, Renderer | InputError],
) -> None:
    found = dict(outcomes(renderers))
    refused = {where: said for where, said in found.items() if said != "equal"}
    print(f"{len(renderers)} templates: {len(found) - len(refused)} of {len(found)} conversations equal; {refused}")
    assert len(renderers) > 30
    assert not [where for where, said in found.items() if said.startswith("differs")]
    plain = [found.get((name, "turns")) for name, made in renderers.items() if isinstance(made, Renderer)]
    assert plain.count("equal") > 0.8 * len(renderers)


def outcomes(renderers: Mapping[str, Renderer | InputError]) -> Iterator[tuple[tuple[str, str], str]]:
    for name, renderer in renderers.items():
        if isinstance(renderer, InputError):
            yield (name, "template"), str(renderer)
            continue
        for kind, (messages, tools) in CONVERSATIONS.items():
            try:
                yield (name, kind), difference(renderer, messages, tools)
            except ConversationError as error:
                yield (name, kind), str(error)


def difference(renderer: Renderer, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
    """Of the samples from what transformers renders and tokenises for each prompt, and writes for each answer."""
    samples = renderer.samples(Conversation(tuple(messages), tuple(tools)))
    spans = [(sample, *span) for sample in samples for span in sample.spans]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if len(spans) != len(answers):
        return f"differs: {len(spans)} answers are trained"
    tokenizer, served = renderer.tokenizer, as_served(messages, renderer.templates.chosen(tools))
    settings: dict[str, Any] = {"tools": list(tools) or None, "tokenize": False}
    for (sample, begin, end), index in zip(spans, answers, strict=True):
        prompt = tokenizer.apply_chat_template(served[:index], add_generation_prompt=True, **settings)
        whole = tokenizer.apply_chat_template(served[: index + 1], **settings)
        if sample.tokens[:begin] != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
            return f"differs before message {index}"
        if not whole.startswith(prompt + tokenizer.decode(sample.tokens[begin:end])):
            return f"differs in message {index}"
        if sample.tokens[end - 1] not in renderer.stop_tokens:
            return f"differs: message {index} has no end"
    return "equal"
