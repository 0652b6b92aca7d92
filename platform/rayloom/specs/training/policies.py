"""`policy` and `rollouts` of a training job: learning from rewards for answers that the model writes while it trains.

Symbols: G answers to one prompt, r reward, A advantage, ρ = π/π_old the ratio of a token's probabilities.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, Share, Spec
from rayloom.specs.row_files import SourceOfRows
from rayloom.specs.training.rewards import CalledFunction
from rayloom.specs.training.training_data import IgnoredKeys, RowProblem, TemplateKwargs

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

Positive = Annotated[float, Field(gt=0)]
GroupSize = Annotated[int, Field(ge=1)]


class KlPenalty(Spec):
    """What holds the policy to the base: an estimate of KL(π ‖ π_ref) for each token (Schulman 2020, "Approximating KL
    divergence"). With an adapter π_ref is the base without it, else a second, frozen model."""

    coefficient: Positive
    """β: how much it counts."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """With x = log π_ref − log π. k1: −x. k2: x²/2. k3: eˣ − x − 1, never negative, of low variance."""
    added_to: Literal["loss", "reward"] = "loss"
    """loss: β times the estimate, with its gradient. reward: β times it is taken off each token's reward."""

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.added_to == "loss" and self.estimator == "k1":
            raise ValueError("estimator k1 has a gradient of mean 0 in the loss: use k3, or added_to: reward")
        return self


class PolicyMethod(Spec):
    """What all methods share: the clipped loss −min(ρ·A, clip(ρ, 1 − below, 1 + above)·A) of Schulman et al. 2017."""

    clip_below: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far a token's probability may fall under its old one before it is not trained any further."""
    clip_above: Positive = 0.2
    """How far it may rise. DAPO's clip-higher is 0.28."""
    updates_per_rollout: Annotated[int, Field(ge=1)] = 1
    """Optimiser steps from answers of the same weights; each step has prompts of its own. With 1 nothing is clipped."""
    staleness_steps: Literal[0, 1] = 0
    """1: the next answers are written while this step trains, by weights that are one step old. Needs importance_limit
    and engines of their own (rollouts.placement: own)."""
    importance_limit: Annotated[float, Field(ge=1)] | None = None
    """Each token is weighted by π_old/π_engine, at most this: for what the engine computes otherwise than the trainer,
    and for staleness (truncated importance sampling, Yao et al. 2025). 2 is usual. Default: no weights."""
    max_mismatch: Positive | None = 0.1
    """The training stops where the mean of |log p by the engine − log p by the trainer| is more. null: never."""
    cut_answers: Literal["judged", "no_reward", "masked"] = "no_reward"
    """Answers that reached max_answer_tokens. judged: like whole ones. no_reward: reward 0. masked: not trained on
    (DAPO's overlong filtering)."""
    long_answers_from_tokens: Annotated[int, Field(ge=1)] | None = None
    """From this length on, reward falls linearly, by 1 at max_answer_tokens (DAPO, equation 13). Default: it does
    not."""
    kl: KlPenalty | None = None
    """Default: the policy may go anywhere."""
    needs_values: ClassVar[bool] = False


class Grpo(PolicyMethod):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300, section 4.1): A = (r − mean)/std in a
    prompt's group.

    Its corrections are values. Dr. GRPO (Liu et al. 2025, arXiv:2503.20783): scale_by_std false, loss_over
    longest. DAPO (Yu et al. 2025, arXiv:2503.14476): clip_above 0.28, loss_over tokens, resampled_rounds, cut_answers
    masked.
    """

    type: Literal["grpo"]
    group_size: Annotated[int, Field(ge=2)] = 8
    """G: answers to each prompt."""
    scale_by_std: bool = True
    """Divide by the group's standard deviation, which weighs prompts that are nearly solved, or nearly not, more."""
    loss_over: Literal["answers", "tokens", "longest"] = "answers"
    """answers: mean of each answer's mean, so that tokens of long answers count less. tokens: mean over all tokens of
    the step. longest: sum over max_answer_tokens, so that no length is preferred."""
    resampled_rounds: Annotated[int, Field(ge=0, le=16)] = 0
    """DAPO's dynamic sampling: prompts whose answers all got the same reward teach nothing, and are replaced by others,
    at most so many times a step."""


class Rloo(PolicyMethod):
    """REINFORCE with the mean of a prompt's other answers as baseline (Ahmadian et al. 2024, arXiv:2402.14740, section
    4): A = r − mean of the others' r."""

    type: Literal["rloo"]
    group_size: Annotated[int, Field(ge=2)] = 4
    """G: answers to each prompt."""
    loss_over: Literal["answers", "tokens", "longest"] = "longest"
    """As grpo's; the paper takes an answer's log-probability whole, which is longest up to a constant."""
    resampled_rounds: ClassVar[int] = 0


class ReinforcePlusPlus(PolicyMethod):
    """REINFORCE++ (Hu et al. 2025, arXiv:2501.03262): A is the reward, less the KL of the tokens still to come, set to
    mean 0 and deviation 1 over the step."""

    type: Literal["reinforce_pp"]
    group_size: GroupSize = 1
    """Answers to each prompt; with more than one, the group's mean is taken off first (its baseline variant)."""
    loss_over: Literal["answers", "tokens", "longest"] = "tokens"
    """As grpo's."""
    resampled_rounds: ClassVar[int] = 0


class Ppo(PolicyMethod):
    """Proximal policy optimisation with a critic (Schulman et al. 2017, arXiv:1707.06347) and generalised advantages
    (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    The critic is one more output of the same network, whose loss is added (equation 9). The reward comes with an
    answer's last token.
    """

    type: Literal["ppo"]
    group_size: GroupSize = 1
    """Answers to each prompt."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ: worth of a reward one token later."""
    trace_decay: Share = 0.95
    """λ: 1 sums the rewards, 0 trusts the critic."""
    value_coefficient: Positive = 0.1
    """Weight of the critic's squared error beside the policy's loss."""
    value_clip: Positive = 0.2
    """How far the critic may move from its old value in one step, in units of reward."""
    loss_over: Literal["answers", "tokens", "longest"] = "tokens"
    """As grpo's."""
    resampled_rounds: ClassVar[int] = 0
    needs_values: ClassVar[bool] = True


Policy = Annotated[Grpo | Rloo | ReinforcePlusPlus | Ppo, Field(discriminator="type")]


class EnvironmentStep(CalledFunction):
    """What answers the model between its turns, such as a tool: a Python function of your own, `(messages, row,
    **arguments) -> what it says`, in a process of its own like a reward's.

    It says None where the conversation is over; a text, which is the user's next message; or a message or a list of
    them, with role tool or user. `messages` are all so far, the model's newest last: a function that needs a state
    finds it there, for the process may be another one at the next turn. Its tokens are read, and never trained.
    """

    max_turns: Annotated[int, Field(ge=2)] = 4
    """Most turns of the model. A conversation also ends with a turn that was cut off."""


class Rollouts(Spec):
    """The vLLM engines that write answers, and how they sample."""

    num_engines: Annotated[int, Field(ge=1)] = 1
    """Engines that write side by side, each with a copy of the model."""
    placement: Literal["shared", "own"] = "shared"
    """shared: on the trainer's CPUs, which wait meanwhile, or on its GPUs, where engines sleep while it trains: their
    weights are then in main memory. own: on CPUs or GPUs of their own."""
    cpus_per_engine: Annotated[int, Field(ge=1)] = 1
    """CPUs that each engine computes with."""
    gpus_per_engine: Annotated[int, Field(ge=0)] = 0
    """GPUs that each engine is spread over; 0 computes on the CPU."""
    max_answer_tokens: Annotated[int, Field(ge=1)]
    """Longest answer, or turn; with its prompt it must fit into sequence_length_tokens."""
    environment: EnvironmentStep | None = None
    """What the model may speak with before its last turn, which is what rewards judge. Default: it has one turn."""
    temperature: Positive = 1.0
    """Of sampling, and of the probabilities that are trained. Answers are samples of the whole distribution: what
    top_p or top_k leave out would be another policy than the one that is trained."""
    max_sequences: Annotated[int, Field(ge=1)] = 64
    """Answers that an engine writes at the same time."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 29
    """For the answers at work, of each engine on a CPU. On a GPU it takes what gpu_memory_share leaves."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Part of a GPU's memory for weights and cache of an engine. On the trainer's GPUs its own memory is left out."""

    @property
    def most_written_tokens(self) -> int:
        """Tokens that a model can write after one prompt."""
        return self.max_answer_tokens * (1 if self.environment is None else self.environment.max_turns)

    def bundles(self) -> list[Bundle]:
        """What each engine takes beside the trainer."""
        return (
            [Bundle(self.cpus_per_engine, self.gpus_per_engine)] * self.num_engines if self.placement == "own" else []
        )

    @property
    def sleeps(self) -> bool:
        """Whether engines and trainer take turns on the same GPUs."""
        return self.placement == "shared" and self.gpus_per_engine > 0


class PromptSource(SourceOfRows):
    """Rows of a data set: `messages` that end with the user's, or a `prompt` (text or messages). All other columns are
    what rewards may read."""

    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows taken, chosen by the seed. Default: all."""
    ignore_keys: IgnoredKeys = ()
    """Keys of rows and messages to read as if they were not there."""


class PromptData(Spec):
    """Prompts that the model answers while it trains; rewards judge the answers."""

    type: Literal["prompts"]
    sources: Annotated[tuple[PromptSource, ...], Field(min_length=1)]
    """Data sets whose rows are read one after the other."""
    heldout_rows: Annotated[int, Field(ge=1)] = 50
    """Prompts kept for evaluation and never trained on; a seed always gives the same rows."""
    length_policy: Literal["error", "drop"] = "error"
    """What to do with a prompt that leaves no room for max_answer_tokens in sequence_length_tokens."""
    max_length_policy_share: Share = 0.01
    """Part of the rows that `drop` may leave out; the job fails if there are more."""
    leave_out: tuple[RowProblem, ...] = ()
    """Rows with these problems are left out and counted; any other problem stops the job, every such row named."""
    system: str | None = None
    """System message for rows without one. Default: what the chat template writes by itself."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`; a row's own go before them."""


def check_policy(job: "TrainSpec") -> None:
    """Raises ValueError if a policy does not fit the rest of the spec."""
    policy, rollouts, adapter = job.policy, job.rollouts, job.adapter
    if policy is None or rollouts is None or job.rewards is None or not isinstance(job.data, PromptData):
        given = [policy, rollouts, job.rewards, job.data if isinstance(job.data, PromptData) else None]
        if given == [None] * len(given):
            return
        raise ValueError("learning from rewards needs all of policy, rewards, rollouts and data of type prompts")
    bad = (
        (
            job.base is None or (job.task, job.preference, job.replay, job.teacher) != (None,) * 4 or bool(job.retain),
            "a policy needs a base that answers; leave architecture, task, preference, teacher, retain and replay out",
        ),
        (
            adapter.type not in ("lora", "none") or getattr(adapter, "weight_decomposed", False),
            f"vLLM cannot take new weights of adapter {adapter.type} while it runs: use lora, or leave adapter out",
        ),
        (
            getattr(adapter, "quantised_base", None) is not None,
            "the engine would compute with the whole base: leave adapter.quantised_base out",
        ),
        (
            bool(getattr(adapter, "dropout", 0)) or job.embedding_noise is not None,
            "dropout and embedding_noise would train another policy than the one that answers: leave them out",
        ),
        (
            rollouts.max_answer_tokens >= job.sequence_length_tokens,
            "rollouts.max_answer_tokens leaves no room for a prompt in sequence_length_tokens",
        ),
        (
            (policy.long_answers_from_tokens or 0) >= rollouts.most_written_tokens,
            "policy.long_answers_from_tokens is not below the longest answer: no answer would lose reward by it",
        ),
        (
            job.global_batch_sequences % policy.group_size > 0,
            f"a step has {job.global_batch_sequences} answers (global_batch_tokens / sequence_length_tokens), which "
            f"policy.group_size {policy.group_size} does not divide",
        ),
        (
            policy.staleness_steps > 0 and (policy.importance_limit is None or rollouts.placement != "own"),
            "policy.staleness_steps needs policy.importance_limit, and rollouts.placement: own",
        ),
        (
            rollouts.sleeps
            and (rollouts.gpus_per_engine, rollouts.num_engines)
            != (job.workers.gpus_per_worker, job.workers.num_workers),
            "engines on the trainer's GPUs are one on each: set rollouts.num_engines to workers.num_workers and "
            "gpus_per_engine to 1, or rollouts.placement: own",
        ),
        (
            policy.kl is not None and job.sharding.zero_stage == 3,
            "policy.kl needs the reference's weights whole: use sharding.zero_stage 2 or less",
        ),
        (
            policy.needs_values and job.sharding.zero_stage > 0,
            "policy ppo's critic is not sharded: use sharding.zero_stage 0",
        ),
        (
            job.faults.spike_factor is not None,
            "faults.spike_factor compares losses, which for a policy are near 0 and of either sign: leave it out",
        ),
    )
    for is_bad, said in bad:
        if is_bad:
            raise ValueError(said)
