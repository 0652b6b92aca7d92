"""`kind: train`: pretraining, continued pretraining and fine-tuning, which differ in values only."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobSpec, ModelRef, OutsideFiles, SearchRef
from rayloom.specs.prompting import Cloze, Prompt
from rayloom.specs.row_files import files_at_uris
from rayloom.specs.training.adapters import VIRTUAL_TOKEN_METHODS, Adapter, LoraAdapter, NoAdapter, PartsOnly
from rayloom.specs.training.architectures import Architecture, EncoderDecoderArchitecture
from rayloom.specs.training.computing import check_computing
from rayloom.specs.training.endurance import CheckpointSchedule, EarlyStopping, Faults, Sharding, Workers
from rayloom.specs.training.hardware import Hardware
from rayloom.specs.training.kernels import Float8, Kernels
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.objectives import OBJECTIVE_OF, Causal, Masked, Objective, SpanCorruption, check_objective
from rayloom.specs.training.optimization import ActivationCheckpointing, AdamW, Optimizer, Precision, Schedule
from rayloom.specs.training.policies import Policy, PromptData, Rollouts, check_policy
from rayloom.specs.training.preferences import Preference, PreferenceData, check_preference
from rayloom.specs.training.prompted import PromptTraining, TrainTask, check_prompted
from rayloom.specs.training.retain import Fisher, Retention, check_retaining, old_model_of
from rayloom.specs.training.rewards import Rewards, files_of_rewards
from rayloom.specs.training.tasks import RewardScoring, SequenceToSequence, Task, check_task
from rayloom.specs.training.teacher import KeptLayers, Teacher, check_teaching
from rayloom.specs.training.trackers import Tracker
from rayloom.specs.training.training_data import ConversationData, CorpusData, Replay


class TrainSpec(JobSpec):
    """One training run. Give `base` to continue from a model, or `architecture` for fresh weights."""

    kind: Literal["train"]
    base: ModelRef | None = None
    """The model to continue from."""
    keep_layers: KeptLayers | None = None
    """How many of the base's layers a student begins with, spread evenly from the first to the last (Sanh et al. 2019,
    arXiv:1910.01108), or their indices from 0. Default: all."""
    architecture: Architecture | None = None
    """Shape of a model with fresh weights, trained from scratch."""
    objective: Objective | None = None
    """Default: the architecture's own (decoder causal, encoder masked, encoder-decoder span); causal for a base."""
    task: TrainTask | None = None
    """What the model learns to say about a text. Default: it learns language, by its objective."""
    preference: Preference | None = None
    """Learn from judged answers by this method."""
    policy: Policy | None = None
    """Learn from rewards for answers that the model writes while it trains, by this method."""
    rewards: Rewards | None = None
    """What a policy's answers are worth: numbers that are added up by their weights."""
    rollouts: Rollouts | None = None
    """The engines that write a policy's answers."""
    data: Annotated[
        CorpusData | ConversationData | LabelledData | PreferenceData | PromptData, Field(discriminator="type")
    ]
    """What the model is trained on."""
    teacher: Teacher | None = None
    """A model whose distributions are learned beside the labels. Default: none."""
    replay: Replay | None = None
    """General text mixed into the training, so that the base forgets less. Default: none."""
    retain: tuple[Retention, ...] = ()
    """What else keeps the base from forgetting. Default: nothing."""
    fisher: Fisher | None = None
    """Keep with the model which weights mattered, for the `retain` of a later job. Default: no."""
    adapter: Adapter = NoAdapter(type="none")
    """Which weights are trained: all, some, or small new ones beside the frozen base."""
    sequence_length_tokens: Annotated[int, Field(ge=8)] = 1024
    """Length of a packed row. Documents are packed without seeing each other."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 1
    """Rows that one worker computes at once."""
    global_batch_tokens: Annotated[int, Field(ge=8)]
    """Tokens per optimiser step over all workers: a multiple of rows × micro batch × workers."""
    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Length of the run in optimiser steps."""
    num_epochs: Annotated[int, Field(ge=1)] | None = None
    """Length of the run in passes over the training data."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate at the schedule's peak. Default: what the adapter's method usually takes; fresh weights need
    one."""
    embedding_noise: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings of a base in training; 5 to 15 is usual (NEFTune, Jain et al. 2023, arXiv:2310.05914)."""
    router_balance: Annotated[float, Field(gt=0)] | None = None
    """Weight of a loss that spreads a mixture's tokens over its experts, in each row by itself (DeepSeek-V3, 2024,
    arXiv:2412.19437, equations 17 to 20); 1e-4 to 1e-2 is usual. Default: none."""
    schedule: Schedule = Schedule()
    """How the learning rate changes from step to step."""
    optimizer: Optimizer = AdamW(type="adamw")
    """The rule by which gradients change weights."""
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients of a larger norm are scaled down to it. null: never."""
    precision: Precision = "bf16"
    """Number format of weights and activations while computing; master weights are fp32 in any case."""
    activation_checkpointing: bool | ActivationCheckpointing = False
    """true: keep only each layer's input for the backward pass and compute the rest again (Chen et al. 2016): less
    memory, about a third more time. Or `{every_layers: 2}`, `{keep: products}` for some of both."""
    compile: bool = False
    """Compile each layer with torch.compile. Needs a C++ compiler on a CPU, Triton on a GPU."""
    kernels: Kernels = "torch"
    """Whose norms, rotary positions and gated feed-forward layers: torch's, one operation after the other, or Liger's,
    one kernel each (Hsu et al. 2024, arXiv:2410.10989), for GPUs and where nothing is compiled."""
    float8: Float8 | None = None
    """Multiply the layers' matrices in float8, with a scale for each tensor (fastest) or row (more exact); weights stay
    what they are (Micikevicius et al. 2022, arXiv:2209.05433). Needs a GPU such as H100, and compile to be fast."""
    sharding: Sharding = Sharding()
    """How optimiser state, gradients and weights are spread over workers."""
    workers: Workers = Workers()
    """How many processes train, and the CPUs and GPUs of each."""
    hardware: Annotated[Hardware | None, "unfingerprinted"] = None
    """GPUs that `rayloom plan` plans for, such as 8xH100-80GB. `rayloom run` ignores it and uses the cluster's.
    Default: this machine."""
    checkpoints: CheckpointSchedule = CheckpointSchedule()
    """When the run saves what it needs to continue after a failure."""
    faults: Faults = Faults()
    """What happens at bad steps, at lack of memory and when workers fail."""
    evaluate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Held-out loss every so many steps. Default: at the start and the end only."""
    early_stopping: EarlyStopping | None = None
    """End the run when held-out rows no longer improve. Default: it runs to its end."""
    trackers: Annotated[tuple[Tracker, ...], "unfingerprinted"] = ()
    """Where numbers also go while the job runs, beside its log and its progress bar."""
    seed: int = 0
    """Seed of the order of rows, of dropout and of fresh weights."""
    settings_from: SearchRef | None = None
    """A search (the artifact of a `tune` job): the values of its best trial replace those that stand here."""

    def bundles(self) -> list[Bundle]:
        return self._bundles(self.workers.fewest)

    def most_bundles(self) -> list[Bundle]:
        return self._bundles(self.workers.num_workers)

    def _bundles(self, num_workers: int) -> list[Bundle]:
        training = [Bundle(self.workers.cpus_per_worker, self.workers.gpus_per_worker)] * num_workers
        return training + (self.rollouts.bundles() if self.rollouts is not None else [])

    @property
    def objective_in_use(self) -> Causal | Masked | SpanCorruption:
        if self.prompt is not None and isinstance(self.prompt.scoring, Cloze):
            return OBJECTIVE_OF["encoder"]
        return self.objective or OBJECTIVE_OF["decoder" if self.architecture is None else self.architecture.type]

    @property
    def prompt(self) -> Prompt | None:
        """The prompt that a language model is trained on; None for all other training."""
        return self.task.prompt if isinstance(self.task, PromptTraining) else None

    @property
    def headed_task(self) -> Task | None:
        """The task whose model gets a head for it, or is made for it; None for language models."""
        return None if isinstance(self.task, PromptTraining) else self.task

    @property
    def teacher_in_use(self) -> Teacher | None:
        """The teacher, which is the base itself for `retain` old_model."""
        return self.teacher or old_model_of(self)

    @property
    def learns_reward(self) -> bool:
        """Whether the run makes a reward model."""
        return isinstance(self.task, RewardScoring)

    @property
    def recomputed(self) -> ActivationCheckpointing | None:
        """Which activations are computed again; None if all are kept."""
        if isinstance(self.activation_checkpointing, bool):
            return ActivationCheckpointing() if self.activation_checkpointing else None
        return self.activation_checkpointing

    @property
    def peak_learning_rate(self) -> float:
        return self.adapter.usual_learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def global_batch_sequences(self) -> int:
        return self.global_batch_tokens // self.sequence_length_tokens

    @property
    def rows_per_step(self) -> int:
        """Rows of data that a step takes: prompts, of which each gets a group of answers, or the batch itself."""
        return self.global_batch_sequences // (self.policy.group_size if self.policy is not None else 1)

    @property
    def packs_rows(self) -> bool:
        """Whether several texts are packed into a row; not with virtual tokens, which would precede only the first."""
        return not isinstance(self.adapter, VIRTUAL_TOKEN_METHODS)

    @property
    def is_streamed(self) -> bool:
        """Whether nodes fetch the corpus while they train."""
        return isinstance(self.data, CorpusData) and self.data.streamed

    @property
    def accumulation_steps(self) -> int:
        return self.global_batch_sequences // (self.micro_batch_sequences * self.num_copies)

    @property
    def num_copies(self) -> int:
        """How many groups of workers compute other rows, each with all of the model."""
        return self.workers.num_workers // self.sharding.together

    @model_validator(mode="after")
    def _one_starting_point(self) -> Self:
        if (self.base is None) == (self.architecture is None):
            raise ValueError("give either base (continue from a model) or architecture (fresh weights)")
        if self.architecture is not None and not isinstance(self.adapter, NoAdapter):
            raise ValueError("an adapter needs a base: fresh weights are trained whole")
        if self.architecture is not None and self.learning_rate is None:
            raise ValueError("fresh weights need a learning_rate; a base has a usual one")
        if self.architecture is not None and self.embedding_noise is not None:
            raise ValueError("embedding_noise is for fine-tuning a base")
        return self

    @model_validator(mode="after")
    def _positions_suffice(self) -> Self:
        if self.architecture is None or isinstance(self.architecture, EncoderDecoderArchitecture):
            return self
        limit = self.architecture.max_positions
        if self.sequence_length_tokens > limit:
            raise ValueError(f"sequence_length_tokens is more than architecture.max_positions ({limit})")
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        check_objective(self)
        return self

    @model_validator(mode="after")
    def _replay_fits(self) -> Self:
        if self.replay is not None and self.base is None:
            raise ValueError("replay keeps what a base has learned: give base, or mix the texts in the clean job")
        if self.replay is not None and self.is_streamed:
            raise ValueError("data.streamed has one corpus: mix general text in the clean job, instead of replay")
        if self.replay is not None and not self.packs_rows:
            raise ValueError(f"adapter {self.adapter.type} needs one text in each row, and replay's corpus packs many")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give either num_steps or num_epochs")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        at_once = self.sequence_length_tokens * self.micro_batch_sequences * max(1, self.num_copies)
        if self.global_batch_tokens % at_once:
            below = self.global_batch_tokens // at_once * at_once
            nearest = f"{below} or {below + at_once}" if below else str(at_once)
            divided = f" / {self.sharding.together} that share rows" if self.sharding.together > 1 else ""
            raise ValueError(
                f"global_batch_tokens must be a multiple of {at_once} (sequence_length_tokens × micro_batch_sequences "
                f"× workers.num_workers{divided}): try {nearest}"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        check_task(self)
        check_prompted(self)
        check_preference(self)
        check_retaining(self)
        check_teaching(self)
        check_policy(self)
        check_computing(self)
        return self

    def outside_files(self) -> Iterator[OutsideFiles]:
        if not isinstance(self.data, CorpusData):
            yield from files_at_uris("data.sources", self.data.sources)
        yield from files_of_rewards("rewards", self.rewards or ())
        if self.rollouts is not None and self.rollouts.environment is not None:
            yield self.rollouts.environment.files("rollouts.environment")

    @model_validator(mode="after")
    def _adapter_fits(self) -> Self:
        is_quantised = isinstance(self.adapter, LoraAdapter) and self.adapter.quantised_base is not None
        if is_quantised and self.sharding.zero_stage:
            raise ValueError("adapter.quantised_base cannot be sharded, and its adapter is small: use zero_stage 0")
        if not self.packs_rows and self.data.type == "corpus":
            raise ValueError(
                f"adapter {self.adapter.type} needs one text in each row, and a corpus packs many: use lora"
            )
        if isinstance(self.adapter, PartsOnly) and self.sharding.zero_stage == 3:
            raise ValueError("adapter parts leaves weights frozen, which zero_stage 3 does not gather: use stage 2")
        return self

    @model_validator(mode="after")
    def _stopping_needs_evaluation(self) -> Self:
        if self.early_stopping is not None and self.evaluate_every_steps is None:
            raise ValueError("early_stopping needs evaluate_every_steps")
        has_score = (
            self.preference is not None
            or self.policy is not None
            or not isinstance(self.task, SequenceToSequence | None)
        )
        if self.early_stopping is not None and self.early_stopping.by == "score" and not has_score:
            raise ValueError("early_stopping by score is for tasks with labels and for preferences: use by loss")
        return self
