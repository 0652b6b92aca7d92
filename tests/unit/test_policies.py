"""Advantages, losses, KL estimates and batches of policies, against numbers worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.models import made, tiny_llama, write_model
from support.policies import ANSWER, policy_spec, write_prompts_file
from support.tokenizers import chatml

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.models.adapters import attach, without_adapter
from rayloom.score.policy_loss import PolicyBatch, PolicyLoss, TokenView, kl_estimate, policy_losses, shares_prompts
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.specs.training.policies import Grpo, KlPenalty, Ppo, PromptData, ReinforcePlusPlus, Rollouts
from rayloom.text.conversations.prompt_rows import PromptRows, prepare_prompts
from rayloom.text.conversations.render import Renderer
from rayloom.train.objectives.advantages import generalised, grpo, ppo, reinforce_pp, rloo, teaches
from rayloom.train.objectives.policy import PolicyObjective
from rayloom.train.plan import plan
from rayloom.train.report import sections
from rayloom.train.reporting.signs import Signs
from rayloom.train.reporting.trackers import scalars
from rayloom.train.rollouts.answers import PolicyAnswer, Round, RoundFiles, WrittenTokens, seed_of
from rayloom.train.rollouts.asking import Asker
from rayloom.train.rollouts.measures import hopeless, measures_of

REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


def answer(tokens: list[int], reward: float | None = 1.0, **changes: Any) -> PolicyAnswer:
    values: dict[str, Any] = {
        "step": 0, "prompt": (0, 0), "sample": 0, "prompt_tokens": [5, 6, 7], "tokens": tokens,
        "log_p": [-1.0] * len(tokens), "is_cut": False, "reward": reward,
    }  # fmt: skip
    return PolicyAnswer(**values | changes)


def objective(policy: Any, longest: int = ANSWER) -> PolicyObjective:
    return PolicyObjective(policy, Rollouts(max_answer_tokens=longest))


# -- advantages --------------------------------------------------------------------------------------------------------


def test_grpo_compares_within_a_group() -> None:
    scaled = grpo(Grpo(type="grpo"), REWARDS)
    deviation = math.sqrt(4 * 0.25 / 3)
    assert scaled[0] == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / (deviation + 1e-4))
    assert scaled[1] == pytest.approx(np.zeros(4))
    plain = grpo(Grpo(type="grpo", scale_by_std=False), REWARDS)
    assert plain[0] == pytest.approx([0.5, -0.5, -0.5, 0.5])
    assert teaches(REWARDS).tolist() == [True, False]


def test_an_answer_without_a_reward_counts_in_no_mean() -> None:
    rewards = np.array([[1.0, 0.0, np.nan]])
    assert grpo(Grpo(type="grpo", scale_by_std=False), rewards)[0] == pytest.approx([0.5, -0.5, 0.0])
    assert rloo(rewards)[0] == pytest.approx([1.0, -1.0, 0.0])


def test_rloo_leaves_one_out() -> None:
    assert rloo(REWARDS)[0] == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_reinforce_plus_plus_takes_the_kl_to_come_off_and_normalises_over_all_tokens() -> None:
    penalties = [np.array([0.1, 0.3]), np.array([0.2])]
    raw = np.array([1 - 0.4, 1 - 0.3, 0 - 0.2])
    found = reinforce_pp(np.array([[1.0], [0.0]]), penalties)
    assert np.concatenate(found) == pytest.approx((raw - raw.mean()) / raw.std())


def test_generalised_advantages_by_hand() -> None:
    policy = Ppo(type="ppo", trace_decay=0.95)
    rewards, values = np.array([0.0, 0.0, 1.0]), np.full(3, 0.5)
    assert generalised(policy, rewards, values) == pytest.approx([0.45125, 0.475, 0.5])
    near = Ppo(type="ppo", trace_decay=0.0, discount=0.9)  # one-step surprises: r + γV' − V
    assert generalised(near, rewards, values) == pytest.approx([-0.05, -0.05, 0.5])
    _, returns = ppo(policy, np.array([1.0]), [np.zeros(3)], [values])
    assert returns[0] == pytest.approx([0.95125, 0.975, 1.0])


# -- losses ------------------------------------------------------------------------------------------------------------


def tokens_of(ratio: list[float], advantages: list[float], **changes: Any) -> tuple[TokenView, PolicyBatch]:
    """N tokens whose old log p is −1."""
    size = len(ratio)
    nan, one = torch.full((size,), math.nan), torch.ones(size)
    batch = PolicyBatch(
        *(torch.zeros(1, size, dtype=torch.long),) * 3, *(torch.zeros(size, dtype=torch.long),) * 2, one,
        torch.tensor(advantages), -one, -one, nan, nan, nan, size, size,
    )  # fmt: skip
    view = TokenView(torch.tensor(ratio).log() - 1, torch.zeros(size), changes.pop("values", None))
    return view, PolicyBatch(**{**vars(batch), **changes})


def test_the_surrogate_is_clipped_on_the_side_that_would_gain() -> None:
    view, batch = tokens_of([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    policy = Grpo(type="grpo", clip_below=0.2, clip_above=0.28)
    assert policy_losses(policy, view, batch).tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8])


def test_importance_weights_are_truncated() -> None:
    # π_old/π_engine is e^0.5 for the first and e^3 for the second token.
    view, batch = tokens_of([1.0, 1.0], [1.0, 1.0], engine_log_p=torch.tensor([-1.5, -4.0]))
    losses = policy_losses(Grpo(type="grpo", importance_limit=2.0), view, batch)
    assert losses.tolist() == pytest.approx([-math.exp(0.5), -2.0])


def test_kl_estimates_by_hand() -> None:
    log_p, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    found = {name: float(kl_estimate(name, log_p, reference)) for name in ("k1", "k2", "k3")}  # type: ignore[arg-type]
    assert found == pytest.approx({"k1": 0.5, "k2": 0.125, "k3": math.exp(-0.5) + 0.5 - 1})


def test_kl_and_critic_are_added_to_the_loss() -> None:
    kl = KlPenalty(coefficient=0.1)
    view, batch = tokens_of([1.0], [0.0], reference_log_p=torch.tensor([-1.5]))
    expected = 0.1 * (math.exp(-0.5) - 0.5)
    assert policy_losses(Grpo(type="grpo", kl=kl), view, batch).tolist() == pytest.approx([expected])
    critic = Ppo(type="ppo", value_coefficient=0.5, value_clip=0.2)
    said = {"old_values": torch.tensor([0.0]), "returns": torch.tensor([1.0]), "values": torch.tensor([0.6])}
    view, batch = tokens_of([1.0], [0.0], **said)
    # The critic moved by 0.6, of which 0.2 counts: the larger error is (0.2 − 1)².
    assert policy_losses(critic, view, batch).tolist() == pytest.approx([0.5 * 0.5 * 0.64])


@pytest.mark.parametrize(
    ("loss_over", "weights", "num_labels"),
    [("answers", [1 / 4] * 4 + [1 / 2] * 2, 2), ("tokens", [1.0] * 6, 6), ("longest", [1 / 8] * 6, 2)],
)
def test_what_a_step_averages_over(loss_over: Any, weights: list[float], num_labels: int) -> None:
    made = objective(Grpo(type="grpo", group_size=2, loss_over=loss_over)).batch(
        [[answer([1, 2, 3, 4]), answer([5, 6])]]
    )
    assert made.weights.tolist() == pytest.approx(weights)
    assert made.num_labels == num_labels


def test_prompts_whose_answers_agree_are_not_computed() -> None:
    answers = [answer([1], reward) for reward in (1.0, 0.0, 1.0, 1.0)]
    plain = objective(Grpo(type="grpo", group_size=2))
    plain.set_advantages(answers)
    assert plain.taught(answers) == answers[:2]
    held = objective(Grpo(type="grpo", group_size=2, kl=KlPenalty(coefficient=0.1)))
    assert held.taught(answers) == answers
    assert plain.taught(answers[2:]) == answers[2:]


def test_cut_answers_can_be_left_out_of_the_loss() -> None:
    policy = Grpo(type="grpo", group_size=2, cut_answers="masked")
    made = objective(policy).batch([[answer([1, 2], is_cut=True), answer([5, 6])]])
    assert (made.weights.tolist(), made.num_labels) == ([0, 0, 0.5, 0.5], 1)


@pytest.mark.parametrize(
    ("changes", "written", "reward"),
    [
        ({}, WrittenTokens([1] * 8, [-1.0] * 8, True), 0.0),
        ({"cut_answers": "judged"}, WrittenTokens([1] * 8, [-1.0] * 8, True), 1.0),
        ({"long_answers_from_tokens": 4}, WrittenTokens([1] * 6, [-1.0] * 6, False), 0.5),
        ({"long_answers_from_tokens": 4}, WrittenTokens([1] * 4, [-1.0] * 4, False), 1.0),
    ],
)
def test_what_cut_and_long_answers_are_worth(changes: dict[str, Any], written: WrittenTokens, reward: float) -> None:
    spec = policy_spec({"type": "grpo", "group_size": 4, **changes})
    writers: Any = None
    assert Asker(spec, Path(), writers, [])._reward(1.0, written.is_cut, len(written.tokens)) == pytest.approx(reward)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted() -> torch.nn.Module:
    torch.manual_seed(1)
    model = attach(tiny_llama(), LoraAdapter(type="lora", rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def groups() -> list[PolicyAnswer]:
    random = np.random.default_rng(0)
    of = [
        answer(random.integers(0, 400, size).tolist(), float(reward), prompt_tokens=random.integers(0, 400, 5).tolist())
        for size, reward in ((3, 1), (6, 0), (1, 1), (4, 0))
    ]
    for one in of[1:]:
        one.prompt_tokens = of[0].prompt_tokens
    return of


def test_answers_that_share_a_prompt_are_computed_as_if_alone(adapted: torch.nn.Module) -> None:
    policy = Grpo(type="grpo", group_size=4, scale_by_std=False)
    made, answers = objective(policy), groups()
    made.set_advantages(answers)
    loss = made.loss_of(adapted)
    assert shares_prompts(adapted)
    found = []
    for pieces in ([answers], [[one] for one in answers]):
        batch = made.batch(pieces)
        adapted.zero_grad()
        total = loss(batch)
        total.backward()
        gradients = [parameter.grad.clone() for parameter in adapted.parameters() if parameter.grad is not None]
        found.append((loss.view(batch).log_p.detach(), gradients))
    (together, its), (alone, others) = found
    assert torch.allclose(together, alone, atol=1e-5)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(its, others, strict=True))
    expected = []
    for one in answers:
        logits = adapted(torch.tensor([[*one.prompt_tokens, *one.tokens]])).logits[0].log_softmax(-1).detach()
        expected += [float(logits[len(one.prompt_tokens) - 1 + n, token]) for n, token in enumerate(one.tokens)]
    assert together.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_frozen_heads_gradient_is_that_of_autograd(adapted: torch.nn.Module) -> None:
    loss = PolicyLoss(adapted, Grpo(type="grpo"), temperature=0.7)
    hidden, labels = torch.randn(6, 64, requires_grad=True), torch.arange(6)
    weights = torch.linspace(-1, 1, 6)
    log_p, entropy = loss._of_tokens(hidden, labels)
    (fast,) = torch.autograd.grad((log_p * weights).sum(), hidden)
    head = adapted.get_output_embeddings()  # type: ignore[operator]
    slow_log_p = (head(hidden) / 0.7).log_softmax(-1)
    (slow,) = torch.autograd.grad((slow_log_p.gather(1, labels[:, None]).squeeze(1) * weights).sum(), hidden)
    assert torch.allclose(fast, slow, atol=1e-5)
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=slow_log_p).entropy(), atol=1e-5)


def test_the_reference_is_the_base_without_its_adapter(adapted: torch.nn.Module) -> None:
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad(), without_adapter(adapted):
        assert torch.equal(adapted(tokens).logits, tiny_llama()(tokens).logits)
    assert not torch.allclose(adapted(tokens).logits, tiny_llama()(tokens).logits)


@pytest.mark.parametrize(
    "policy",
    [
        Grpo(type="grpo", group_size=4),
        Grpo(type="grpo", group_size=4, loss_over="longest", scale_by_std=False),
        ReinforcePlusPlus(type="reinforce_pp", group_size=4),
        Ppo(type="ppo", group_size=4),
    ],
    ids=lambda policy: policy.type,
)
def test_a_step_makes_good_answers_likelier(policy: Any) -> None:
    torch.manual_seed(2)
    model = attach(tiny_llama(), LoraAdapter(type="lora", rank=4)).train()
    made, answers = objective(policy), groups()
    loss = made.loss_of(model)
    before = loss.view(made.batch([answers]))
    ends = np.cumsum([len(one.tokens) for one in answers])[:-1]
    for one, log_p in zip(answers, np.split(before.log_p.detach().double().numpy(), ends), strict=True):
        one.old_log_p, one.values = log_p, np.zeros(len(log_p))
    made.set_advantages(answers)
    batch = made.batch([answers])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    (loss(batch) / batch.num_labels).backward()
    optimizer.step()
    gained = (loss.view(batch).log_p - before.log_p).detach()
    assert float((gained * batch.advantages * batch.weights).sum()) > 1e-5


# -- rows, rounds, refusals --------------------------------------------------------------------------------------------


def test_prompts_are_rendered_as_the_server_does_and_keep_their_rows(tmp_path: Path) -> None:
    files = {"data.sources.0.dataset": [write_prompts_file(tmp_path / "in") / "x.json"]}
    data = PromptData.model_validate(
        {"type": "prompts", "sources": [{"dataset": "./x"}], "heldout_rows": 4, "system": "Be short."}
    )
    renderer = Renderer(chatml())
    counts = prepare_prompts(data, files, renderer, 64, 0, tmp_path / "out")
    rows = PromptRows(tmp_path / "out" / "train")
    assert (len(rows), counts.train["rows"], counts.heldout["rows"]) == (20, 20, 4)
    row = rows.row(7)
    assert row.tokens == renderer.prompt(row.messages)
    assert [message["role"] for message in row.messages] == ["system", "user"]
    assert row.row["wanted"][0] == "a"
    with pytest.raises(InputError, match=r"24 of 24 prompts leave no room for an answer"):
        prepare_prompts(data, files, renderer, 4, 0, tmp_path / "none")


def test_a_row_that_ends_with_an_answer_is_no_prompt(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (tmp_path / "x.json").write_text(json.dumps([{"messages": turns}] * 4))
    data = PromptData.model_validate({"type": "prompts", "sources": [{"dataset": "./x"}], "heldout_rows": 1})
    with pytest.raises(InputError, match="4 rows cannot be trained on"):
        prepare_prompts(
            data, {"data.sources.0.dataset": [tmp_path / "x.json"]}, Renderer(chatml()), 64, 0, tmp_path / "o"
        )


def test_a_prompt_about_a_picture_is_refused_and_other_columns_are_for_rewards(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is in {n}?", "context": "a", "images": ["a.png"]} for n in range(4)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    source: dict[str, Any] = {"dataset": "./x"}
    files = {"data.sources.0.dataset": [tmp_path / "x.json"]}
    renderer = Renderer(chatml())
    data = PromptData.model_validate({"type": "prompts", "sources": [source], "heldout_rows": 1})
    with pytest.raises(InputError, match="has the key `images`"):
        prepare_prompts(data, files, renderer, 64, 0, tmp_path / "out")
    data = PromptData.model_validate(
        {"type": "prompts", "sources": [source | {"ignore_keys": ["images"]}], "heldout_rows": 1}
    )
    assert prepare_prompts(data, files, renderer, 64, 0, tmp_path / "out").train["rows"] == 3


def test_seeds_of_answers_differ_and_stay() -> None:
    seeds = {seed_of(0, step, prompt, sample) for step in range(4) for prompt in range(4) for sample in range(4)}
    assert len(seeds) == 64
    assert seed_of(0, 1, 2, 3) == seed_of(0, 1, 2, 3) != seed_of(1, 1, 2, 3)


def test_a_round_is_read_as_it_was_written(tmp_path: Path) -> None:
    answers = [answer([1, 2], 0.1 + 0.2, log_p=[-1 / 3, -2e-17]), answer([3], None, problems=["x: y"])]
    files = RoundFiles(tmp_path)
    files.write(4, Round(3, answers, {"writing_seconds": 0.5}))
    assert files.read(4) == Round(3, answers, {"writing_seconds": 0.5})
    files.forget(lambda number: number > 4)
    assert not files.file(4).exists()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            [answer([1], None, problems=["judge: took_too_long"])] * 3 + [answer([1])],
            "3 of 4 answers could not be judged",
        ),
        ([answer([1] * 8, 0.0, is_cut=True)] * 4, "All 4 answers were cut off"),
        ([answer([1], 0.5)] * 4, r"All 4 answers of the base got the same reward \(0.5\)"),
    ],
)
def test_a_round_that_teaches_nothing_ends_the_training(answers: list[PolicyAnswer], said: str) -> None:
    import re

    problem = hopeless(answers, Grpo(type="grpo"), is_first=True)
    assert problem is not None
    assert re.search(said, problem[0])


@pytest.mark.parametrize(
    ("policy", "changes", "said"),
    [
        ({"type": "grpo", "group_size": 1}, {}, "greater than or equal to 2"),
        ({"type": "rloo", "group_size": 3}, {}, "group_size 3 does not divide"),
        ({"type": "grpo", "group_size": 4}, {"rollouts": None}, "needs all of policy, rewards, rollouts"),
        ({"type": "grpo", "group_size": 4}, {"adapter": {"type": "ia3"}}, "cannot take new weights of adapter ia3"),
        ({"type": "grpo", "group_size": 4}, {"rollouts": {"max_answer_tokens": 48}}, "leaves no room for a prompt"),
        ({"type": "grpo", "group_size": 4, "staleness_steps": 1}, {}, "needs policy.importance_limit"),
        (
            {"type": "grpo", "group_size": 4},
            {"rollouts": {"max_answer_tokens": 8, "gpus_per_engine": 1}},
            "engines on the trainer's GPUs are one on each",
        ),
        ({"type": "grpo", "group_size": 4, "long_answers_from_tokens": 8}, {}, "is not below the longest answer"),
        (
            {"type": "grpo", "group_size": 4},
            {"rewards": [{"type": "language", "language": "en", "weight": 0}]},
            "every weight is 0",
        ),
        ({"type": "grpo", "kl": {"coefficient": 0.1, "estimator": "k1"}}, {}, "gradient of mean 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(policy: Any, changes: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        policy_spec(policy, **changes)


def test_a_reward_that_cannot_judge_is_named_in_the_plan(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    parents = {
        "base": made(store, "base", "model", write_model),
        "data.sources.0.dataset": made(store, "data", "dataset", write_prompts_file),
    }
    rewards = [{"type": "function", "function": "own:score"}]
    (tmp_path / "own.py").write_text("def scored():\n    pass\n")
    sheet = plan(policy_spec({"type": "grpo", "group_size": 4}, rewards=rewards), parents, tmp_path)
    assert "does not import: raised: AttributeError: module 'own' has no attribute 'score'" in sheet.problems[0]
    (tmp_path / "own.py").write_text("def score(prompt, text, row):\n    return 1\n")
    assert plan(policy_spec({"type": "grpo", "group_size": 4}, rewards=rewards), parents, tmp_path).problems == []


# -- what is shown -----------------------------------------------------------------------------------------------------


def signs_of(rewards: list[float], tokens: list[float], scores: list[float], same: float = 0.1) -> list[str]:
    signs, said = Signs(), []
    for number, (reward, length) in enumerate(zip(rewards, tokens, strict=True)):
        rollout = {"event": "rollout", "reward": reward, "answer_tokens": length, "same_answer_share": same}
        said += [*signs.of(rollout), *signs.of({"event": "step", "entropy": 2.0})]
        if number % 10 == 9:
            said += signs.of({"event": "heldout", "score": scores[number // 10]})
    return said


def test_what_reward_hacking_looks_like_is_named_once() -> None:
    rising, even = [step / 40 for step in range(40)], [10.0] * 40
    assert signs_of(rising, even, [0.1, 0.2, 0.4, 0.6]) == []
    (fallen,) = signs_of(rising, even, [0.1, 0.6, 0.5, 0.3])
    assert "the reward rises while the held-out score fell from 0.600 to 0.500" in fallen
    (longer,) = signs_of(rising, [10.0 + step for step in range(40)], [0.1, 0.2, 0.4, 0.6])
    assert "while answers grew from" in longer
    (alike,) = signs_of([0.5] * 40, even, [0.5] * 4, same=0.9)
    assert "90% of the answers to different prompts are the same" in alike


def test_a_round_is_shown_by_its_parts_and_its_best_and_worst_answer() -> None:
    spec = policy_spec({"type": "grpo", "group_size": 2, "cut_answers": "judged"})
    answers = [answer([1, 2], 1.0, text="yes", parts={"a": 1.0}), answer([3], 0.0, text="no", parts={"a": 0.0})]
    answers += [
        answer([1], None, text="", parts={"a": None}, problems=["a: took_too_long"]),
        answer([4], 0.5, text="no", parts={"a": 0.5}),
    ]
    shown = measures_of(Round(3, answers, {"writing_seconds": 0.5}), spec)
    assert (shown["reward"], shown["parts"], shown["unjudged_share"]) == (0.5, {"a": 0.5}, 0.25)
    assert (shown["written_tokens"], shown["written_tokens_per_second"], shown["longest_answer_tokens"]) == (5, 10.0, 2)
    assert [shown["samples"][which]["answer"] for which in ("best", "worst")] == ["yes", "no"]
    assert shown["problems"] == {"a: took_too_long": 1}
    assert scalars({"event": "rollout", "step": 1, **shown})["reward/a"] == 0.5


def test_a_policys_report_shows_rewards_and_no_loss(tmp_path: Path) -> None:
    sample = {"reward": 1.0, "tokens": 2, "answer": "yes"}
    events: list[dict[str, Any]] = [
        {"event": "heldout", "step": 0, "name": "heldout", "loss": 0.75, "score": 0.25, "parts": {"exact": 0.25}},
        {"event": "rollout", "step": 1, "reward": 0.5, "parts": {"exact": 0.5}, "samples": {"best": sample}},
        {"event": "step", "step": 1, "loss": 0.0, "seconds": 1.0},
        {"event": "heldout", "step": 1, "name": "heldout", "loss": 0.25, "score": 0.75, "parts": {"exact": 0.75}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    found = {name: {"score": exact, "parts": {"exact": exact}} for name, exact in (("before", 0.25), ("after", 0.75))}
    artifact: Any = SimpleNamespace(manifest=SimpleNamespace(metrics={"heldout": {"heldout": found}}), path=tmp_path)
    titles = [section.title for section in sections(artifact)]
    assert titles[:2] == ["Held-out rewards", "Reward by step"]
    assert not any("loss" in title.lower() for title in titles)
    assert all(text in sections(artifact)[0].body for text in ("exact", "0.25", "0.75"))
