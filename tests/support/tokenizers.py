"""Small real tokenizers, made in milliseconds, with the chat templates that the tests of `text/` speak about."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Each turn between two special tokens (the form that SmolLM2 and Qwen use)."""

HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}<|end|>\n\n"
    "{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
"""Two line breaks before each text (the form that Llama 3 uses)."""

FORGETFUL = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% if message.get('reasoning') and loop.last %}<think>{{ message['reasoning'] }}</think>{% endif %}"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}<|eot|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Leaves out the reasoning of every turn but the last (the form of several reasoning models)."""

_TEXT = (
    "user assistant system Hello there. Good morning! What is the capital of France? The capital of France is Paris.",
    "I am Loomie.\n\nWho are you?\n\n\nTell me a joke. One two three four five six seven eight nine ten.\n",
) * 20


def tokenizer_with(
    template: str, special: tuple[str, ...], end: str, adds_begin: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens; `adds_begin` makes it put `<s>` before every text by itself."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        _TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", *special)])
    if adds_begin:
        begin = inner.token_to_id("<s>")
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token=end,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def chatml() -> PreTrainedTokenizerFast:
    return tokenizer_with(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")


def headers() -> PreTrainedTokenizerFast:
    return tokenizer_with(HEADERS, ("<|start|>", "<|end|>", "<|eot|>"), "<|eot|>", adds_begin=True)


def forgetful() -> PreTrainedTokenizerFast:
    return tokenizer_with(FORGETFUL, ("<|eot|>",), "<|eot|>")
