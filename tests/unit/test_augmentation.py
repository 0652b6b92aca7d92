"""Further training rows: what each method does, that it is the same every time, and that no other part gets any."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.passes import cleaned

from rayloom.data.labelled.augmentation import (
    Augmenter,
    Synonyms,
    Translator,
    read_synonyms,
    shuffled_sentences,
    without_words,
)
from rayloom.errors import InputError, ResourceError
from rayloom.specs.cleaning.augmentation import Augmentation, BackTranslation

GROUPS = [["large", "big", "sizeable"], ["film", "movie"], ["big deal", "sensation"], ["电影", "影片"]]


# -- methods -----------------------------------------------------------------------------------------------------------


def test_synonyms_replace_whole_words_and_keep_the_first_letters_case() -> None:
    listed = Synonyms(GROUPS)
    for seed in range(20):
        dice = random.Random(seed)
        assert listed.replaced("Film about filming a largely unknown town.", 1, dice) == (
            "Movie about filming a largely unknown town."
        )
    found = {listed.replaced("a large house", 0.1, random.Random(seed)) for seed in range(20)}
    assert found == {"a big house", "a sizeable house"}
    assert (
        listed.replaced("it is a big deal", 1, random.Random(0)) == "it is a sensation"
    )  # the longest that begins there
    assert listed.replaced("这部电影很好", 1, random.Random(0)) == "这部影片很好"
    assert listed.replaced("nothing of that", 1, random.Random(0)) == "nothing of that"


def test_the_share_of_words_is_that_of_the_listed_ones() -> None:
    listed = Synonyms([["a0", "b0"]])
    replaced = listed.replaced(" ".join(["a0"] * 20 + ["other"] * 100), 0.25, random.Random(0)).split()
    assert Counter(replaced) == {"a0": 15, "b0": 5, "other": 100}


def test_sentences_are_all_there_in_another_order() -> None:
    text = "One is here. Two was there! Is three away? Four."
    found = {shuffled_sentences(text, random.Random(seed)) for seed in range(40)}
    assert len(found) > 10
    assert all(sorted(one.split()) == sorted(text.split()) for one in found)
    assert "".join(sorted(shuffled_sentences("今天好。明天坏！", random.Random(1)))) == "".join(
        sorted("今天好。明天坏！")
    )


@given(st.lists(st.sampled_from(["a", "bb", "c"]), min_size=1, max_size=30), st.floats(0.01, 0.99), st.integers(0, 99))
def test_deletion_leaves_at_least_one_word_and_the_rest_in_order(words: list[str], share: float, seed: int) -> None:
    left = without_words(" ".join(words), share, random.Random(seed)).split(" ")
    assert len(left) == max(1, len(words) - max(1, round(share * len(words))))
    rest = iter(words)
    assert all(word in rest for word in left)


def test_copies_differ_take_turns_and_are_the_same_again() -> None:
    spec = Augmentation.model_validate(
        {"methods": [{"type": "deletion", "share": 0.2}, {"type": "sentence_shuffle"}], "copies_per_row": 6}
    )
    text = "The film was long. The end was good! We liked the music in it."
    first, again = (list(Augmenter(spec, {}).copies(text, 77)) for _ in range(2))
    assert first == again != list(Augmenter(spec, {}).copies(text, 78))
    assert [by for _, by in first][:2] == ["deletion", "sentence_shuffle"]
    assert len({made for made, _ in first}) == len(first) <= 6 and text not in {made for made, _ in first}
    assert list(Augmenter(spec, {}).copies("word", 1)) == []  # nothing can be done to it


def test_lists_of_synonyms(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# groups\nlarge, big\n\nalone\n")
    assert read_synonyms(tmp_path).replaced("a large one", 1, random.Random(0)) == "a big one"
    (tmp_path / "a.txt").write_text("alone\n")
    with pytest.raises(InputError, match="has no group"):
        read_synonyms(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9, bar\n")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_synonyms(tmp_path)


# -- back-translation --------------------------------------------------------------------------------------------------


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Speaks the chat protocol; its German is English in capitals, and its English says picture for film."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        instruction, _, text = body["messages"][0]["content"].partition("\n\n")
        if self.path != "/v1/chat/completions" or self.headers.get("Authorization") == "Bearer wrong":
            self._reply(401, {"error": "no such key"})
        elif body["model"] == "broken":
            self._reply(200, {"choices": []})
        else:
            said = text.upper() if "into German" in instruction else text.lower().replace("film", "picture")
            self._reply(200, {"choices": [{"message": {"role": "assistant", "content": f" {said}\n"}}]})

    def _reply(self, code: int, value: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def _translator(url: str, **settings: Any) -> Translator:
    values = {"type": "back_translation", "url": url, "model": "m"} | settings
    return Translator(BackTranslation.model_validate(values))


def test_there_and_back(endpoint: str) -> None:
    assert _translator(endpoint).there_and_back("The film was good.") == "the picture was good."


def test_an_endpoint_that_does_not_serve(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="answered without a choice"):
        _translator(endpoint, model="broken").there_and_back("x")
    with pytest.raises(InputError, match="The key of the translation endpoint is missing"):
        _translator(endpoint, api_key_variable="NO_SUCH_KEY_HERE")
    monkeypatch.setenv("SOME_KEY", "wrong")
    with pytest.raises(InputError, match=r"refused \(401\).*no such key"):
        _translator(endpoint, api_key_variable="SOME_KEY").there_and_back("x")
    with pytest.raises(ResourceError, match="does not answer"):
        _translator("http://127.0.0.1:9/v1").there_and_back("x")


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_augmented_rows_carry_their_origin_and_are_never_in_validation_or_test(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"t": f"A large film number {n}. It was {n * n} minutes long.", "l": n % 2, "id": n} for n in range(60)]
    (tmp_path / "rows" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "synonyms.txt").write_text("large, big\nfilm, movie\n")
    methods = [
        {"type": "synonyms", "words": "./synonyms.txt"},
        {"type": "deletion"},
        {"type": "back_translation", "url": endpoint, "model": "m"},
    ]
    columns = {"type": "jsonl", "text_columns": ["t"], "label_column": "l", "keep_columns": ["id"]}
    augmentation = {"methods": methods, "copies_per_row": 3, "labels": ["1"]}
    job = {
        "sources": [{"name": "s", "dataset": "./rows", "format": columns, "domain": "d"}],
        "rules": {"gopher": None, "repetition": None},
        "deduplication": None,
        "output": {"type": "rows", "augmentation": augmentation},
    }
    first, second = (cleaned(tmp_path, job, size) for size in (1 << 20, 1 << 16))
    assert first.manifest.digest == second.manifest.digest
    numbers = first.manifest.metrics
    assert numbers["augmented_rows"] == {"synonyms": 24, "deletion": 24, "back_translation": 24}
    assert numbers["train_rows"] == 48
    lines = {part: (first.path / f"{part}.jsonl").read_text().splitlines() for part in ("train", "validation", "test")}
    assert {part: len(found) for part, found in lines.items()} == {"train": 48 + 72, "validation": 6, "test": 6}
    assert not any("augmented_by" in line for part in ("validation", "test") for line in lines[part])
    trained = [json.loads(line) for line in lines["train"]]
    origins = {row["id"] for row in trained if "augmented_by" not in row}
    for row in trained:
        if "augmented_by" in row:
            assert row["label"] == "1" and row["id"] in origins
            assert row["augmented_from"] == {"source": "s", "file": "a.jsonl", "row": row["id"] + 1}
    assert "72 more to train" in first.manifest.headline
