"""`kind: compare`: answers of several models to the same prompts, and who is better, by a judge."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import Bundle, JobSpec, Name, OutsideFiles, Share, Spec, refuse_repeated
from rayloom.specs.generation.engines import EndpointEngine, Engine, ModelEngine, Sampling
from rayloom.specs.generation.tasks import GivenRows
from rayloom.specs.row_files import SourceOfRows, files_at_uris


class ComparedModel(ModelEngine):
    """A model of the store, which answers by vLLM in actors on the cluster."""

    name: Name
    """What it is called in the result; different for each."""


class ComparedEndpoint(EndpointEngine):
    """A model behind an OpenAI-compatible endpoint: a service of `kind: serve`, or a provider's."""

    name: Name
    """What it is called in the result; different for each."""


class ComparedFile(SourceOfRows):
    """Answers that were written before, such as the predictions.jsonl of a `predict` job, found by their prompt."""

    type: Literal["file"]
    name: Name
    """What it is called in the result; different for each."""
    prompt: str = "prompt"
    """Column of the prompt, which has the same text as in `data`."""
    answer: str = "answer"
    """Column of the answer."""


class ComparedColumn(Spec):
    """Answers that stand in the rows of `data` themselves, such as those that people wrote."""

    type: Literal["column"]
    name: Name
    """What it is called in the result; different for each."""
    column: str | None = None
    """Column of the answer. Default: the first answer of a row that is a conversation in a known form."""


Compared = Annotated[
    ComparedModel | ComparedEndpoint | ComparedFile | ComparedColumn,
    Field(discriminator="type"),
]


class PairJudging(Spec):
    """Two answers are set side by side and judged in both orders (Zheng et al. 2023, arXiv:2306.05685, section 3.4)."""

    type: Literal["pairs"]
    against: Name | None = None
    """Only pairs with this model are judged. Default: every model against every other."""


class JudgedCriterion(Spec):
    """One thing that answers are judged by."""

    name: Name
    """What it is called in the result."""
    description: Annotated[str, StringConstraints(min_length=1)]
    """What the judge is told about it, such as: it is right, and invents nothing."""


class ScoreJudging(Spec):
    """Each answer gets a number by each criterion; the better answer of a pair has the larger mean."""

    type: Literal["scores"]
    criteria: Annotated[tuple[JudgedCriterion, ...], Field(min_length=1)]
    """What answers are judged by, one request for each."""
    lowest: int = 1
    """The worst number."""
    highest: int = 10
    """The best number."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> Self:
        refuse_repeated((one.name for one in self.criteria), "criteria")
        if self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest}) must be less than highest ({self.highest})")
        return self


Judging = Annotated[PairJudging | ScoreJudging, Field(discriminator="type")]


class CompareSpec(JobSpec):
    """Sets the answers of two or more models to the same prompts side by side, and has a judge say which are better.

    A job that was stopped goes on where it was: nothing is asked twice. Answers are in answers.jsonl, every judgement
    in judgements.jsonl, and pairs that `train` reads as preferences in pairs.jsonl. `rayloom rate NAME` lets people
    judge the same answers, and says how far they and the judge agree.
    """

    kind: Literal["compare"]
    data: GivenRows
    """The prompts."""
    models: Annotated[tuple[Compared, ...], Field(min_length=2)]
    """What is compared."""
    judge: Engine | None = None
    """The model that judges. Default: none; the answers wait for people."""
    judging: Judging = PairJudging(type="pairs")
    """How the judge is asked."""
    rubric: str | None = None
    """File with what the judge is asked, a Jinja template; a path begins at the job file's folder. It may use `row`
    (all columns), `prompt`, and `first` and `second`, or with scores `answer`, `criterion`, `description`, `lowest` and
    `highest`. Default: the shipped one. The result holds it as rubric.jinja, to copy and edit."""
    max_reply_tokens: Annotated[int, Field(ge=1)] = 16
    """Longest reply of the judge. More where a rubric lets it think first: the verdict is then the last [[A]], [[B]] or
    [[C]], or the last number."""
    min_judged_share: Share = 0.8
    """The job fails if the judge gives a verdict on a smaller share of what it is asked."""
    sampling: Sampling = Sampling(temperature=0.0)
    """How the models' answers are drawn. The judge's are always the likeliest."""
    system: str | None = None
    """System message before every prompt. Default: whatever chat template or endpoint do by themselves."""

    def bundles(self) -> list[Bundle]:
        """Of the largest: models and judge work one after the other."""
        engines = [one.bundles() for one in (*self.models, self.judge) if isinstance(one, ModelEngine | EndpointEngine)]
        return max(engines, key=lambda own: sum(bundle.cpus + bundle.gpus for bundle in own), default=[])

    def outside_files(self) -> Iterator[OutsideFiles]:
        if self.rubric is not None:
            yield OutsideFiles("rubric", self.rubric)
        yield from _at_uri("data", self.data)
        for number, one in enumerate(self.models):
            if isinstance(one, ComparedFile):
                yield from _at_uri(f"models.{number}", one)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.models]
        refuse_repeated(names, "models")
        against = getattr(self.judging, "against", None)
        if against is not None and against not in names:
            raise ValueError(f"judging.against names {against}, which is none of models: {', '.join(names)}")
        if self.judge is None and self.rubric is not None:
            raise ValueError("a rubric is for a judge: name one, or leave rubric out")
        return self


def _at_uri(field: str, source: SourceOfRows) -> Iterator[OutsideFiles]:
    for found in files_at_uris(field, (source,)):
        yield OutsideFiles(f"{field}.uri", found.location, found.pattern, found.subset, found.split)
