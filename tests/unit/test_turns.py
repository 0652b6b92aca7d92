"""Conversations with an environment: whose ids are whose, what is trained of them, and what is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import tiny_llama
from support.policies import policy_spec
from support.tokenizers import CHATML, HEADERS, chatml, headers, tokenizer_with

from rayloom.errors import InputError
from rayloom.rewards.answer import CannotJudgeError
from rayloom.rewards.function_process import FunctionProcess
from rayloom.rewards.opening import opened
from rayloom.specs.training.policies import Grpo, Rollouts
from rayloom.text.conversations.prompt_rows import PromptRow
from rayloom.text.conversations.render import Renderer
from rayloom.train.objectives.policy import PolicyObjective
from rayloom.train.rollouts.answers import AskedPrompt, Files, PolicyAnswer, WrittenTokens, shown
from rayloom.train.rollouts.asking import Asker, StepPrompt
from rayloom.train.rollouts.turns import Environment, check_continues, following

QUESTION = [{"role": "user", "content": "Tell me a joke"}]
CALCULATOR = """
import time

def reply(messages, row, unit=""):
    said = messages[-1]["content"]
    if said == "hang":
        time.sleep(60)
    if said == "nonsense":
        return {"role": "assistant", "content": "I?"}
    if said.startswith("add "):
        return [{"role": "tool", "content": str(sum(map(int, said.split()[1:]))) + unit}]
"""


def row_of(renderer: Renderer) -> PromptRow:
    return PromptRow("x row 0", renderer.prompt(QUESTION), list(QUESTION), {"sum": 7})


def answered(renderer: Renderer, text: str) -> list[int]:
    """The ids of an answer as an engine writes it, up to the end of its turn."""
    return [*renderer.tokenizer.encode(text, add_special_tokens=False), renderer.tokenizer.eos_token_id]


def without_thoughts() -> Any:
    """A template that leaves thoughts of earlier turns out, as those of reasoning models do."""
    content = "(message['content'].split('</think>')[-1] if not loop.last else message['content'])"
    template = CHATML.replace("message['content']", content)
    return tokenizer_with(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")


@pytest.mark.parametrize("role", ["tool", "user"])
def test_a_conversation_goes_on_as_its_whole_rendering_does(role: str) -> None:
    renderer = Renderer(chatml())
    row = row_of(renderer)
    check_continues(renderer, row)
    before, messages = list(row.tokens), list(QUESTION)
    for text in ("One two", "Three\n\nfour."):
        before += answered(renderer, text)
        messages += [{"role": "assistant", "content": text}, {"role": role, "content": " five"}]
        ids, is_same = following(renderer, row, before, messages)
        before += ids
        assert is_same
        assert before == renderer.prompt(messages)


def test_a_prompt_whose_end_is_split_otherwise_in_the_whole_is_counted_and_not_changed() -> None:
    renderer = Renderer(headers())
    row = row_of(renderer)
    check_continues(renderer, row)
    before = row.tokens + answered(renderer, "\n\nyes")
    messages = [*QUESTION, {"role": "assistant", "content": "\n\nyes"}, {"role": "user", "content": "Why?"}]
    with pytest.raises(CannotJudgeError, match="template_rewrites"):  # it trims what it writes
        following(renderer, row, before, messages)
    messages[1]["content"] = "yes"
    before = row.tokens + answered(renderer, "yes")
    ids, is_same = following(renderer, row, before, messages)
    assert not is_same
    assert renderer.tokenizer.decode(before + ids) == renderer.tokenizer.decode(renderer.prompt(messages))


def test_ids_that_the_engine_wrote_stay_where_their_text_has_others() -> None:
    renderer = Renderer(chatml())
    row = row_of(renderer)
    letters = [renderer.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "Paris"]
    before = [*row.tokens, *letters, renderer.tokenizer.eos_token_id]
    messages = [*QUESTION, {"role": "assistant", "content": "Paris"}, {"role": "user", "content": "Why?"}]
    ids, is_same = following(renderer, row, before, messages)
    whole = renderer.prompt(messages)
    assert not is_same
    assert whole[-len(ids) :] == ids
    assert before + ids != whole
    assert renderer.tokenizer.decode(before + ids) == renderer.tokenizer.decode(whole)


@pytest.mark.parametrize(
    ("tokenizer", "text", "problem"),
    [
        (headers(), "trimmed ", "template_rewrites"),
        (without_thoughts(), "<think>hm</think>yes", "template_rewrites"),
        (tokenizer_with(CHATML.replace("<|im_start|>{{", "{% if message['role'] != 'tool' %}<|im_start|>{{").replace(
            "{% endfor %}", "{% endif %}{% endfor %}"), ("<|im_start|>", "<|im_end|>"), "<|im_end|>"), "yes",
         "not_written"),
    ],
    ids=["trims answers", "drops thoughts", "writes no tools"],
)  # fmt: skip
def test_what_the_server_would_show_otherwise_is_refused(tokenizer: Any, text: str, problem: str) -> None:
    renderer = Renderer(tokenizer)
    row = row_of(renderer)
    messages = [*QUESTION, {"role": "assistant", "content": text}, {"role": "tool", "content": "seven"}]
    with pytest.raises(CannotJudgeError, match=problem):
        following(renderer, row, row.tokens + answered(renderer, text), messages)


def test_a_template_that_writes_every_answer_otherwise_is_refused_before_training() -> None:
    more = "| trim }}{% if not loop.last and message['role'] == 'assistant' %}.{% endif %}"
    template = HEADERS.replace("| trim }}", more)
    renderer = Renderer(tokenizer_with(template, ("<|start|>", "<|end|>", "<|eot|>"), "<|eot|>"))
    with pytest.raises(InputError, match="cannot carry a conversation on behind the ids of an answer"):
        check_continues(renderer, row_of(renderer))


# -- writing and training ----------------------------------------------------------------------------------------------


@dataclass
class Script:
    """Writers that say what stands in a script, one text for each turn of each answer; None: a turn that is cut."""

    renderer: Renderer
    turns: list[list[str | None]]
    asked: list[tuple[list[AskedPrompt], bool]] = field(default_factory=list)

    def load(self, version: int, files: Files) -> None:
        raise AssertionError((version, files))

    def sleep(self) -> None:
        raise AssertionError

    wake = sleep

    def ask(self, asked: Sequence[AskedPrompt], goes_on: bool = False) -> Script:
        self.asked.append((list(asked), goes_on))
        return self

    def result(self) -> tuple[list[WrittenTokens], float]:
        texts = self.turns[len(self.asked) - 1]
        assert len(texts) == len(self.asked[-1][0])
        return [self._written(text) for text in texts], 0.5

    def _written(self, text: str | None) -> WrittenTokens:
        ids = [5, 6] if text is None else answered(self.renderer, text)
        return WrittenTokens(ids, [-1.0] * len(ids), text is None)


def talked(folder: Path, turns: list[list[str | None]], **changes: Any) -> tuple[list[PolicyAnswer], Script]:
    """The judged answers of one prompt, and what the engines were asked."""
    environment = {"function": "calculator:reply", "seconds": 1, "max_turns": 3}
    rollouts = {"max_answer_tokens": 8, "environment": environment}
    policy = {"type": "grpo", "group_size": len(turns[0]), "cut_answers": "judged"}
    rewards = [{"type": "numeric", "field": "sum"}]
    length = changes.get("sequence_length_tokens", 128)
    spec = policy_spec(
        policy, rollouts=rollouts, rewards=rewards, sequence_length_tokens=length, micro_batch_sequences=1,
        global_batch_tokens=len(turns[0]) * length,
    )  # fmt: skip
    assert spec.rollouts is not None and spec.rollouts.environment is not None
    (folder / "calculator.py").write_text(CALCULATOR)
    renderer = Renderer(chatml())
    renderer.tokenizer.save_pretrained(folder)
    script = Script(renderer, turns)
    with (
        opened(spec.rewards or (), "rewards", {}, folder) as opened_rewards,
        FunctionProcess.of(spec.rollouts.environment, folder, "json") as process,
    ):
        asker = Asker(spec, folder, script, opened_rewards, Environment(spec, process, renderer))
        questions = [StepPrompt(0, (0, 0), row_of(renderer))]
        made = asker.finish(questions, asker.begin(questions, 0), 0, {"version": 0.0}, lambda *_: questions[0])
    assert made.facts["writing_seconds"] == 0.5 * len(script.asked)
    return made.answers, script


def test_a_tool_speaks_between_turns_and_the_last_turn_is_judged(tmp_path: Path) -> None:
    answers, script = talked(tmp_path, [["add 3 4", "it is 9", "add 1"], ["it is 7", "add 2"], ["it is 8"]])
    assert [answer.reward for answer in answers] == [1.0, 0.0, 0.0]
    assert [[turn["content"] for turn in answer.turns] for answer in answers] == [
        ["add 3 4", "7"], [], ["add 1", "1", "add 2", "2"],
    ]  # fmt: skip
    assert [goes_on for _, goes_on in script.asked] == [False, True, True]
    renderer = script.renderer
    whole = [*answers[0].prompt_tokens, *answers[0].tokens]
    messages = [*QUESTION, *answers[0].turns, {"role": "assistant", "content": "it is 7"}]
    assert renderer.tokenizer.decode(whole) + "\n" == renderer.templates.text(messages, open_answer=False)
    written = renderer.tokenizer.decode([answers[0].tokens[place] for place in answers[0].written])
    assert written == "add 3 4<|im_end|>it is 7<|im_end|>"
    seeds = [one.seed for asked, _ in script.asked for one in asked]
    assert len(set(seeds)) == len(seeds)
    assert shown(answers[0])["answer"] == "assistant: add 3 4\ntool: 7\nassistant: it is 7"


def test_only_what_the_model_wrote_is_trained(tmp_path: Path) -> None:
    answers, _ = talked(tmp_path, [["add 3 4", "it is 9"], ["it is 7"]])
    made = PolicyObjective(Grpo(type="grpo", group_size=2), Rollouts(max_answer_tokens=8))
    made.set_advantages(answers)
    model = tiny_llama()
    together, alone = (made.batch(pieces) for pieces in ([answers], [[one] for one in answers]))
    assert together.num_labels == 2
    assert len(together.labels) == len(together.weights) == sum(answer.num_written for answer in answers)
    expected = []
    for answer in answers:
        whole = [*answer.prompt_tokens, *answer.tokens]
        log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1).detach()
        places = [len(answer.prompt_tokens) + int(place) for place in answer.written]
        expected += [float(log_p[place - 1, whole[place]]) for place in places]
    loss = made.loss_of(model)
    assert loss.view(together).log_p.tolist() == pytest.approx(expected, abs=1e-4)
    assert loss.view(alone).log_p.tolist() == pytest.approx(expected, abs=1e-4)


def test_an_environment_that_fails_is_named_and_its_answer_not_trained(tmp_path: Path) -> None:
    answers, _ = talked(tmp_path, [["add x", "hang", "nonsense", "add 3 4"], ["it is 7"]])
    assert [answer.reward for answer in answers] == [None, None, None, 1.0]
    said = [answer.problems[0] for answer in answers[:3]]
    assert "environment: raised: ValueError: invalid literal for int()" in said[0]
    assert said[1] == "environment: took_too_long: more than 1 s"
    assert said[2].startswith("environment: no_message: it must be None, a text, or messages with role tool or user")


def test_a_conversation_ends_where_a_turn_is_cut_and_where_no_room_is_left(tmp_path: Path) -> None:
    answers, _ = talked(tmp_path, [[None, "add 3 4"], ["it is 7"]])
    assert [(answer.is_cut, answer.turns == []) for answer in answers] == [(True, True), (False, False)]
    room = len(answers[1].prompt_tokens) + answers[1].gaps[0][1]
    (short, _), _ = talked(tmp_path, [["add 3 4", "it is 7"]], sequence_length_tokens=room)
    assert (short.is_cut, short.gaps, short.tokens) == (True, [], answers[1].tokens[: answers[1].gaps[0][0]])
