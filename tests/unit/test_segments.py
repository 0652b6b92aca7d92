"""Segments tokenised once give the ids of whole texts, for every kind of tokenizer; or whole texts are tokenised."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokenizers import CHATML, chatml, forgetful, headers, tokenizer_with
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rayloom.text.bulk_tokenizer import BulkTokenizer
from rayloom.text.conversations.segments import SegmentedTokenizer

TEXT = ["Hello there. Who are you? I am Loomie.\n\nOne two three four five. 1234 你好 naïve"] * 20
PARTS = (
    "<|im_start|>",
    "<|im_end|>",
    "user\n",
    "Hello there.",
    " I am",
    "\n\n",
    "12 34",
    "你好",
    "▁",
    " ",
    "e\u0301",
    "X",
)


def sentencepiece(scheme: str, normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer that writes spaces as ▁, and puts one before a text, or before the first one only."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    inner.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", chat_template=CHATML)


@functools.cache
def once(made: Callable[[], PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return made()


def with_greedy_token() -> PreTrainedTokenizerFast:
    tokenizer = chatml()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    ("made", "is_segmented"),
    [
        (chatml, True),
        (headers, True),
        (forgetful, True),
        (lambda: sentencepiece("always"), True),
        (lambda: sentencepiece("never", normalizers.NFC()), True),
        (lambda: sentencepiece("first"), False),
        (with_greedy_token, False),
    ],
)
@given(parts=st.lists(st.lists(st.sampled_from(PARTS), max_size=8), max_size=4))
def test_ids_are_those_of_whole_texts(
    made: Callable[[], PreTrainedTokenizerFast], is_segmented: bool, parts: list[list[str]]
) -> None:
    tokenizer = once(made)
    segmented = SegmentedTokenizer(tokenizer)
    texts = ["".join(part) for part in parts]
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    grouped = [ids for (ids,) in segmented.ids([[text] for text in texts])]
    assert [np.frombuffer(ids, "<u4").tolist() for ids in grouped] == whole
    assert list(segmented.ids([texts])) == [grouped]
    assert segmented.is_segmented is is_segmented


def test_a_segment_is_tokenised_once_however_many_texts_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_with(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")
    segmented = SegmentedTokenizer(tokenizer)
    asked: list[str] = []
    plain = BulkTokenizer.flat

    def counted(self: BulkTokenizer, texts: list[str]) -> object:
        asked.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(BulkTokenizer, "flat", counted)
    turns = [f"<|im_start|>user\n{number}<|im_end|>\n" for number in range(30)]
    list(segmented.ids([["".join(turns[:end]) for end in range(31)]]))
    assert len(asked) == len(set(asked)) == 31
