"""What stands in a row decides what is trained, whatever the format: nothing that has a meaning is passed over."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.cases import CASES, case_rows
from support.tasks import write_jsonl
from support.tokenizers import CHATML, chatml, forgetful, tokenizer_with

from rayloom.specs.training.labelled_data import ChoiceRows, QuestionRows, SpanRows, TableRows, WordRows
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.judged_rows import judged_row
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.preference_rows import answer_sample
from rayloom.text.conversations.render import Conversation, Renderer, Sample
from rayloom.text.labelled.examples import Example, ExampleError, Span
from rayloom.text.labelled.labelled_rows import labelled_rows

USER = {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "I am Loomie."}
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"place": "Bern"}'}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Who are you?", "output": "I am Loomie."},
    "messages": {"messages": [USER, ANSWER]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "I am Loomie."}]
    },
    "prompt_completion": {"prompt": "Who are you?", "completion": "I am Loomie."},
}
JUDGED: dict[str, dict[str, Any]] = {
    "prompt_chosen_rejected": {"prompt": "Who are you?", "chosen": "I am Loomie.", "rejected": "Nobody."},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who are you?"}],
        "chosen": {"from": "gpt", "value": "I am Loomie."},
        "rejected": {"from": "gpt", "value": "Nobody."},
    },
    "messages_label": {"messages": [USER, ANSWER], "label": True},
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(chatml())


@pytest.fixture(scope="module")
def with_tools() -> Renderer:
    return Renderer(tokenizer_with(WITH_TOOLS, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))


def trained(renderer: Renderer, sample: Sample) -> str:
    return str(renderer.tokenizer.decode([t for t, is_trained in zip(*_of(sample), strict=True) if is_trained]))


def _of(sample: Sample) -> tuple[list[int], list[bool]]:
    return sample.tokens, sample.trained


def whole(renderer: Renderer, sample: Sample) -> str:
    return str(renderer.tokenizer.decode(sample.tokens))


def problem_of(row: dict[str, Any], format_name: str = "messages", renderer: Renderer | None = None) -> str:
    with pytest.raises(ConversationError) as raised:
        read = conversation(row, format_name, {}, "x")
        if renderer is not None:
            renderer.samples(read)
    return f"{raised.value.problem}: {raised.value}"


# -- marks of what is trained ------------------------------------------------------------------------------------------


def test_an_answer_of_weight_zero_is_context_only(renderer: Renderer) -> None:
    for row in case_rows("weight-zero"):
        (sample,) = renderer.samples(conversation(row, "messages", {}, "x"))
        word = row["messages"][0]["content"].removeprefix("Say ")
        assert trained(renderer, sample) == f"right {word}<|im_end|>"
        assert f"wrong {word}" in whole(renderer, sample)


@pytest.mark.parametrize("key", ["weight", "loss", "training", "train", "trainable", "loss_weight"])
@pytest.mark.parametrize("no", [0, 0.0, False])
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_every_mark_means_the_same_in_every_form(renderer: Renderer, key: str, no: Any, form: str) -> None:
    first, second = {**ANSWER, key: no}, {**ANSWER, key: not no}
    turns = [USER, first, USER, second, USER, {**ANSWER, key: None}]
    row = {"messages": turns}
    if form == "sharegpt":
        names = {"user": "human", "assistant": "gpt", "role": "from", "content": "value"}
        row = {"conversations": [{names.get(k, k): names.get(str(v), v) for k, v in turn.items()} for turn in turns]}
    (sample,) = renderer.samples(conversation(row, form, {}, "x"))
    assert trained(renderer, sample) == "I am Loomie.<|im_end|>" * 2


@pytest.mark.parametrize("form", ROWS)
def test_a_mark_of_a_row_is_that_of_all_its_answers(renderer: Renderer, form: str) -> None:
    assert problem_of({**ROWS[form], "weight": 0}, form, renderer).startswith("no_trained_token")
    assert renderer.samples(conversation({**ROWS[form], "weight": 1}, form, {}, "x"))[0].num_trained


@pytest.mark.parametrize("mark", [{"weight": 0.5}, {"weight": "no"}, {"loss": [1]}, {"train": True, "weight": 0}])
def test_marks_that_say_neither_yes_nor_no_are_refused(mark: dict[str, Any]) -> None:
    assert problem_of({"messages": [USER, {**ANSWER, **mark}]}).startswith("bad_mark")


def test_a_judged_answer_cannot_be_one_that_is_not_trained() -> None:
    row = judged_row(
        {"prompt": [USER], "chosen": [{**ANSWER, "weight": 0}], "rejected": "x"}, "prompt_chosen_rejected", ""
    )
    with pytest.raises(ConversationError, match="not to be trained"):
        row.check(is_paired=True)


# -- system texts and tools beside the messages ------------------------------------------------------------------------


def test_a_rows_own_system_text_is_in_the_prompt(renderer: Renderer) -> None:
    for row in case_rows("system-beside-messages"):
        (sample,) = renderer.samples(conversation(row, "messages", {}, "x"))
        assert whole(renderer, sample).startswith("<|im_start|>system\nAnswer only in Latin.<|im_end|>")


@pytest.mark.parametrize("key", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("form", ROWS)
def test_every_form_can_carry_a_system_text(form: str, key: str) -> None:
    read = conversation({**ROWS[form], key: "Be brief."}, form, {}, "x")
    assert [message["role"] for message in read.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("form", JUDGED)
def test_judged_answers_are_asked_for_with_the_rows_system_text_and_tools(form: str, with_tools: Renderer) -> None:
    judged = judged_row({**JUDGED[form], "system": "Be brief.", "tools": [CLOCK]}, form, "x")
    text = whole(with_tools, answer_sample(with_tools, judged, judged.better))
    assert "<|im_start|>system\nBe brief.<|im_end|>" in text
    assert '"clock"' in text


def test_two_system_texts_are_refused_unless_they_are_the_same() -> None:
    own = {"role": "system", "content": "Be brief."}
    assert (
        len(conversation({"messages": [own, USER, ANSWER], "system": "Be brief."}, "messages", {}, "x").messages) == 3
    )
    assert "another one" in problem_of({"messages": [own, USER, ANSWER], "system": "Be kind."})


def test_functions_and_function_calls_of_the_older_chat_api_are_tools_and_calls(with_tools: Renderer) -> None:
    called = {"role": "assistant", "content": "Let me see.", "function_call": CALL["function"]}
    row = {
        "messages": [USER, called, {"role": "function", "name": "clock", "content": "noon"}, ANSWER],
        "functions": [CLOCK["function"]],
    }
    read = conversation(row, "messages", {}, "x")
    assert read.tools == (CLOCK,)
    text = whole(with_tools, with_tools.samples(read)[0])
    assert 'Let me see.{"arguments": {"place": "Bern"}, "name": "clock"}' in text


# -- what is refused by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("key", ["images", "videos", "audios", "image", "image_url", "audio_path"])
def test_pictures_and_sounds_are_refused_by_name(form: str, key: str) -> None:
    assert f"unsupported_key: has the key `{key}`" in problem_of({**ROWS[form], key: ["river.png"]}, form)
    assert conversation({**ROWS[form], key: []}, form, {}, "x").unknown_keys == ()


def test_rows_with_pictures(renderer: Renderer) -> None:
    assert all("`images`" in problem_of(row, "messages", renderer) for row in case_rows("images"))


@pytest.mark.parametrize(
    "key",
    [
        "mask", "loss_mask", "weights", "sample_weight", "train_on_inputs", "tool_choice", "train_on_turn", "masked",
        "is_masked", "lossMask", "Loss-Mask", "trainOn", "Weight", "skip", "ignored", "excluded", "is_target", "learn",
        "supervised", "step_loss_mask", "toolCalls", "reasoningContent", "systemInstruction", "history", "context",
        "complex_cot", "channel", "prefill", "partial", "image_list",
    ],
)  # fmt: skip
def test_keys_that_look_like_meaning_are_refused(key: str) -> None:
    assert f"`{key}`" in problem_of({"messages": [USER, ANSWER], key: [1]})
    assert f"message 2 has the key `{key}`" in problem_of({"messages": [USER, {**ANSWER, key: [1]}]})
    assert conversation({"messages": [USER, ANSWER], key: [1]}, "messages", {}, "x", (key,)).messages


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("key", ["thinking", "reasoning", "reasoning_content"])
def test_what_an_answer_thought_is_not_lost_beside_it(form: str, key: str) -> None:
    assert f"`{key}`" in problem_of({**ROWS[form], key: "Who am I?"}, form)


@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_a_bad_answer_is_not_imitated(key: str) -> None:
    assert f"`{key}: false`" in problem_of({"messages": [USER, ANSWER], key: False})
    assert f"message 2 has `{key}: false`" in problem_of({"messages": [USER, {**ANSWER, key: False}]})
    assert conversation({"messages": [USER, {**ANSWER, key: True}]}, "messages", {}, "x").messages


def test_other_keys_are_named_and_counted() -> None:
    row = {"messages": [{**USER, "id": 7}, {**ANSWER, "id": 8}], "source": "web", "empty": None}
    assert sorted(conversation(row, "messages", {}, "x").unknown_keys) == ["messages.id", "messages.id", "source"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": [{"type": "text", "text": "a", "image_url": "b"}]}, "`image_url`"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}, "has no text"),
        ({"role": "assistant", "content": [{"type": "output_image"}]}, "'output_image'"),
        ({"role": "assistant", "content": ["good", "bad"]}, "a list that holds str"),
        ({"role": "assistant", "content": [{"type": "text", "text": 5}]}, "has no text"),
        ({"role": "assistant", "content": "a", "refusal": "No."}, "`refusal`"),
        ({"role": "assistant", "content": "a", "value": "b"}, "different values in content and value"),
        ({"role": "assistant", "from": "human", "content": "a"}, "from assistant and from human"),
        ({"role": "assistant", "content": "a", "reasoning": "b", "thinking": "c"}, "different values"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "which only answers have"),
        ({"role": "user", "content": "a", "reasoning": "b"}, "which only answers have"),
        ({"role": "user", "content": "a", "tools": [CLOCK]}, "they belong to the row"),
        ({"role": "user", "content": " "}, "says nothing"),
        ({"content": "a"}, "neither `role` nor `from`; its keys are content"),
    ],
)
def test_no_part_of_a_message_vanishes(message: dict[str, Any], said: str) -> None:
    turns = [message, ANSWER] if message.get("role") == "user" else [USER, message]
    assert said in problem_of({"messages": turns})


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("alpaca", {"instruction": "a", "output": ["good", "bad"]}),
        ("alpaca", {"instruction": "a", "output": 5}),
        ("alpaca", {"instruction": "a", "input": 5, "output": "b"}),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["a", ["b", "c"]]]}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": 5}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ["b", "c"]}]}),
        ("prompt_completion", {"prompt": "a", "completion": ["b", "c"]}),
        ("prompt_completion", {"prompt": 3, "completion": "b"}),
        ("alpaca", {"instruction": "a", "output": "b", "system": ["c"]}),
    ],
)
def test_lists_and_numbers_are_no_texts(form: str, row: dict[str, Any]) -> None:
    assert problem_of(row, form).startswith(("not_text", "not_a_conversation"))


def test_an_instruction_may_stand_under_input_alone_but_not_nowhere() -> None:
    read = conversation({"instruction": "", "input": "Add 1 and 2.", "output": "3"}, "alpaca", {}, "x")
    assert read.messages[0]["content"] == "Add 1 and 2."
    assert problem_of({"instruction": "", "output": "3"}, "alpaca").startswith("empty_question")


def test_columns_that_a_table_filled_with_null_are_not_there(renderer: Renderer) -> None:
    empty = {"train": None, "weight": None, "tool_calls": None, "images": None, "name": None, "function_call": None}
    row = {"messages": [USER | empty, ANSWER | empty], "tools": None, "images": None, "system": None, "train": None}
    (sample,) = renderer.samples(conversation(row, "messages", {}, "x"))
    assert trained(renderer, sample) == "I am Loomie.<|im_end|>"


# -- what a template does not write ------------------------------------------------------------------------------------


def test_calls_and_tools_that_the_template_does_not_write_are_refused(renderer: Renderer, with_tools: Renderer) -> None:
    for row in case_rows("tool-calls"):
        assert "does not write `tool_calls`" in problem_of(row, "messages", renderer)
        (sample,) = with_tools.samples(conversation(row, "messages", {}, "x"))
        assert trained(with_tools, sample).startswith('{"arguments": {"place":')
    assert "does not write `tools`" in problem_of({"messages": [USER, ANSWER], "tools": [CLOCK]}, "messages", renderer)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ({**ANSWER, "reasoning": "who"}, "reasoning"),
        ({**ANSWER, "reasoning_content": "who"}, "reasoning"),
        ({**ANSWER, "thinking": "I am"}, "reasoning"),
        ({**ANSWER, "name": "Loomie"}, "name"),
    ],
)
def test_fields_that_the_template_does_not_write_are_refused(
    renderer: Renderer, message: dict[str, Any], lost: str
) -> None:
    assert f"does not write `{lost}`" in problem_of({"messages": [USER, message]}, "messages", renderer)


def test_reasoning_is_kept_where_the_template_writes_it_in_the_last_turn() -> None:
    renderer = Renderer(forgetful())
    first, second = renderer.samples(
        conversation({"messages": [USER, {**ANSWER, "thinking": "One"}, USER, ANSWER]}, "messages", {}, "x")
    )
    assert trained(renderer, first) == "<think>One</think>I am Loomie.<|eot|>"
    assert trained(renderer, second) == "I am Loomie.<|eot|>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            CHATML.replace("for message in messages", "for message in messages if message.role != 'system'"),
            "the system",
        ),
        (CHATML.replace("message['content']", "message['content'].split('am')[0]"), "as it stands"),
    ],
)
def test_texts_that_the_template_does_not_write_are_refused(template: str, said: str) -> None:
    renderer = Renderer(tokenizer_with(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
    for text in ("a", "A text that is long enough to be found again in what is rendered"):
        messages = ({"role": "system", "content": text}, USER, ANSWER)
        with pytest.raises(ConversationError, match=said):
            renderer.samples(Conversation(messages))


def test_one_call_of_two_and_arguments_that_are_not_written_are_refused(with_tools: Renderer) -> None:
    first_only = WITH_TOOLS.replace("or [] %}{{ call.function", "or [] if loop.first %}{{ call.function")
    no_arguments = WITH_TOOLS.replace("call.function | tojson", "call.function.name")
    row = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "2"}]}]}
    assert with_tools.samples(conversation(row, "messages", {}, "x"))
    for template, lost in ((first_only, "`tool_calls`"), (no_arguments, "the arguments of a call")):
        renderer = Renderer(tokenizer_with(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
        assert f"does not write {lost}" in problem_of(row, "messages", renderer)


def with_call(function: dict[str, Any], *tools: dict[str, Any]) -> dict[str, Any]:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    return {"messages": [USER, call], "tools": list(tools)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"place": 9' + "9" * 5000 + "}", "number_too_long"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested_too_deep"),
        ('{"a":' * 100_000, "nested_too_deep"),
        ('{"place": "Bern", "place": "Rome"}', "the key `place` stands twice"),
        ('{"place": "\\ud83d"}', "half a character"),
        ("place=Bern", "malformed_json"),
        ("[1]", "not a mapping"),
    ],
)
@pytest.mark.parametrize("form", ["tool_calls", "function_call"])
def test_arguments_that_are_absurd_json_cost_their_row(
    form: str, arguments: str, said: str, with_tools: Renderer
) -> None:
    row = with_call({"name": "clock", "arguments": arguments})
    if form == "function_call":
        row["messages"][1] = {"role": "assistant", "function_call": {"name": "clock", "arguments": arguments}}
    assert said in problem_of(row, "messages", with_tools)


@pytest.mark.parametrize("key", ["parameters", "args", "input", "kwargs"])
def test_arguments_under_another_name_are_not_lost(key: str) -> None:
    assert f"`{key}`, which would be lost: name it `arguments`" in problem_of(
        with_call({"name": "clock", key: {"a": 1}})
    )
    written = {"from": "function_call", "value": f'{{"name": "clock", "{key}": {{"a": 1}}}}'}
    assert f"`{key}`" in problem_of({"conversations": [{"from": "human", "value": "a"}, written]}, "sharegpt")


def test_a_mark_inside_a_call_is_not_lost_and_other_keys_are_counted() -> None:
    assert "`weight`" in problem_of(with_call({"name": "clock", "arguments": {}, "weight": 0}))
    read = conversation(with_call({"name": "clock", "arguments": {}, "index": 0}, CLOCK), "messages", {}, "x")
    assert read.unknown_keys == ("messages.tool_calls.index",)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"name": "clock", "input_schema": {"type": "object"}}, "`input_schema`, which would be lost"),
        ({"name": "clock", "inputSchema": {"type": "object"}}, "`inputSchema`, which would be lost"),
        ({"type": "function", "function": {"name": "clock", "args": {"a": {}}}}, "`args`, which would be lost"),
        ({"name": "clock", "parameters": '{"type": "object"}'}, "parameters that are not an object"),
        ({"name": "clock", "description": ["a"]}, "description that are not a text"),
    ],
)
def test_a_tools_definition_is_read_as_a_whole(tool: dict[str, Any], said: str) -> None:
    row = {"messages": [USER, ANSWER], "tools": [tool]}
    assert said in problem_of(row)
    assert said in problem_of(row | {"tools": json.dumps([tool])})
    known = {"type": "function", "function": {"name": "clock", "parameters": {}, "returns": {"type": "string"}}}
    assert conversation(row | {"tools": [known]}, "messages", {}, "x").unknown_keys == ("tools.returns",)


def test_messages_of_a_table_without_lists_are_read_from_their_json(renderer: Renderer) -> None:
    for form, column in (("messages", "messages"), ("sharegpt", "conversations")):
        row = ROWS[form] | {column: json.dumps(ROWS[form][column])}
        assert trained(renderer, renderer.samples(conversation(row, form, {}, "x"))[0]) == "I am Loomie.<|im_end|>"
        assert "not a list of messages" in problem_of({column: "user: Hi"}, form)


# -- judged answers ----------------------------------------------------------------------------------------------------


def test_a_prompt_that_both_answers_repeat_is_the_prompt() -> None:
    for row in case_rows("pairs-with-implicit-prompt"):
        judged = judged_row(row, "prompt_chosen_rejected", "x")
        assert list(judged.prompt) == row["chosen"][:1]
        assert judged.better == (row["chosen"][1],)
        assert judged.worse == (row["rejected"][1],)
        text = {**row, "prompt": row["chosen"][0]["content"], "score_chosen": 8.5}
        same = judged_row(text, "prompt_chosen_rejected", "x")
        assert (same.prompt, same.better, same.worse) == (judged.prompt, judged.better, judged.worse)
        assert same.unknown == ("score_chosen",)


def test_each_answer_stands_behind_its_own_turns(renderer: Renderer) -> None:
    for row in case_rows("pairs-that-part-early"):
        judged = judged_row(row, "prompt_chosen_rejected", "x")
        word = row["prompt"][0]["content"].removeprefix("Say ")
        for turns, own, other in ((judged.better, "first", "other"), (judged.worse or (), "other", "first")):
            sample = answer_sample(renderer, judged, turns)
            assert f"{own} {word}" in whole(renderer, sample)
            assert f"{other} {word}" not in whole(renderer, sample)
            assert trained(renderer, sample) == f"{turns[-1]['content']}<|im_end|>"


def test_texts_with_speakers_in_them_are_turns() -> None:
    begin = "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Who are you?\n\nAssistant:"
    judged = judged_row({"chosen": begin + " Loomie.", "rejected": begin + " Nobody."}, "prompt_chosen_rejected", "x")
    assert [message["content"] for message in judged.prompt] == ["Hello", "Hi.", "Who are you?"]
    assert judged.better == ({"role": "assistant", "content": "Loomie."},)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "b"}, "has no `prompt`"),
        ({"chosen": [ANSWER], "rejected": [{**ANSWER, "content": "No."}]}, "do not begin with the same message"),
        ({"prompt": "Other?", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "does not begin with the same"),
        ({"prompt": "a", "chosen": [], "rejected": []}, "no answer"),
        ({"prompt": "a", "chosen": ["b", "c"], "rejected": "d"}, "not a list of messages"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "images": ["x.png"]}, "`images`"),
    ],
)
def test_pairs_without_a_common_prompt_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ConversationError, match=said):
        judged_row(row, "prompt_chosen_rejected", "x")


def test_one_judged_answer_may_stand_beside_its_prompt() -> None:
    judged = judged_row({"prompt": "a", "completion": "b", "label": False}, "messages_label", "x")
    assert (judged.prompt, judged.better, judged.is_good) == (
        ({"role": "user", "content": "a"},),
        ({"role": "assistant", "content": "b"},),
        False,
    )


def test_turns_with_roles_in_a_column_of_conversations_are_read(renderer: Renderer) -> None:
    for row in case_rows("conversations-with-roles"):
        (sample,) = renderer.samples(conversation(row, "sharegpt", {}, "x"))
        assert trained(renderer, sample) == f"{row['conversations'][1]['content']}<|im_end|>"


# -- labelled rows -----------------------------------------------------------------------------------------------------


def read_questions(row: dict[str, Any], folder: Path) -> Example | ExampleError | None:
    ((_, read),) = labelled_rows([write_jsonl([row], folder / "x.jsonl")], QuestionRows(type="questions"))
    return read


def test_answers_begin_where_the_row_says() -> None:
    reading = QuestionRows(type="questions")
    for (_, read), row in zip(
        labelled_rows([CASES / "rows" / "squad.jsonl"], reading), case_rows("squad"), strict=True
    ):
        answer = row["answers"][0]
        assert isinstance(read, Example)
        assert read.spans == (Span(answer["answer_start"], answer["answer_start"] + len(answer["text"]), "answer"),)


@pytest.mark.parametrize(
    ("answers", "starts"),
    [
        ({"text": ["a b"], "answer_start": [4]}, [4]),
        ({"text": ["a b", "c"], "answer_start": [0, 8]}, [0, 8]),
        ({"text": "c", "answer_start": 8}, [8]),
        ({"text": ["c"]}, [8]),
        ({"text": [], "answer_start": []}, []),
        ([{"text": "a b", "start": 4, "answer_start": None}], [4]),
        ([{"text": "c"}], [8]),
    ],
)
def test_answers_in_each_of_their_forms(tmp_path: Path, answers: Any, starts: list[int]) -> None:
    read = read_questions({"context": "a b a b c", "question": "?", "answers": answers}, tmp_path)
    assert isinstance(read, Example)
    assert [span.start for span in read.spans] == starts


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"answers": [{"text": "a b"}]}, "ambiguous_answer"),
        ({"answers": [{"text": "a b", "start": 0, "answer_start": 4}]}, "bad_span"),
        ({"answers": {"text": ["a b"], "answer_start": [0, 4]}}, "missing_column"),
        ({"answers": {"text": ["a b"], "answer_start": [True]}}, "answer_not_in_context"),
        ({"answers": {"text": ["a b"], "answer_start": [1]}}, "answer_not_in_context"),
        ({"answers": [{"text": "c"}], "is_impossible": True}, "bad_span"),
        ({"answers": [], "weight": 0}, "not_trained"),
        ({"answers": [], "weight": 0.3}, "bad_mark"),
        ({"answers": [], "images": ["x.png"]}, "unsupported_key"),
        ({"answers": [], "sample_weight": 3}, "unsupported_key"),
    ],
)
def test_questions_that_cannot_be_used_are_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    read = read_questions({"context": "a b a b c", "question": "?"} | row, tmp_path)
    assert isinstance(read, ExampleError)
    assert read.problem == problem


@pytest.mark.parametrize("says_so", [True, "true", 1, "1"])
def test_answers_to_what_has_none_are_refused_however_that_is_written(tmp_path: Path, says_so: Any) -> None:
    row = {"context": "A river.", "question": "What?", "answers": [{"text": "A river", "answer_start": 0}]}
    path = write_jsonl([row | {"is_impossible": says_so}, row | {"is_impossible": "no"}], tmp_path / "x.jsonl")
    first, second = (one for _, one in labelled_rows([path], QuestionRows(type="questions")))
    assert isinstance(first, ExampleError) and first.problem == "bad_span"
    assert isinstance(second, ExampleError) and second.problem == "bad_mark"


def test_offsets_that_contradict_the_entitys_own_text_are_refused(tmp_path: Path) -> None:
    """Offsets in bytes or in UTF-16, or from 1, mark something else."""
    text = "😀 Anna sings."
    spans = [{"start": 2, "end": 6, "label": "x", "text": "Anna"}, {"start": 5, "end": 9, "label": "x", "text": "Anna"}]
    path = write_jsonl([{"text": text, "entities": [span]} for span in spans], tmp_path / "x.jsonl")
    right, wrong = (one for _, one in labelled_rows([path], SpanRows(type="spans")))
    assert isinstance(right, Example) and right.spans == (Span(2, 6, "x"),)
    assert isinstance(wrong, ExampleError) and "'Anna', and 5 to 9 is 'a si'" in str(wrong)


def test_words_that_are_none_and_digits_that_are_no_number(tmp_path: Path) -> None:
    words = write_jsonl([{"tokens": [], "ner_tags": []}, {"tokens": [""], "ner_tags": ["O"]}], tmp_path / "words.jsonl")
    found = [one for _, one in labelled_rows([words], WordRows(type="tokens"))]
    assert [one.problem for one in found if isinstance(one, ExampleError)] == ["empty_text", "empty_text"]
    asked = write_jsonl([{"question": "a", "choices": ["b", "c"], "answer": "²"}], tmp_path / "choices.jsonl")
    ((_, one),) = labelled_rows([asked], ChoiceRows(type="choices"))
    assert isinstance(one, ExampleError) and one.problem == "unknown_label"


def test_columns_of_a_table_that_have_no_meaning_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label,weight,topic,image\na,x,1,t,\nb,y,,t,p.png\nc,y,0,t,\n")
    unknown, reading = Counter[str](), TableRows(type="table")
    read = [one for _, one in labelled_rows([tmp_path / "x.csv"], reading, unknown=unknown)]
    assert [one.problem if isinstance(one, ExampleError) else "" for one in read] == [
        "", "unsupported_key", "not_trained",
    ]  # fmt: skip
    assert unknown == {"topic": 1}
    assert all(
        isinstance(one, Example) for _, one in labelled_rows([tmp_path / "x.csv"], reading, None, ("image", "weight"))
    )
