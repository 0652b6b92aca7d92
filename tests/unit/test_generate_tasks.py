"""What each generating task asks, and what it makes of the answers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.written import ENGINE, reasons, spec_of, written

from rayloom.errors import InputError, QualityError
from rayloom.generate.agreement import Consensus, by_similarity, last_number, most_frequent, named_label
from rayloom.generate.asks import Ask, Found
from rayloom.generate.run import Tally
from rayloom.specs.base import fingerprinted
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.judged_rows import judged_row

PROMPTS = [{"prompt": f"What is {n} plus {n}?", "id": n} for n in (1, 2, 3)]


def test_answers_are_conversations_that_say_what_made_them(tmp_path: Path) -> None:
    spec = spec_of({"type": "answers", "data": {"keep": ["id"]}}, rows_per_round=2)
    found = written(spec, PROMPTS, tmp_path, lambda ask: f" About {ask.prompt[8:9]} twice, I think. ")
    row = found.rows[2]["row"]
    assert row["messages"][1] == {"role": "assistant", "content": "About 3 twice, I think."}
    assert (row["id"], row["made_by"]["model"], row["made_by"]["prompts"]) == (3, "m@1", ["answer"])
    assert row["made_by"]["from"] == ["rows.jsonl row 3"]
    assert row["made_by"]["sampling"]["temperature"] == 0.7
    assert row["made_by"]["requests"] == ["1/answer/0"]
    read = conversation(row, None, {}, "here")
    assert [message["role"] for message in read.messages] == ["user", "assistant"]


def test_samples_of_one_prompt_have_seeds_of_their_own(tmp_path: Path) -> None:
    spec = spec_of({"type": "answers", "num_samples": 3})
    asked: list[Ask] = []
    written(spec, PROMPTS, tmp_path, lambda ask: asked.append(ask) or f"{ask.key} says so")
    assert len({ask.seed(0) for ask in asked}) == len({ask.key for ask in asked}) == 9
    assert asked[0].seed(0) == Ask(asked[0].key, "", "").seed(0) != asked[0].seed(1)


def test_rows_without_a_prompt_and_refused_requests_cost_themselves(tmp_path: Path) -> None:
    rows = [{"prompt": " "}, {"question": "?"}, {"messages": [{"role": "user", "content": "Who are you?"}]}, *PROMPTS]
    found = written(
        spec_of({"type": "answers"}),
        rows,
        tmp_path,
        lambda ask: {"failed": "400: too long"} if "1 plus" in ask.prompt else f"Well: {ask.prompt}",
    )
    assert reasons(found) == ["no_text", "missing_column", "failed"]
    assert found.rows[0]["prompt"] == "Who are you?"
    assert found.dropped[2]["seen"] == "400: too long"


@pytest.mark.parametrize(
    ("limit", "ids"), [(1, [10]), (3, [4, 7, 10]), (10, list(range(1, 11))), (99, list(range(1, 11)))]
)
def test_a_limit_takes_rows_from_all_of_a_sorted_file(limit: int, ids: list[int], tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} plus {n}?", "id": n} for n in range(1, 11)]
    spec = spec_of({"type": "answers", "data": {"keep": ["id"], "limit_rows": limit}})
    found = written(spec, rows, tmp_path, lambda ask: f"Well: {ask.prompt}")
    assert [row["row"]["id"] for row in found.rows] == ids


def test_the_answer_on_which_most_samples_agree(tmp_path: Path) -> None:
    said = itertools.cycle(["It is 1,200.", "So 7", "1200.0 it is", "1200"])
    spec = spec_of({"type": "consistency", "num_samples": 4, "agree_by": "numeric", "min_agreement_share": 0.6})
    found = written(spec, PROMPTS[:1], tmp_path, lambda _: next(said))
    assert (found.rows[0]["answer"], found.rows[0]["row"]["agreement"]) == ("It is 1,200.", 0.75)
    said = itertools.cycle(["1", "2", "3", "4"])
    assert reasons(written(spec, PROMPTS[:1], tmp_path, lambda _: next(said))) == ["too_little_agreement"]
    assert reasons(written(spec, PROMPTS[:1], tmp_path, lambda _: "none")) == ["nothing_to_compare"]


def test_samples_that_were_cut_off_agree_with_none_but_count(tmp_path: Path) -> None:
    said = iter([{"text": "5", "is_cut": True}, "7", "7", {"failed": "no"}])
    spec = spec_of({"type": "consistency", "num_samples": 4})
    found = written(spec, PROMPTS[:1], tmp_path, lambda _: next(said))
    assert found.rows[0]["row"]["agreement"] == 0.5


def test_ways_to_agree() -> None:
    assert most_frequent([None, "b", "a", "a"]) == Consensus(2, 2)
    assert most_frequent([None]) == Consensus(0, 0)
    assert (last_number("3 and -4.50"), last_number("$1,000"), last_number("no")) == (-4.5, 1000, None)
    labels = ("good", "not good", "bad")
    assert named_label("It is NOT good, hardly bad", labels) == "not good"
    assert (named_label("goodness", labels), named_label("bad", labels)) == (None, "bad")
    import numpy as np

    vectors = np.array([[1, 0], [0, 1], [0.1, 0.995]], np.float32)
    assert by_similarity(lambda _: vectors, ["a", "b", "c"], 0.9) == Consensus(1, 2)


def test_labels_have_a_confidence_and_a_floor(tmp_path: Path) -> None:
    said = iter(["Positive.", "positive", "negative", "I do not know", "negative", "positive"])
    task = {"type": "labels", "labels": ["positive", "negative"], "num_samples": 3, "min_confidence": 0.6}
    found = written(
        spec_of(task | {"data": {"text": "review"}}), [{"review": "Fine."}, {"review": "So."}], tmp_path,
        lambda _: next(said),
    )  # fmt: skip
    row = found.rows[0]["row"]
    assert (row["text"], row["label"], row["confidence"]) == ("Fine.", "positive", 0.6667)
    assert reasons(found) == ["unsure_label"]


def test_the_best_of_several_answers_by_a_judges_points(tmp_path: Path) -> None:
    points = {"bad answer": "2", "good answer": "Points: 9 of 10", "odd answer": "none"}

    def say(ask: Ask) -> str:
        if ask.by_judge:
            assert not ask.is_sampled
            return next(said for text, said in points.items() if text in ask.prompt)
        return list(points)[int(ask.key.rpartition("/")[2]) % 3]

    found = written(spec_of({"type": "best_of", "num_samples": 3}), PROMPTS[:1], tmp_path, say)
    assert (found.rows[0]["answer"], found.rows[0]["row"]["points"]) == ("good answer", 9)
    silent = written(spec_of({"type": "best_of"}), PROMPTS[:1], tmp_path, lambda ask: "no" if ask.by_judge else ask.key)
    assert reasons(silent) == ["no_points"]


def test_the_best_of_several_answers_by_rewards(tmp_path: Path) -> None:
    rewards = [{"type": "numeric", "field": "right"}, {"type": "contains", "texts": ["sure"], "weight": 0.5}]
    spec = spec_of({"type": "best_of", "num_samples": 3, "rewards": rewards, "data": {"keep": ["right"]}})
    rows = [{"prompt": "What is 1 plus 1?", "right": 2}]
    said = ("It is 3, sure", "It is 2", "It is 2, sure")
    found = written(spec, rows, tmp_path, lambda ask: said[int(ask.key.rpartition("/")[2])])
    row = found.rows[0]["row"]
    assert (found.rows[0]["answer"], row["points"]) == ("It is 2, sure", 1.5)
    assert row["rewards"] == {"numeric": 1.0, "contains": 1.0} and row["made_by"]["prompts"] == ["answer"]
    with pytest.raises(InputError, match="no right, which reward numeric reads"):
        written(spec, [{"prompt": "What is 1 plus 1?"}], tmp_path, lambda _: "2")


@pytest.mark.parametrize(
    ("prefers", "reason"),
    [("long", None), ("first", "judge_undecided"), ("C", "tie"), ("?", "no_verdict")],
)
def test_pairs_need_a_judge_who_says_the_same_in_both_orders(tmp_path: Path, prefers: str, reason: str | None) -> None:
    answers = ("a short answer", "a long answer, of more words")

    def say(ask: Ask) -> str:
        if not ask.by_judge:
            return answers[int(ask.key.rpartition("/")[2]) % 2]
        is_long_first = ask.prompt.index(answers[1]) < ask.prompt.index(answers[0])
        return {"first": "A", "long": "Better: A" if is_long_first else "B."}.get(prefers, prefers)

    found = written(spec_of({"type": "pairs"}), PROMPTS[:1], tmp_path, say)
    if reason is not None:
        assert reasons(found) == [reason]
        return
    row = found.rows[0]["row"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == answers[::-1]
    judged_row(row, None, "here").check(is_paired=True)


def test_pairs_by_rewards_are_the_answers_with_the_most_and_the_fewest_points(tmp_path: Path) -> None:
    rewards = [{"type": "length", "at_most": 1, "slack": 9}, {"type": "contains", "texts": ["sure"], "weight": 0.5}]
    spec = spec_of({"type": "pairs", "num_samples": 4, "rewards": rewards})
    said = ("It is two", "Two", "I am sure that it is two", "It is, as far as I know, surely two and no more")
    found = written(spec, PROMPTS[:1], tmp_path, lambda ask: said[int(ask.key.rpartition("/")[2])])
    row = found.rows[0]["row"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (said[1], said[3])
    assert row["points"] == {"chosen": 1.0, "rejected": 0.5} and row["made_by"]["prompts"] == ["answer"]
    judged_row(row, None, "here").check(is_paired=True)
    alike = written(spec, PROMPTS[:1], tmp_path, lambda ask: f"word{ask.key.rpartition('/')[2]}")
    assert reasons(alike) == ["equal_points"] and alike.dropped[0]["text"].startswith("1: word")
    one = written(spec, PROMPTS[:1], tmp_path, lambda _: "the same")
    assert reasons(one) == ["same_answers"]
    with pytest.raises(ValidationError, match="a judge compares two answers"):
        spec_of({"type": "pairs", "num_samples": 3})


def test_two_equal_answers_are_no_pair(tmp_path: Path) -> None:
    assert reasons(written(spec_of({"type": "pairs"}), PROMPTS[:1], tmp_path, lambda _: "the same")) == ["same_answers"]


def test_instructions_evolve_round_by_round(tmp_path: Path) -> None:
    harder = iter(
        ["Explain in three steps how bread rises", "too", "Prove that bread cannot rise on the moon, in verse"]
    )

    def say(ask: Ask) -> str:
        return next(harder) if ask.prompt_name.startswith("evolve") else f"Here is what I know: {ask.prompt}"

    task = {"type": "evolve", "num_rounds": 3, "operations": ["deepen", "reason"]}
    found = written(spec_of(task), [{"prompt": "How does bread rise?"}], tmp_path, say)
    assert reasons(found) == ["too_few_words"]
    assert [row["prompt"][:8] for row in found.rows] == ["Explain ", "Prove th"]
    made = found.rows[1]["row"]["made_by"]
    assert made["prompts"][0] in ("evolve_deepen", "evolve_reason") and made["prompts"][1] == "answer"
    assert [one["instruction"][:5] for one in found.accepted] == ["How d", "Expla", "Prove"]


def test_paraphrases_keep_the_label_and_may_go_through_another_language(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "What a lovely film this was, truly.", "label": 1}]
    task = {"type": "paraphrase", "data": {"text": "text", "keep": ["label"]}}
    direct = written(spec_of(task), rows, tmp_path, lambda _: "Really, a wonderful movie.")
    assert (direct.rows[0]["row"]["text"], direct.rows[0]["row"]["label"]) == ("Really, a wonderful movie.", 1)
    same = written(spec_of(task), rows, tmp_path, lambda _: "what a LOVELY film this was, truly.")
    assert reasons(same) == ["repeats_the_prompt"]

    asked: list[Ask] = []
    said = {"translate": "Was für ein schöner Film.", "translate_back": "What a beautiful film."}
    through = spec_of(task | {"through": "German"})
    back = written(through, rows, tmp_path, lambda ask: asked.append(ask) or said[ask.prompt_name])
    assert back.rows[0]["row"]["text"] == "What a beautiful film."
    assert "into German" in asked[0].prompt and "the language en" in asked[1].prompt
    assert back.rows[0]["row"]["made_by"]["prompts"] == ["translate", "translate_back"]


def test_limits_of_speed_and_money_make_no_new_result() -> None:
    plain = spec_of({"type": "answers"})
    prices = {"price_per_million_input_tokens": 1, "price_per_million_output_tokens": 1}
    limited = {"requests_per_minute": 9, "api_key_variable": "KEY", "budget": {"cost": 1} | prices, "num_attempts": 2}
    limited |= {"max_parallel_requests": 1, "timeout_seconds": 3}
    other = spec_of({"type": "answers"}, engine=ENGINE | limited, min_rows=3)
    assert fingerprinted(other) == fingerprinted(plain)


def test_labels_that_are_all_the_same_stop_the_job_unless_it_says_that_they_may_be() -> None:
    labels = {"type": "labels", "labels": ["good", "bad"]}
    tally = Tally(spec_of(labels))
    tally.add(Found(rows=[{"answer": "good"}] * 99))
    with pytest.raises(QualityError, match=r"100 of 100 texts are labelled 'good', a larger part than task.max_label"):
        tally.add(Found(rows=[{"answer": "good"}]))
    Tally(spec_of(labels | {"max_label_share": 1})).add(Found(rows=[{"answer": "good"}] * 200))
    Tally(spec_of(labels)).add(Found(rows=[{"answer": "good"}] * 190 + [{"answer": "bad"}] * 10))
