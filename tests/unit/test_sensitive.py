"""Personal data with right and wrong checksums, and what only looks like it. All numbers are published test numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.passes import cleaned

from rayloom.data.rules import sensitive
from rayloom.data.rules.document_rules import Kept, judge_of
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.data.rules.sensitive import WordList, words_of
from rayloom.errors import InputError
from rayloom.specs.clean import Normalisation
from rayloom.specs.cleaning.rules import Rules, SensitiveRules


def _masked(text: str) -> str:
    return judged(text)[0].text


def judged(text: str, listed_words: Sequence[str] = (), **rules: Any) -> tuple[ExaminedText, Drop | None]:
    examined = ExaminedText(text, listed_words)
    return examined, sensitive.judge(examined, SensitiveRules(**rules))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to anna.smith+news@mail.example.org, please.", "Write to [EMAIL], please."),
        ("a@b is no address, nor is @handle or user@host", "a@b is no address, nor is @handle or user@host"),
        ("Pay to GB82 WEST 1234 5698 7654 32 today", "Pay to [IBAN] today"),
        ("Pay to DE89370400440532013000.", "Pay to [IBAN]."),
        ("Pay to DE89370400440532013001.", "Pay to DE89370400440532013001."),  # one digit off
        ("Card 4111 1111 1111 1111 expires", "Card [PAYMENT_CARD] expires"),
        ("Card 378282246310005", "Card [PAYMENT_CARD]"),
        ("Order 4111 1111 1111 1112", "Order 4111 1111 1111 1112"),  # wrong check digit
        ("身份证11010519491231002X号", "身份证[CHINESE_ID]号"),
        ("身份证110105194912310021号", "身份证110105194912310021号"),  # wrong check digit
        ("from 8.8.8.8 to 192.168.0.1", "from [IP_ADDRESS] to 192.168.0.1"),  # a private one is nobody's
        ("from 2606:4700:4700::1111 at 10:30:15", "from [IP_ADDRESS] at 10:30:15"),
        ("version 999.1.2.3", "version 999.1.2.3"),
        ("Call +44 20 7946 0958 now", "Call [PHONE] now"),
        ("Call (020) 7946 0958 or 202-555-0143.", "Call [PHONE] or [PHONE]."),
        ("手机13800138000", "手机13800138000"),  # glued to letters, it may be part of a name
        ("手机 13800138000。", "手机 [PHONE]。"),
        ("on 2017-03-12 at 10:30, pages 100-120, 1914-1918", "on 2017-03-12 at 10:30, pages 100-120, 1914-1918"),
        ("3.14159265358979 and 1,000,000,000", "3.14159265358979 and 1,000,000,000"),
    ],
)
def test_masking(text: str, masked: str) -> None:
    assert _masked(text) == masked


@given(st.text(alphabet="0123456789 .-+()@abcXé:", max_size=60))
def test_what_is_masked_is_not_found_again(text: str) -> None:
    once = _masked(text)
    assert _masked(once) == once


def test_what_was_masked_is_counted_by_kind() -> None:
    found, drop = judged("a@b.org, c@d.org and 8.8.8.8", ip_address="keep")
    assert (found.text, found.notes, drop) == ("[EMAIL], [EMAIL] and 8.8.8.8", {"masked/email": 2}, None)


def test_dropping() -> None:
    assert judged("mail a@b.org", email="drop")[1] == Drop("has_email", 1)
    assert judged("no address", email="drop")[1] is None


def test_listed_words_are_whole_words_in_any_case() -> None:
    words = ("scam", "get rich", "诈骗")
    assert WordList(words).count("A SCAM, a scam. Scampi and scams; get rich!") == 3
    assert WordList(words).count("这是诈骗信息") == 1
    assert judged("one scam", words=words, max_listed_words=1)[1] is None
    assert judged("a scam to get rich", words=words, max_listed_words=1)[1] == Drop("listed_words", 2)
    assert judged("a scam to get rich", ("get rich",), words=("scam",), max_listed_words=1)[1] == Drop(
        "listed_words", 2
    )


def test_a_job_masks_what_its_documents_hold() -> None:
    rules = Rules(gopher=None, repetition=None, sensitive=SensitiveRules())
    (judgement,) = judge_of(Normalisation(), rules)("Ask anna@example.org about the boat.")
    assert isinstance(judgement, Kept)
    assert judgement.text == "Ask [EMAIL] about the boat." and judgement.notes == {"masked/email": 1}
    assert judgement.folded.content == b"ask [email] about the boat."


# -- word lists in files -----------------------------------------------------------------------------------------------


def _listed(folder: Path, content: bytes, name: str = "words.txt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_words_out_of_a_file(tmp_path: Path) -> None:
    content = "\ufeffscam\n# a remark\n\n  get rich \n诈骗\n"
    assert words_of(_listed(tmp_path, content.encode())) == ["scam", "get rich", "诈骗"]
    with pytest.raises(InputError, match="has no word"):
        words_of(_listed(tmp_path, b"# nothing\n"))
    with pytest.raises(InputError, match="not text in UTF-8"):
        words_of(_listed(tmp_path, b"caf\xe9\n"))


def test_files_of_words_are_parents_of_the_result_and_count_with_those_of_the_job(tmp_path: Path) -> None:
    _listed(tmp_path, b"casino\n", "shared.txt")
    (tmp_path / "pages").mkdir()
    texts = [f"page {n} about the harbour and {n * n} boats" for n in range(40)]
    texts[3] += " in a casino"
    texts[5] += " in a Scam"
    (tmp_path / "pages" / "p.txt").write_text("\n".join(texts))
    text = {"type": "text", "documents": "line"}
    job = {
        "sources": [{"name": "pages", "dataset": "./pages", "format": text, "domain": "web"}],
        "rules": {"gopher": None, "sensitive": {"words": ["scam"], "word_lists": ["./shared.txt"]}},
        "output": {"type": "rows"},
    }
    found = cleaned(tmp_path, job)
    assert found.manifest.metrics["dropped"] == {"listed_words": 2}
    assert "rules.sensitive.word_lists.0" in {parent.field for parent in found.manifest.parents}
