"""Training ids are the server's ids, and only answers with their end are trained."""

from __future__ import annotations

import pytest
from support.tokenizers import CHATML, chatml, forgetful, headers, tokenizer_with

from rayloom.errors import InputError
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.render import Conversation, Renderer, Sample


def said(*texts: str, **last: object) -> Conversation:
    """A conversation of user and assistant in turn; `last` is put into the last message."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    messages[-1].update(last)  # type: ignore[arg-type]
    return Conversation(tuple(messages))


def marked(renderer: Renderer, sample: Sample) -> str:
    """The sample's text with every run of trained tokens in ⟦ ⟧."""
    parts, run, is_open = [], list[int](), False
    for token, trained in zip(sample.tokens, sample.trained, strict=True):
        if trained != is_open:
            parts += [renderer.tokenizer.decode(run), "⟦" if trained else "⟧"]
            run, is_open = [], trained
        run.append(token)
    return "".join([*parts, renderer.tokenizer.decode(run), "⟧" if is_open else ""])


def test_only_the_answer_and_its_end_are_trained() -> None:
    renderer = Renderer(chatml())
    (sample,) = renderer.samples(said("Who are you?", "I am Loomie."))
    expected = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n⟦I am Loomie.<|im_end|>⟧"
    assert marked(renderer, sample) == expected


def test_every_turn_of_a_conversation_is_in_one_sample_where_prompts_continue_each_other() -> None:
    renderer = Renderer(chatml())
    (sample,) = renderer.samples(said("Hello", "Good morning!", "Who are you?", "I am Loomie."))
    assert marked(renderer, sample) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n⟦Good morning!<|im_end|>⟧\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n⟦I am Loomie.<|im_end|>⟧"
    )


def test_ids_are_those_of_the_prompt_and_then_of_the_answer() -> None:
    tokenizer = headers()
    renderer = Renderer(tokenizer)
    conversation = said("Who are you?", "I am Loomie.")
    prompt = renderer.prompt(conversation.messages[:1])
    (sample,) = renderer.samples(conversation)
    assert sample.tokens[: len(prompt)] == prompt
    assert sample.tokens[len(prompt) :] == tokenizer("I am Loomie.<|eot|>", add_special_tokens=False)["input_ids"]
    assert sample.trained == [False] * len(prompt) + [True] * (len(sample.tokens) - len(prompt))
    # Two line breaks at a text's end are one token, before a word two: the whole text has other ids at the seam.
    whole = tokenizer(tokenizer.decode(sample.tokens), add_special_tokens=False)["input_ids"]
    assert whole != sample.tokens


def test_the_text_begins_with_one_begin_token_though_the_tokenizer_adds_one_too() -> None:
    tokenizer = headers()
    (sample,) = Renderer(tokenizer).samples(said("Hello", "Good morning!"))
    assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    assert sample.tokens.count(tokenizer.bos_token_id) == 1
    assert sample.tokens[0] == tokenizer.bos_token_id


def test_a_template_that_writes_the_begin_token_twice_is_refused() -> None:
    tokenizer = headers()
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(ConversationError, match="twice"):
        Renderer(tokenizer).samples(said("Hello", "Good morning!"))


def test_turns_become_samples_of_their_own_where_a_template_forgets_earlier_reasoning() -> None:
    renderer = Renderer(forgetful())
    messages = said("Hello", "Good morning!", "Who are you?", "I am Loomie.").messages
    reasoned = ({**messages[1], "reasoning": "One two"}, {**messages[3], "reasoning": "three"})
    first, second = renderer.samples(Conversation((messages[0], reasoned[0], messages[2], reasoned[1])))
    assert marked(renderer, first) == "[user]Hello[assistant]⟦<think>One two</think>Good morning!<|eot|>⟧"
    assert marked(renderer, second) == (
        "[user]Hello[assistant]Good morning!<|eot|>[user]Who are you?[assistant]"
        "⟦<think>three</think>I am Loomie.<|eot|>⟧"
    )


def test_a_message_may_be_context_only() -> None:
    renderer = Renderer(chatml())
    messages = said("Hello", "Good morning!", "Who are you?", "I am Loomie.").messages
    (sample,) = renderer.samples(Conversation((messages[0], {**messages[1], "train": False}, *messages[2:])))
    assert marked(renderer, sample).count("⟦") == 1
    assert "⟦I am Loomie.<|im_end|>⟧" in marked(renderer, sample)


@pytest.mark.parametrize(
    ("conversation", "said_about_it"),
    [
        (said("Hello", "  "), "message 2 is an empty answer"),
        (said("Hello"), "ends with a message from user"),
        (said("Hello", "one", "two", "three<|im_end|>"), "message 4: the answer contains the stop token"),
        (said("Hello", "one", train=False), "no token is trained"),
        (Conversation(({"role": "assistant", "content": "one"},)), "message 1 is from assistant at the beginning"),
        (Conversation(({"role": "teacher", "content": "one"},)), "has the role 'teacher'"),
        (Conversation(()), "has no messages"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_said(conversation: Conversation, said_about_it: str) -> None:
    with pytest.raises(ConversationError, match=said_about_it):
        Renderer(chatml()).samples(conversation)


def test_a_stop_token_that_the_tokenizer_does_not_have_stands_in_no_answer() -> None:
    renderer = Renderer(chatml(), stop_tokens=[50_256])
    answer = {"role": "assistant", "content": "None of them."}
    assert renderer.samples(Conversation(({"role": "user", "content": "Which?"}, answer)))


def test_a_template_whose_turns_never_stop_the_server_is_refused() -> None:
    tokenizer = tokenizer_with(CHATML, ("<|im_start|>", "<|im_end|>"), "<s>")
    with pytest.raises(InputError, match="without a stop token"):
        Renderer(tokenizer)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert Renderer(tokenizer, [stop]).samples(said("Hello", "one"))[0].tokens[-1] == stop


def test_a_template_that_opens_answers_otherwise_than_it_writes_them_is_refused() -> None:
    tokenizer = tokenizer_with(
        CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
    )
    with pytest.raises(InputError, match="opens the answer with '<think>"):
        Renderer(tokenizer)


def test_a_template_that_opens_every_answer_with_reasoning_takes_the_answers_that_have_some() -> None:
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}").replace(
        "message['content']",
        "(('<think>\n' + message['reasoning_content'] + '</think>') if message['reasoning_content'] else '') "
        "+ message['content']",
    )
    renderer = Renderer(tokenizer_with(thinking, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
    (sample,) = renderer.samples(said("2 + 2?", "4", reasoning_content="Two and two."))
    assert marked(renderer, sample).endswith("assistant\n<think>\n⟦Two and two.</think>4<|im_end|>⟧")
    with pytest.raises(ConversationError, match="opens the answer with '<think>"):
        renderer.samples(said("2 + 2?", "4"))


def test_a_refused_template_says_which_settings_it_has() -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n{% if not quick %}<think>{% endif %}{% endif %}")
    tokenizer = tokenizer_with(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")
    with pytest.raises(InputError, match="try its settings \\(chat_template_kwargs: quick\\)"):
        Renderer(tokenizer)
    assert Renderer(tokenizer, template_kwargs={"quick": True}).samples(said("Hello", "one"))


def test_a_model_without_a_template_is_refused() -> None:
    tokenizer = chatml()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Renderer(tokenizer)
