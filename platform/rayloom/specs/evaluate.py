"""`kind: evaluate`: the quality of a model or adapter, beside a baseline, with limits that can stop a pipeline."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import (
    Bundle,
    DatasetRef,
    MeasuredRowsRef,
    Name,
    OutsideFiles,
    Share,
    Spec,
    TunedRef,
    refuse_repeated,
)
from rayloom.specs.one_task import GpuTaskSpec
from rayloom.specs.prompting import Generated, Prompt
from rayloom.specs.row_files import files_at_uris
from rayloom.specs.text_generation import Generation
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.training_data import TemplateKwargs


class HeldoutLoss(Spec):
    """Mean loss over the trained tokens of the held-out rows of the training run that made `rows_of`."""

    type: Literal["heldout_loss"]
    name: Name = "heldout"
    """Name in the report and in `metrics`; different for each check."""
    rows_of: MeasuredRowsRef
    """The adapter or model whose training job set the held-out rows aside."""
    max_increase: Annotated[float, Field(ge=0)] | None = None
    """Nats per token by which the model's loss may be higher than the baseline's; the job fails if it is more."""


class AnswersCheck(Spec):
    """Greedy answers to prompts; the number of them that contain the expected text."""

    type: Literal["answers"]
    name: Name
    """Name in the report and in `metrics`; different for each check."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    """What the model is asked, each as a user's message."""
    contains: str
    """Counted where the answer contains this text, upper and lower case alike."""
    min_share: Share | None = None
    """The job fails if a smaller share of the answers contains the text. Default: no limit."""
    max_share: Share | None = None
    """The job fails if a larger share of the answers contains the text. Default: no limit."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 48
    """Longest answer, in tokens."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`, as in training."""


class WrittenCheck(Spec):
    """The model's generated first answers in held-out conversations, compared with the reference answers.

    The score is chrF; BLEU and ROUGE are reported too.
    """

    type: Literal["written"]
    name: Name = "written"
    """Name in the report and in `metrics`; different for each check."""
    rows_of: MeasuredRowsRef
    """The adapter or model whose training job set the conversations aside."""
    limit_rows: Annotated[int, Field(ge=1)] = 100
    """At most so many rows, the first ones."""
    generation: Generation = Generation()
    """How the model writes: engine, length, sampling."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs of engine vllm."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of engine vllm; 0 computes on the CPU."""
    min_score: Share | None = None
    """The job fails if the score is lower. Default: no limit."""


class TaskCheck(Spec):
    """Predictions for the held-out rows of a task's training, compared with their labels, entities or answers.

    The score is accuracy for one label, micro F1 for several, entity F1 (kind and both ends right) for tokens, word F1
    for questions, and chrF for generated texts.
    """

    type: Literal["task"]
    name: Name = "task"
    """Name in the report and in `metrics`; different for each check."""
    rows_of: TunedRef
    """The model or adapter whose training job set the texts aside."""
    linear_baseline: bool = False
    """Also train a linear model on the same rows (TF-IDF, or features of words) and say how much better this one is."""
    min_score: Share | None = None
    """The job fails if the score is lower. Default: no limit."""


class PairsCheck(Spec):
    """The share of held-out pairs in which a reward model gives the better answer the larger number.

    Of a process reward (`step_separator`): the share of held-out steps that it judges as people did.
    """

    type: Literal["pairs"]
    name: Name = "pairs"
    """Name in the report and in `metrics`; different for each check."""
    rows_of: TunedRef
    """The reward model whose training job set the pairs aside."""
    min_score: Share | None = None
    """The job fails if the share is lower. Default: no limit."""


class Endpoint(Spec):
    """A server with OpenAI's completions API, such as that of `kind: serve`; its key is read from OPENAI_API_KEY."""

    url: Annotated[str, Field(pattern=r"^https?://\S+[^/\s]$")]
    """Address of the server, without `/v1/completions`."""
    model: str
    """Name of the model, as the server lists it."""


class HarnessCheck(Spec):
    """Tasks of EleutherAI's lm-evaluation-harness, whose package and data must be on this machine.

    The score is the mean, over the documents of all tasks, of the first metric of each task.
    """

    type: Literal["lm_eval"]
    name: Name = "lm-eval"
    """Name in the report and in `metrics`; different for each check."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names that the harness knows, or that `task_files` brings."""
    task_files: DatasetRef | None = None
    """A folder of task files (YAML) of your own, with their data: paths in them begin at that folder."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples before each question. Default: what the task itself says."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many documents of each task."""
    chat_template: bool = False
    """Put each question into the chat template, as a user's message."""
    endpoint: Endpoint | None = None
    """Ask a server instead of loading the weights; what it serves should be the model."""
    min_score: Share | None = None
    """The job fails if the score is lower. Default: no limit."""


class PromptedCheck(Spec):
    """Answers of a model that was not trained for the task, asked by a prompt alone, scored as by a check of type task.

    With demonstrations, scores depend on which they are and on their order: several of both give a mean and a spread.
    """

    type: Literal["prompted"]
    name: Name = "prompted"
    """Name in the report and in `metrics`; different for each check."""
    data: LabelledData
    """Where rows come from, as in training: `heldout_rows` of them are tested, the same that a `train` job with this
    data and seed holds out, and demonstrations are chosen from the others."""
    seed: int = 0
    """Seed of the held-out rows, and of the first draw of demonstrations."""
    prompt: Prompt
    """How the model is asked."""
    num_draws: Annotated[int, Field(ge=1)] = 1
    """How often demonstrations are drawn, each time by another seed."""
    num_orders: Annotated[int, Field(ge=1)] = 1
    """In how many orders each draw is shown."""
    min_score: Share | None = None
    """The job fails if the mean score is lower. Default: no limit."""

    @model_validator(mode="after")
    def _runs_differ(self) -> Self:
        shown = self.prompt.demonstrations
        if shown is None and self.num_draws * self.num_orders > 1:
            raise ValueError("num_draws and num_orders are of demonstrations: there are none in the prompt")
        if shown is not None and shown.choose == "nearest" and self.num_draws > 1:
            raise ValueError("num_draws must be 1 with choose: nearest, which draws nothing")
        if shown is not None and shown.num_rows == 1 and self.num_orders > 1:
            raise ValueError("num_orders must be 1 where num_rows is 1")
        return self


CHECK_METRICS = {
    "heldout_loss": ("mean_nats", "perplexity"),
    "answers": ("share", "count"),
    "lm_eval": ("score",),
    "pairs": ("score", "log_loss", "calibration_error"),
    "written": ("score", "bleu", "rouge_l"),
    "prompted": ("score", "spread", "accuracy", "macro_f1", "micro_f1", "exact_match"),
    "task": ("score", "accuracy", "macro_f1", "micro_f1", "exact_match"),
}
"""The metrics of each type of check, by which models can be compared."""


class EvaluateSpec(GpuTaskSpec):
    """Runs the checks on a model, and on the baseline if one is named; predictions are kept for reading."""

    kind: Literal["evaluate"]
    model: TunedRef
    """The model or adapter that is measured."""
    baseline: TunedRef | None = None
    """A model that the same checks measure for comparison. Default: none."""
    earlier: tuple[TunedRef, ...] = ()
    """What stood before `model` in a sequence of trainings, first to last. The checks are then the tasks that were
    learned, one for each stage, in the same order; `baseline` is the model before the first. The report shows every
    task after every stage, transfer and forgetting. Default: no sequence."""
    checks: Annotated[
        tuple[
            Annotated[
                HeldoutLoss | AnswersCheck | WrittenCheck | TaskCheck | PairsCheck | HarnessCheck | PromptedCheck,
                Field(discriminator="type"),
            ],
            ...,
        ],
        Field(min_length=1),
    ]
    """What is measured."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 8
    """Rows computed at once."""

    def bundles(self) -> list[Bundle]:
        """The task that measures, and beside it the engine of a check that has one."""
        writing = [c.prompt.scoring if isinstance(c, PromptedCheck) else c for c in self.checks]
        engines = [
            Bundle(c.cpus_per_worker, c.gpus_per_worker) for c in writing if isinstance(c, WrittenCheck | Generated)
        ]
        return super().bundles() + engines[:1]

    def outside_files(self) -> Iterator[OutsideFiles]:
        for number, check in enumerate(self.checks):
            if isinstance(check, PromptedCheck):
                yield from files_at_uris(f"checks.{number}.data.sources", check.data.sources)
                yield from check.prompt.files_of(f"checks.{number}.prompt")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        refuse_repeated((check.name for check in self.checks), "checks")
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """The fields that name the models of a sequence, first to last; empty if there is none."""
        return (*(f"earlier.{number}" for number in range(len(self.earlier))), "model") if self.earlier else ()

    @property
    def compared(self) -> tuple[str, ...]:
        """The fields that name all models, in the order of tables."""
        return (*(("baseline",) if self.baseline is not None else ()), *(self.stages or ("model",)))

    @model_validator(mode="after")
    def _each_stage_has_its_task(self) -> Self:
        if self.earlier and len(self.checks) != len(self.stages):
            raise ValueError(
                f"earlier and model are {len(self.stages)} stages, and there are {len(self.checks)} checks: give one "
                "for the task of each stage, in the same order"
            )
        return self

    @model_validator(mode="after")
    def _increase_needs_a_baseline(self) -> Self:
        for check in self.checks:
            if isinstance(check, HeldoutLoss) and check.max_increase is not None and self.baseline is None:
                raise ValueError(f"max_increase of the check {check.name} compares with a baseline: name one")
        return self
