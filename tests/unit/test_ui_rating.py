"""Rating: blind and shuffled, nothing lost at a kill, undo, several raters, and a result that training reads."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from starlette.testclient import TestClient
from support.ui_store import HOSTILE, PORT, json_lines, published

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.observe.ports import free_port
from rayloom.reading.files import table_rows
from rayloom.specs.training.preferences import PreferenceSource
from rayloom.text.conversations.judged_rows import judged_row
from rayloom.ui.protection import Access
from rayloom.ui.rating import report
from rayloom.ui.rating.application import Rating, application
from rayloom.ui.rating.command import finished
from rayloom.ui.rating.items import KEPT, RatedItem, compared, pairs, rows, sampled
from rayloom.ui.rating.journal import JudgementJournal, RaterJudgement, blinding_key
from rayloom.ui.rating.result import summary_of_pairs
from rayloom.ui.rating.spot_checks import spot_check

HERE = f"http://127.0.0.1:{PORT}"
NUM = 40
RATERS = ("ann", "bob", "cid", "dan")
KEY = b"a key"
NAMES = ("strong-model", "weak-model")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    for name, version, word in ((NAMES[0], "aaaa00000001", "good"), (NAMES[1], "bbbb00000001", "poor")):
        lines = [{"origin": f"r{n}", "text": f"Question {n}?", "answer": f"{word} answer {n}"} for n in range(NUM)]
        lines.append({"origin": "x", "text": "Equal?", "answer": "the same"})
        published(store, name, version, kind="predict", files={"predictions.jsonl": json_lines(lines)})
    return store


@pytest.fixture
def items(store: Store) -> list[RatedItem]:
    first, second = (store.open(store.resolve(name)) for name in NAMES)
    return pairs(first, second, "predictions.jsonl", "text", None)


@pytest.fixture
def rating(items: list[RatedItem], tmp_path: Path) -> Iterator[Rating]:
    journal = JudgementJournal(tmp_path / "ratings.jsonl")
    yield Rating(items, journal, KEY, each=2)
    journal.close()


@pytest.fixture
def client(rating: Rating) -> TestClient:
    return TestClient(application(rating, Access(PORT)), base_url=HERE, headers={"origin": HERE})


def shown(page: str) -> tuple[str, list[str]]:
    """The item's id and the answers from left to right."""
    id_ = re.search(r'name="item" value="(\w+)"', page)
    assert id_ is not None
    return id_[1], re.findall(r'<div class="answer">([^<]*)</div>', page)


def judged_by(client: TestClient, rater: str, count: int) -> None:
    """This many decisions for the good answer, wherever it stands."""
    page = client.get(f"/rate/{rater}").text
    for _ in range(count):
        item, answers = shown(page)
        choice = "left" if answers[0].startswith("good") else "right"
        page = client.post(f"/rate/{rater}/judge", data={"item": item, "choice": choice}).text


def test_equal_answers_are_not_judged(items: list[RatedItem]) -> None:
    assert len(items) == NUM


def test_nothing_in_a_page_says_which_model_wrote_an_answer(client: TestClient) -> None:
    for path in ("/", "/rate/ann", "/static/rating.js"):
        answer = client.get(path)
        said = answer.text + str(answer.headers)
        assert not any(word in said for word in (*NAMES, "aaaa0000", "bbbb0000", "predictions", "/store"))


def test_scripts_are_asked_for_once(client: TestClient) -> None:
    """A server that is killed between a page and its script would leave a page without keys."""
    (address,) = re.findall(r'src="(/static/rating.js[^"]*)"', client.get("/rate/ann").text)
    assert "max-age" in client.get(address).headers["cache-control"]


def test_sides_are_shuffled_and_the_same_again_for_the_same_rater(client: TestClient, rating: Rating) -> None:
    sides = [item.is_swapped("ann", KEY) for item in rating.items]
    assert 8 < sum(sides) < 32
    assert sides == [item.is_swapped("ann", KEY) for item in rating.items]
    assert sides != [item.is_swapped("bob", KEY) for item in rating.items]
    assert client.get("/rate/ann").text == client.get("/rate/ann").text


def test_choices_are_kept_in_the_order_of_the_artifacts(client: TestClient, rating: Rating) -> None:
    judged_by(client, "ann", NUM)
    made = rating.journal.of("ann")
    assert {one.meant for one in made} == {"first"}
    assert {one.choice for one in made} == {"left", "right"}
    assert "nothing left for you" in client.get("/rate/ann").text


def test_each_item_goes_to_as_many_raters_as_asked_for(client: TestClient, rating: Rating) -> None:
    for rater in ("ann", "bob", "cid"):
        judged_by(client, rater, NUM if rater != "cid" else 0)
    assert "nothing left for you" in client.get("/rate/cid").text
    assert rating.num_done() == 2 * NUM


def test_who_rates_at_once_is_shown_something_else(client: TestClient, rating: Rating) -> None:
    """Else two people, each item to one, would both judge nearly all of them."""
    rating.each, pages = 1, {rater: client.get(f"/rate/{rater}").text for rater in ("ann", "bob", "gone")}
    while open_pages := {
        rater: page for rater, page in pages.items() if "nothing left" not in page and rater != "gone"
    }:
        for rater, page in open_pages.items():
            data = {"item": shown(page)[0], "choice": "tie"}
            pages[rater] = client.post(f"/rate/{rater}/judge", data=data).text
    counts = Counter(one.item for one in rating.journal.all())
    assert len(counts) == NUM, "what is on the page of someone who went away is judged by others"
    assert counts.total() <= NUM + 2


def undone(client: TestClient, rater: str) -> str:
    """The page after pressing undo on the rater's present page."""
    last = re.search(r'/undo"><input type="hidden" name="item" value="(\w*)"', client.get(f"/rate/{rater}").text)
    assert last is not None
    return client.post(f"/rate/{rater}/undo", data={"item": last[1]}).text


def test_undo_takes_the_last_back_and_shows_it_again(client: TestClient, rating: Rating) -> None:
    judged_by(client, "ann", 3)
    last = rating.journal.of("ann")[-1].item
    page = undone(client, "ann")
    assert rating.by_token[shown(page)[0]].id == last
    assert len(rating.journal.of("ann")) == 2
    undone(client, "ann")
    undone(client, "ann")
    assert shown(undone(client, "ann"))
    assert rating.journal.of("ann") == []


def test_a_request_that_comes_twice_does_what_it_did_the_first_time(client: TestClient, rating: Rating) -> None:
    """A page whose server was killed before it answered asks again."""
    judged_by(client, "ann", 3)
    last = rating.journal.of("ann")[-1]
    data = {"item": rating.items[2].token(KEY), "choice": last.choice}
    assert "judged that before" not in client.post("/rate/ann/judge", data=data).text
    assert [one.item for one in rating.journal.of("ann")] == [item.id for item in rating.items[:3]]
    for _ in range(2):
        page = client.post("/rate/ann/undo", data=data).text
        assert shown(page)[0] == data["item"]
    assert len(rating.journal.of("ann")) == 2


def test_another_choice_in_another_tab_counts_and_the_page_says_so(client: TestClient, rating: Rating) -> None:
    tabs = [shown(client.get("/rate/ann").text)[0] for _ in range(2)]
    pages = [
        client.post("/rate/ann/judge", data={"item": item, "choice": choice}).text
        for item, choice in zip(tabs, ("left", "tie"), strict=True)
    ]
    assert ["judged that before" in page for page in pages] == [False, True]
    assert [one.choice for one in rating.journal.of("ann")] == ["tie"]


def test_neither_ids_nor_sides_can_be_worked_out_from_what_is_seen(items: list[RatedItem], tmp_path: Path) -> None:
    """Everything but the key is on the page or in public code: another key, another order."""
    keys = [blinding_key(tmp_path / f"{n}.jsonl") for n in range(2)]
    assert keys[0] == blinding_key(tmp_path / "0.jsonl") and oct((tmp_path / "0.key").stat().st_mode)[-3:] == "600"
    sides = [[item.is_swapped("ann", key) for item in items] for key in keys]
    assert 8 < sum(one != other for one, other in zip(*sides, strict=True)) < 32
    tokens = [{item.token(key) for item in items} for key in keys]
    assert len(tokens[0] | tokens[1] | {item.id for item in items}) == 3 * NUM


def test_what_cannot_be_written_is_refused_and_spoils_nothing(
    client: TestClient, rating: Rating, tmp_path: Path
) -> None:
    file, judged = tmp_path / "ratings.jsonl", {"item": rating.items[2].token(KEY), "choice": "tie", "note": "n" * 900}
    judged_by(client, "ann", 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (file.stat().st_size + 100, limits[1])
    )  # as a full disk: half a line fits
    try:
        answer = client.post("/rate/ann/judge", data=judged)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (answer.status_code, "This is not kept: the file of judgements" in answer.text) == (500, True)
    assert len(rating.journal.of("ann")) == len(read_again(file)) == 2
    assert client.post("/rate/ann/judge", data=judged).status_code == 200
    assert [one.note for one in read_again(file)] == ["", "", "n" * 900]


def test_a_store_that_vanishes_is_said_and_rating_goes_on_when_it_is_back(
    client: TestClient, rating: Rating, tmp_path: Path
) -> None:
    """The open file would take judgements that nobody finds again."""
    judged_by(client, "ann", 2)
    file = tmp_path / "ratings.jsonl"
    file.rename(tmp_path / "away")
    judged = {"item": rating.items[2].token(KEY), "choice": "tie"}
    answer = client.post("/rate/ann/judge", data=judged)
    assert answer.status_code == 500 and "bring the store back" in answer.text
    (tmp_path / "away").rename(file)
    assert client.post("/rate/ann/judge", data=judged).status_code == 200
    assert len(read_again(file)) == 3


def read_again(file: Path) -> list[RaterJudgement]:
    journal = JudgementJournal(file)
    journal.close()
    return journal.all()


def test_raters_at_once_do_not_disturb_each_other(rating: Rating) -> None:
    """Pages are made in several threads: each reads while others write."""

    def rate(rater: str) -> None:
        while (item := rating.journal.next_item(rating.items, rater, len(RATERS), {})) is not None:
            rating.journal.add(RaterJudgement(item.id, rater, "tie"))

    with ThreadPoolExecutor(len(RATERS)) as threads:
        list(threads.map(rate, RATERS))
    assert Counter(one.rater for one in rating.journal.all()) == dict.fromkeys(RATERS, NUM)


@pytest.mark.parametrize(
    "data", [{}, {"item": "x", "choice": "left"}, {"choice": "left"}, {"item": "", "choice": "up"}]
)
def test_a_judgement_of_nothing_is_refused(client: TestClient, rating: Rating, data: dict[str, str]) -> None:
    assert client.post("/rate/ann/judge", data=data).status_code == 422
    assert rating.num_done() == 0


@pytest.mark.parametrize("name", [HOSTILE, "..", ".", "", " ", "a/b", "a" * 61, "x\x00"])
def test_a_name_may_not_be_anything(client: TestClient, name: str) -> None:
    assert "A name has letters" in client.get("/", params={"rater": name}).text
    assert 'name="choice"' not in client.get(f"/rate/{quote(name, safe='')}").text


@pytest.mark.parametrize("name", ["José", "अनीता", " Ann  B. "])
def test_a_name_is_kept_in_one_spelling(client: TestClient, rating: Rating, name: str) -> None:
    for form in ("NFC", "NFD"):
        item = shown(client.get("/", params={"rater": unicodedata.normalize(form, name)}).text)[0]
        assert item == rating.items[0].token(KEY)
    address = client.get("/", params={"rater": name}, follow_redirects=False).headers["location"]
    assert unquote(address) == f"/rate/{unicodedata.normalize('NFC', ' '.join(name.split()))}"


def test_a_line_that_a_kill_cut_off_goes_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    journal = JudgementJournal(path)
    for number in range(5):
        journal.add(RaterJudgement(f"i{number}", "ann", "left", "a note: „ü“", False))
    journal.close()
    path.write_bytes(path.read_bytes()[:-7])
    again = JudgementJournal(path)
    assert [one.item for one in again.of("ann")] == ["i0", "i1", "i2", "i3"]
    again.add(RaterJudgement("i4", "ann", "right", "", False))
    again.close()
    whole = JudgementJournal(path)
    whole.close()
    assert len(whole.of("ann")) == 5
    path.write_text("damaged\n" + path.read_text())
    with pytest.raises(InputError, match="line 1"):
        JudgementJournal(path)


def test_a_killed_server_has_lost_nothing_that_it_acknowledged(
    store: Store, items: list[RatedItem], tmp_path: Path
) -> None:
    """Asked by a real client over HTTP and killed at a random moment; then the same command goes on."""
    acknowledged: list[str] = []
    for moment in range(2):
        port = free_port()
        command = [sys.executable, "-m", "rayloom", "rate", *NAMES, "--port", str(port), "--store", store.root]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
        try:
            _ready(url, end)
            stop_after = random.Random(moment).uniform(0.1, 0.6)
            began = time.monotonic()
            with httpx.Client(base_url=url, headers={"origin": url}, follow_redirects=False) as client:
                while time.monotonic() - began < stop_after or not acknowledged:
                    page = client.get("/rate/ann").text
                    if "nothing left" in page:
                        break
                    item = shown(page)[0]
                    answer = client.post("/rate/ann/judge", data={"item": item, "choice": "left"})
                    acknowledged += [item] if answer.status_code == 303 else []
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        (file,) = (Path(store.root) / ".ratings").glob("*.jsonl")
        assert acknowledged
        kept = {json.loads(line)["item"] for line in file.read_text().splitlines()}
        key = blinding_key(file)
        assert {item.token(key) for item in items if item.id in kept} >= set(acknowledged)


def _ready(url: str, end: float) -> None:
    while time.monotonic() < end:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("it did not start")


def options(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"file": "predictions.jsonl", "seed": 3, "each": 2, **changes})


def test_the_result_has_every_judgement_and_pairs_that_training_reads(
    client: TestClient, rating: Rating, store: Store
) -> None:
    judged_by(client, "ann", 30)
    judged_by(client, "bob", 20)
    parents = [store.open(store.resolve(name)) for name in NAMES]
    artifact = finished(store, "my-ratings", parents, list(rating.items), rating.journal, options())
    metrics = artifact.manifest.metrics
    assert (metrics["pairs"][0]["wins"], metrics["num_judgements"]) == (1.0, 50)
    assert metrics["agreement"]["ann and bob"] == {"kappa": 1.0, "same_share": 1.0, "num_items": 20}
    assert artifact.manifest.headline.startswith("strong-model@aaaa00000001 wins 100.0% (88.6% to 100.0%) of 30")
    assert len((artifact.path / "judgements.jsonl").read_text().splitlines()) == 50
    assert {parent.name for parent in artifact.manifest.parents} == set(NAMES)
    source = PreferenceSource(dataset="artifact:my-ratings", files="pairs.jsonl")
    found = [row for _, row in table_rows([artifact.path / "pairs.jsonl"], source)]
    assert len(found) == 30
    assert judged_row(found[0], source.format, "row 1")
    assert all(one["chosen"].startswith("good") and one["rejected"].startswith("poor") for one in found)


def test_rows_are_judged_one_by_one_and_each_reason_has_a_precision(store: Store, tmp_path: Path) -> None:
    lines = [{"text": f"t {n}", "reason": "too_short" if n % 10 else "not_english"} for n in range(100)]
    published(store, "corpus", "cccc00000001", kind="clean", files={"rejects/rules.jsonl": json_lines(lines)})
    corpus = store.open(store.resolve("corpus"))
    chosen = sampled(rows(corpus, "rejects/rules.jsonl", None), 20, 0)
    assert sum(item.reason == "not_english" for item in chosen) == 10
    rating = Rating(chosen, JudgementJournal(tmp_path / "r.jsonl"), KEY, 1)
    client = TestClient(application(rating, Access(PORT)), base_url=HERE, headers={"origin": HERE})
    page = client.get("/rate/ann").text
    for number in range(20):
        data = {"item": shown(page)[0], "choice": "right" if number else "unsure"}
        page = client.post("/rate/ann/judge", data=data).text
    artifact = finished(store, "spot", [corpus], chosen, rating.journal, options(file="rejects/rules.jsonl"))
    rating.journal.close()
    metrics = artifact.manifest.metrics
    assert metrics["num_unsure"] == 1
    assert set(metrics["precision"]) == {"too_short", "not_english"}
    assert all(one["precision"] == 1.0 and 0.6 < one["low"] < 1 for one in metrics["precision"].values())


def test_ties_count_half_and_the_judge_is_compared_with_what_most_people_said() -> None:
    def item(name: str, judged: str) -> RatedItem:
        return RatedItem(name, name, ("long answer", "short"), models=("m", "n"), judged=judged)

    known = {name: item(name, judged) for name, judged in (("a", "tie"), ("b", "first"), ("c", "second"), ("d", ""))}
    said = [("a", "x", "tie"), ("b", "x", "left"), ("c", "x", "left"), ("d", "x", "left"), ("c", "y", "right")]
    found = summary_of_pairs(known, [RaterJudgement(one, who, choice, "", False) for one, who, choice in said])
    assert (found["pairs"][0]["wins"], found["pairs"][0]["num_judged"]) == (pytest.approx(3.5 / 5), 5)
    # c has no majority, d no judge: two items, on which both agree.
    assert found["judge_and_people"] == {"kappa": 1.0, "same_share": 1.0, "num_items": 2}
    assert (found["longer_wins"]["share"], found["left"]["share"]) == (0.75, 0.75)


def comparison(store: Store, judged: bool = True) -> Any:
    answers = [
        {"number": n, "prompt": f"Q{n}?", "answers": {"big": f"good {n}", "old": f"poor {n}", "new": f"fair {n}"}}
        for n in range(10)
    ]
    wins = [
        {"prompt": n, "first": one, "second": other, "value": 1.0 if n else 0.5}
        for n in range(10)
        for one, other in (("big", "old"), ("big", "new"), ("old", "new"))
    ]
    files = {"answers.jsonl": json_lines(answers)} | ({"wins.jsonl": json_lines(wins)} if judged else {})
    published(store, "which", "eeee00000001", kind="compare", files=files)
    return store.open(store.resolve("which"))


def test_people_judge_the_answers_of_a_comparison_and_are_set_beside_its_judge(store: Store, tmp_path: Path) -> None:
    artifact = comparison(store)
    items = sampled(compared(artifact), 99, 0)
    assert len(items) == 30 and {item.judged for item in items} == {"first", "tie"}
    rating = Rating(items, JudgementJournal(tmp_path / "r.jsonl"), KEY, 1)
    client = TestClient(application(rating, Access(PORT)), base_url=HERE, headers={"origin": HERE})
    page, order = client.get("/rate/ann").text, ("poor", "fair", "good")
    for _ in range(30):
        assert not re.search(r"\b(big|old|new|first)\b", page)
        item, answers = shown(page)
        left, right = (order.index(answer.split()[0]) for answer in answers)
        page = client.post("/rate/ann/judge", data={"item": item, "choice": "left" if left > right else "right"}).text
    result = finished(store, "people", [artifact], items, rating.journal, options(file="answers.jsonl"))
    rating.journal.close()
    metrics = result.manifest.metrics
    assert [one["model"] for one in metrics["ranking"]] == ["big", "new", "old"]
    # The judge says first in 27 of 30 and people in 20; both in 18: they agree in 18 of 30.
    assert metrics["judge_and_people"]["same_share"] == pytest.approx(18 / 30)
    assert metrics["judge_and_people"]["num_items"] == 30
    html = "".join(section.body for section in report.sections(result))
    assert "Bradley" not in html and "Cohen" in html and "big" in html
    one = json.loads((result.path / "judgements.jsonl").read_text().splitlines()[0])
    assert {one["first"], one["second"]} <= {"big", "old", "new"} and one["judged"]


def test_only_pairs_with_the_model_that_others_are_compared_with_are_shown(store: Store) -> None:
    artifact = comparison(store, judged=False)
    spec = artifact.manifest.spec | {"judging": {"type": "pairs", "against": "old"}}
    changed = replace(artifact, manifest=artifact.manifest.model_copy(update={"spec": spec}))
    assert {item.models for item in compared(changed)} == {("big", "old"), ("new", "old")}
    assert {item.judged for item in compared(changed)} == {""}


def test_a_spot_check_draws_of_every_rule_and_of_what_was_kept(store: Store, tmp_path: Path) -> None:
    rules = [{"text": f"r {n}", "reason": "too_short" if n % 100 else "not_english"} for n in range(2_000)]
    doubles = [{"text": f"d {n}", "reason": "near_duplicate"} for n in range(50)]
    files = {
        "rejects/rules.jsonl": json_lines(rules), "rejects/duplicates.jsonl": json_lines(doubles),
        "rejects/unreadable.jsonl": json_lines([{"reason": "not_json"}]),
        "train.jsonl": json_lines([{"text": f"k {n}", "label": "a"} for n in range(300)]),
    }  # fmt: skip
    counts = {"dropped": {"too_short": 1980, "not_english": 20, "near_duplicate": 50}, "documents_kept": 300}
    published(store, "corpus", "cccc00000002", kind="clean", files=files, metrics=counts)
    corpus = store.open(store.resolve("corpus"))
    items = sampled(spot_check(corpus, 40, 0), 40, 0)
    assert Counter(item.reason for item in items) == {
        "too_short": 10,
        "not_english": 10,
        "near_duplicate": 10,
        KEPT: 10,
    }
    assert {item.question for item in items if item.reason == KEPT} == {"Cleaning kept this. Was that right?"}
    assert items == sampled(spot_check(corpus, 40, 0), 40, 0) != sampled(spot_check(corpus, 40, 1), 40, 1)
    journal = JudgementJournal(tmp_path / "r.jsonl")
    for number, item in enumerate(sorted(items, key=lambda one: one.reason)):
        journal.add(RaterJudgement(item.id, "ann", "wrong" if number in (30, 31) else "right"))
    result = finished(store, "spot", [corpus], items, journal, options(file="rejects"))
    journal.close()
    found = result.manifest.metrics["precision"]
    # Two of ten: 20 % of 1,980, and by Wilson's interval between 5.7 % and 51 %.
    assert found["too_short"]["wrong_rows"] == 396 and found["too_short"]["num_rows"] == 1980
    low, high = found["too_short"]["wrong_rows_interval"]
    assert (low / 1980, high / 1980) == (pytest.approx(0.0567, abs=1e-3), pytest.approx(0.5098, abs=1e-3))
    assert found["near_duplicate"]["precision"] == 1.0 and found[KEPT]["num_rows"] == 300
    wrong = [json.loads(line) for line in (result.path / "wrong.jsonl").read_text().splitlines()]
    assert len(wrong) == 2 and {row["reason"] for row in wrong} == {"too_short"}
    assert "of these likely wrong" in "".join(section.body for section in report.sections(result))


def test_labels_in_doubt_and_generated_rows_are_asked_about_and_right_ones_can_be_trained_on(
    store: Store, tmp_path: Path
) -> None:
    doubt = [{"text": "good film", "label": "bad", "group": 1}, {"text": "a  good film", "label": "good", "group": 1}]
    path = "review/likely_wrong_labels.jsonl"
    published(store, "reviews", "ffff00000001", kind="clean", files={path: json_lines(doubt)})
    artifact = store.open(store.resolve("reviews"))
    items = rows(artifact, path, None)
    assert [item.question for item in items] == ["Is the label “bad” right?", "Is the label “good” right?"]
    assert items[0].answers == ("good film",) and "group: 1" in items[0].prompt
    journal = JudgementJournal(tmp_path / "r.jsonl")
    for item, choice in zip(items, ("wrong", "right"), strict=True):
        journal.add(RaterJudgement(item.id, "ann", choice))
    result = finished(store, "labels", [artifact], items, journal, options(file=path))
    journal.close()
    assert [json.loads(line) for line in (result.path / "right.jsonl").read_text().splitlines()] == [doubt[1]]
    made = [{"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}], "made_by": {}}]
    published(store, "written", "ffff00000002", kind="generate", files={"rows.jsonl": json_lines(made)})
    (item,) = rows(store.open(store.resolve("written")), "rows.jsonl", None)
    assert (item.prompt, item.answers) == ("user: Hi?", ("assistant: Ho.",))


@pytest.mark.parametrize(
    "damage", ['{"text": "Q", "ans', "\x00 no JSON\n", '{"answer":' + "[" * 9000 + "]" * 9000 + "}\n"]
)
def test_a_damaged_file_is_named_with_its_line(store: Store, damage: str) -> None:
    text = json_lines([{"text": "Q?", "answer": "A"}]) + damage
    published(store, "broken", "dddd00000002", files={"predictions.jsonl": text})
    with pytest.raises(InputError, match=r"This line is damaged .*predictions\.jsonl, line 2.*artifacts verify"):
        rows(store.open(store.resolve("broken")), "predictions.jsonl", None)


def test_half_a_surrogate_pair_is_shown_and_kept(store: Store, tmp_path: Path) -> None:
    """JSON can hold one, UTF-8 cannot."""
    published(store, "odd", "dddd00000003", files={"predictions.jsonl": '{"text": "\\ud800", "answer": "\\udfff"}\n'})
    artifact = store.open(store.resolve("odd"))
    items = rows(artifact, "predictions.jsonl", None)
    rating = Rating(items, JudgementJournal(tmp_path / "r.jsonl"), KEY, 1)
    client = TestClient(application(rating, Access(PORT)), base_url=HERE, headers={"origin": HERE})
    item, answers = shown(client.get("/rate/ann").text)
    assert answers == ["\\udfff"]
    assert client.post("/rate/ann/judge", data={"item": item, "choice": "right"}).status_code == 200
    result = finished(store, "odd-ratings", [artifact], items, rating.journal, options())
    rating.journal.close()
    (kept,) = (json.loads(line) for line in (result.path / "right.jsonl").read_text().splitlines())
    assert kept["answer"] == "\udfff"


def test_artifacts_without_common_prompts_are_refused(store: Store) -> None:
    other = [{"text": "Other?", "answer": "x"}]
    published(store, "other", "dddd00000001", files={"predictions.jsonl": json_lines(other)})
    first, second = store.open(store.resolve(NAMES[0])), store.open(store.resolve("other"))
    with pytest.raises(InputError, match="no prompt in common"):
        pairs(first, second, "predictions.jsonl", "text", None)
    with pytest.raises(InputError, match=r"predictions\.jsonl"):
        pairs(first, second, "nothing.jsonl", "text", None)
