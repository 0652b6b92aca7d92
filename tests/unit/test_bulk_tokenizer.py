"""The fast tokenizer gives the ids of Hugging Face's, or is not used."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from support.tokenizers import chatml, headers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from rayloom.text import bulk_tokenizer
from rayloom.text.bulk_tokenizer import BulkTokenizer

TEXT = ["Hello there. Who are you? I am Loomie.\n\nOne two three four five. 1234 你好 naïve don't"] * 20
BYTES = pre_tokenizers.ByteLevel.alphabet()
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_pairs(
    pre: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None, alphabet: list[str] = BYTES
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "<|im_end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def digits() -> Tokenizer:
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return byte_pairs(pre_tokenizers.Sequence(splits))


def without_control_bytes() -> Tokenizer:
    """As SmolLM2's, which has none for six control bytes: the byte is left out of the ids."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return byte_pairs(pre, alphabet=[letter for letter in BYTES if letter != "\u010b"])


def llama3() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    return byte_pairs(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)]))


def composed() -> Tokenizer:
    return byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC())


def sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def texts() -> list[str]:
    dice = random.Random(0)
    ranges = ((32, 127), (9, 14), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x20000))
    pieces = [*TEXT[0].split(" "), " ", "\n", "<|im_end|>", "e\u0301", "½²Ⅷ", "\u00a0", "'ll"]

    def piece() -> str:
        return dice.choice(pieces) if dice.random() < 0.5 else chr(dice.randrange(*dice.choice(ranges)))

    return ["", *("".join(piece() for _ in range(dice.randrange(60))) for _ in range(400))]


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("make", [digits, without_control_bytes, llama3, composed, sentencepiece])
def test_the_fast_tokenizer_gives_the_same_ids(
    make: Callable[[], Tokenizer], adds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_tokenizer, "CHARACTERS_BEFORE_FAST", 1)
    tokenizer = make()
    bulk = BulkTokenizer(tokenizer, add_special_tokens=adds)
    wanted = [one.ids for one in tokenizer.encode_batch(texts(), add_special_tokens=adds)]
    assert bulk(texts()) == wanted
    assert bulk.is_fast
    assert bulk([]) == []


def test_a_tokenizer_of_another_kind_stays_hugging_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_tokenizer, "CHARACTERS_BEFORE_FAST", 1)
    tokenizer = wordpiece()
    bulk = BulkTokenizer(tokenizer, add_special_tokens=False)
    assert bulk(TEXT) == [one.ids for one in tokenizer.encode_batch(TEXT, add_special_tokens=False)]
    assert not bulk.is_fast


def test_other_ids_on_the_first_texts_rule_the_fast_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_tokenizer, "CHARACTERS_BEFORE_FAST", 1)
    ours, other = chatml().backend_tokenizer, headers().backend_tokenizer
    real = bulk_tokenizer.fastokens.Tokenizer.from_json_str

    class Mistaken:
        @staticmethod
        def from_json_str(_: str) -> object:
            return real(other.to_str())

    monkeypatch.setattr(bulk_tokenizer.fastokens, "Tokenizer", Mistaken)
    bulk = BulkTokenizer(ours, add_special_tokens=False)
    assert bulk(["<|im_start|>user"]) == [ours.encode("<|im_start|>user", add_special_tokens=False).ids]
    assert not bulk.is_fast


def test_padding_and_truncation_of_other_callers_do_not_count() -> None:
    tokenizer = digits()
    wanted = tokenizer.encode(TEXT[0]).ids
    tokenizer.enable_padding(length=500)
    tokenizer.enable_truncation(4)
    assert BulkTokenizer(tokenizer, add_special_tokens=True)([TEXT[0]]) == [wanted]
