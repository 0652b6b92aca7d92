"""`searcher` and `scheduler` of a search: how points are chosen, and which trials are stopped early."""

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import SearchRef, Spec


class GridSearcher(Spec):
    """Every combination of the space once; for choices, multiples and whole numbers, not for ranges of real numbers."""

    type: Literal["grid"]


class RandomSearcher(Spec):
    """Independent random points (Bergstra & Bengio 2012)."""

    type: Literal["random"]


class TpeSearcher(Spec):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), by Optuna; also for two objectives."""

    type: Literal["tpe"]
    random_trials: Annotated[int, Field(ge=1)] = 8
    """Trials, warm-start trials included, before the model chooses values; until then they are drawn at random."""
    warm_start: tuple[SearchRef, ...] = ()
    """Artifacts of earlier searches over the same paths. The searcher learns from their trials before the first new
    one."""


class GaussianProcessSearcher(Spec):
    """Bayesian optimisation with a Gaussian process, by Optuna; for few and expensive trials."""

    type: Literal["gaussian_process"]
    random_trials: Annotated[int, Field(ge=1)] = 8
    """Trials, warm-start trials included, before the model chooses values; until then they are drawn at random."""
    warm_start: tuple[SearchRef, ...] = ()
    """Artifacts of earlier searches over the same paths. The searcher learns from their trials before the first new
    one."""


class BohbSearcher(Spec):
    """BOHB: a TPE model of the largest step at which enough trials were measured (Falkner et al. 2018).

    Meant for `asha` and `hyperband`, which let few trials run long; a share of the trials is random, as in the paper.
    """

    type: Literal["bohb"]
    random_share: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    """Part of the trials whose values are drawn at random."""
    min_points: Annotated[int, Field(ge=2)] | None = None
    """Trials that must be measured at a step before a model of that step is used. Default: one more than the space has
    dimensions."""


Searcher = Annotated[
    GridSearcher | RandomSearcher | TpeSearcher | GaussianProcessSearcher | BohbSearcher, Field(discriminator="type")
]


class NoScheduler(Spec):
    """Every trial runs to its end."""

    type: Literal["none"]


class AshaScheduler(Spec):
    """Asynchronous successive halving (Li et al. 2020), the variant that stops trials rather than promoting them.

    At grace_steps × reduction_factor^k a trial continues only if it is among the best 1/reduction_factor of the trials
    that have reached this step so far.
    """

    type: Literal["asha"]
    grace_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps that every trial may run. Default: evaluate_every_steps of the training job."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """At each comparison, the best 1/reduction_factor of the trials continue."""


class HyperbandScheduler(Spec):
    """Asynchronous Hyperband (Li et al. 2020, section 3.3): ASHA in several brackets with different first rungs.

    The first rung of bracket s is grace_steps × reduction_factor^s; trials are assigned to brackets in Hyperband's
    proportions (Li et al. 2018), so that a metric that misleads at early steps cannot spoil the whole search.
    """

    type: Literal["hyperband"]
    grace_steps: Annotated[int, Field(ge=1)] | None = None
    """First step at which trials are compared, in the bracket that compares earliest. Default: as with asha."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """At each comparison, the best 1/reduction_factor of the trials continue."""
    num_brackets: Annotated[int, Field(ge=2)] = 2
    """Number of brackets. Each compares its own trials only, and each first compares reduction_factor times later than
    the one before."""


class MedianScheduler(Spec):
    """Stops a trial whose best value is worse than the median of the others' means so far (Golovin et al. 2017)."""

    type: Literal["median"]
    grace_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps that every trial may run. Default: evaluate_every_steps of the training job."""
    min_trials: Annotated[int, Field(ge=2)] = 3
    """A trial is stopped only if at least this many others were measured at its step."""


class PopulationScheduler(Spec):
    """Population-based training (Jaderberg et al. 2017), synchronous (appendix A.1 there).

    All members train interval_steps; then each of the worst continues from the weights and optimiser state of one of
    the best, with changed values. Nothing depends on wall-clock order, so the same seed gives the same search.
    """

    type: Literal["population"]
    num_members: Annotated[int, Field(ge=2)] = 4
    """Number of trials in the population, all trained at once."""
    interval_steps: Annotated[int, Field(ge=1)]
    """Training steps between two comparisons of the members."""
    exchanged_share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Part of the members that is replaced at each interval by copies of the same number of the best."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Probability that a value is drawn anew rather than moved."""
    factors: Annotated[tuple[float, ...], Field(min_length=1)] = (0.8, 1.25)
    """Factors by which a number is multiplied; a choice moves to a neighbouring value."""


Scheduler = Annotated[
    NoScheduler | AshaScheduler | HyperbandScheduler | MedianScheduler | PopulationScheduler,
    Field(discriminator="type"),
]
