"""Search for the exponents of a score fusion: many random settings, then Optuna's TPE (or NSGA-II for several targets).

A setting is one choice of all exponents. The settings of a batch are evaluated together. The first batch is the start
setting and a scrambled Sobol sequence (Owen's scrambling, seeded), which covers the ranges more evenly than independent
draws. TPE learns from all results of this batch. NSGA-II takes the best of them, Pareto front by Pareto front, as its
first generation, the parents of its first proposals. The later batches have a fixed size, so that the result depends on
the seed alone.

A setting that breaks a constraint ranks below every setting that keeps all constraints. Settings that break constraints
are ranked by the sum of their violations, each divided by the absolute value of its bound.

Shape suffixes: K factors, W settings, T targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError
from ple_rec.ranking.metrics import MetricName

Floats = NDArray[np.float64]
Evaluate = Callable[[Floats], Mapping[MetricName, Floats]]
# Number of settings that the sampler proposes at a time.
_BATCH = 16
# The score of a setting that breaks a constraint is this number, which is below any metric, minus the violation.
_BROKEN = -1e9


@dataclass(frozen=True)
class ExponentRange:
    """Range of an exponent.

    Args:
        name: Name of the factor.
        low: Smallest exponent.
        high: Largest exponent; equal to `low` for a fixed exponent.
    """

    name: str
    low: float
    high: float

    def neutral(self) -> ExponentRange:
        """Return a range of one fixed exponent, the one of this range that is nearest to 0.

        A factor that changes no order gets this range, since its exponent has no effect.
        """
        exponent = min(max(0.0, self.low), self.high)
        return ExponentRange(self.name, exponent, exponent)

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> ExponentRange:
        """Return the range of a text `NAME=LOW:HIGH` or `NAME=VALUE`.

        Raises:
            UserError: The text has neither form, a value is not finite, LOW is above HIGH, or no factor has the name.
        """
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            parsed = cls(name, float(low), float(high or low))
        except ValueError:
            parsed = None
        if parsed is None or not np.isfinite([parsed.low, parsed.high]).all() or parsed.low > parsed.high:
            rule = "a range is NAME=LOW:HIGH, a fixed exponent NAME=VALUE"
            raise UserError("--exponent", f'got "{text}"', rule, "for example --exponent share=0:2")
        if name not in names:
            raise UserError("--exponent", f'got "{name}"', f"the factors are {', '.join(names)}", "name one of them")
        return parsed


@dataclass(frozen=True)
class Constraint:
    """Lower or upper bound of a metric.

    Args:
        metric: Name of the metric.
        is_lower_bound: True for a lower bound, False for an upper one.
        bound: Value of the bound.
    """

    metric: MetricName
    is_lower_bound: bool
    bound: float

    @classmethod
    def parse(cls, text: str, tasks: dict[str, str]) -> Constraint:
        """Return the constraint of a text `METRIC>=VALUE` or `METRIC<=VALUE`.

        Raises:
            UserError: The text has neither form, METRIC names no metric, or the value is not finite.
        """
        for relation in (">=", "<="):
            name, separator, value = text.partition(relation)
            if separator:
                try:
                    bound = float(value)
                except ValueError:
                    break
                if not np.isfinite(bound):
                    break
                return cls(MetricName.parse(name.strip(), tasks, "--subject-to"), relation == ">=", bound)
        rule = "it is METRIC>=VALUE or METRIC<=VALUE, with a finite value"
        raise UserError("--subject-to", f'got "{text}"', rule, "for example --subject-to 'share.mean@5>=0.02'")

    def violation(self, value_W: Floats) -> Floats:
        """Return how far each value is beyond the bound, divided by the bound's absolute value; 0 if it is not."""
        excess_W = self.bound - value_W if self.is_lower_bound else value_W - self.bound
        return np.asarray(np.maximum(excess_W, 0.0) / max(abs(self.bound), 1e-12))

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.is_lower_bound else '<='} {self.bound:g}"


@dataclass(frozen=True)
class SearchResult:
    """Settings that a search has tried, with their metrics.

    Args:
        exponents_WK: Exponents of every setting, in the order of the search.
        values: Value of the metric for every setting, (W,), by name of the metric.
        violation_W: Sum of a setting's violations; 0 if it keeps all constraints.
        best: Index of the best setting; with several targets, that of the setting on the front with the best first
            target.
        front: Indices of the settings on the Pareto front of the targets, ascending by the first target. With one
            target, this is `best` alone.
    """

    exponents_WK: Floats
    values: Mapping[MetricName, Floats]
    violation_W: Floats
    best: int
    front: tuple[int, ...]


def search(
    evaluate: Evaluate,
    ranges: Sequence[ExponentRange],
    targets: Sequence[MetricName],
    constraints: Sequence[Constraint] = (),
    *,
    start_K: Floats,
    grid: int = 1024,
    trials: int = 512,
    seed: int = 0,
) -> SearchResult:
    """Search for the exponents that maximise the targets and keep all constraints.

    Args:
        evaluate: Function that returns the metrics of targets and constraints for settings (W, K).
        ranges: Range of each of the K exponents.
        targets: Metrics to maximise. With several ones, the result is the Pareto front.
        constraints: Bounds of metrics.
        start_K: First setting, which is clipped to the ranges.
        grid: Number of settings of the Sobol sequence.
        trials: Number of settings that the sampler proposes afterwards; without a range to search, it proposes none.
        seed: Seed of the Sobol sequence and of the sampler.

    Raises:
        UserError: No setting keeps all constraints.
    """
    low_K, high_K = (np.array([getattr(r, end) for r in ranges]) for end in ("low", "high"))
    settings = [np.concatenate([start_K.clip(low_K, high_K)[None], _sobol(low_K, high_K, grid, seed)])]
    batches = [_score(evaluate(settings[0]), targets, constraints)]
    if trials and any(r.low < r.high for r in ranges):
        sampler = _Sampler(ranges, settings[0], batches[0].score_WT, seed)
        for begin in range(0, trials, _BATCH):
            proposed_WK = sampler.ask(min(_BATCH, trials - begin))
            settings.append(proposed_WK)
            batches.append(_score(evaluate(proposed_WK), targets, constraints))
            sampler.tell(batches[-1].score_WT)
    exponents_WK = np.concatenate(settings)
    values = {name: np.concatenate([batch.values[name] for batch in batches]) for name in batches[0].values}
    violation_W = np.concatenate([batch.violation_W for batch in batches])
    score_WT = np.concatenate([batch.score_WT for batch in batches])
    if violation_W.min() > 0:
        nearest = int(violation_W.argmin())
        metrics = ", ".join(f"{c.metric} {values[c.metric][nearest]:.5g}" for c in constraints)
        raise UserError(
            "--subject-to",
            " and ".join(map(str, constraints)),
            f"none of {len(violation_W):,} settings keeps this; the nearest has {metrics}",
            "relax the bounds, or widen the exponents' ranges by --exponent",
        )
    front = _front(score_WT, violation_W)
    return SearchResult(exponents_WK, values, violation_W, front[-1], tuple(front))


@dataclass(frozen=True)
class _ScoredBatch:
    values: Mapping[MetricName, Floats]
    violation_W: Floats
    score_WT: Floats


def _score(
    values: Mapping[MetricName, Floats], targets: Sequence[MetricName], constraints: Sequence[Constraint]
) -> _ScoredBatch:
    value_WT = np.stack([values[target] for target in targets], axis=1)
    violations = [constraint.violation(values[constraint.metric]) for constraint in constraints]
    violation_W = np.sum(violations, axis=0) if violations else np.zeros(len(value_WT))
    score_WT = np.where(violation_W[:, None] > 0, _BROKEN - violation_W[:, None], value_WT)
    return _ScoredBatch(values, violation_W, score_WT)


def _front(score_WT: Floats, violation_W: Floats) -> list[int]:
    """Return the indices of the settings on the Pareto front that keep the constraints, by ascending first target."""
    valid = np.flatnonzero(violation_W <= 0)
    order = valid[np.lexsort((valid, *(-score_WT[valid, t] for t in reversed(range(score_WT.shape[1])))))]
    front: list[int] = []
    # The first target falls along `order`, so a setting can only be dominated by one that came before it.
    for i in order.tolist():
        if not any((score_WT[j] >= score_WT[i]).all() for j in front):
            front.append(i)
    return front[::-1]


def _sobol(low_K: Floats, high_K: Floats, count: int, seed: int) -> Floats:
    from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy has no stubs

    if not count:
        return np.empty((0, len(low_K)))
    with warnings.catch_warnings():
        # scipy warns if the count is no power of two, with which a Sobol sequence is less even.
        warnings.simplefilter("ignore", UserWarning)
        points_WK = qmc.Sobol(len(low_K), seed=seed).random(count)
    return np.asarray(low_K + points_WK * (high_K - low_K))


def _best_of_fronts(score_WT: Floats, count: int) -> list[int]:
    """Return the indices of up to `count` settings, front by front; those of the last front are spread over it."""
    selection: list[int] = []
    rest = np.arange(len(score_WT))
    while len(selection) < count and len(rest):
        front = _front(score_WT[rest], np.zeros(len(rest)))
        room = min(count - len(selection), len(front))
        spread = np.unique(np.linspace(0, len(front) - 1, room).round().astype(int)).tolist()
        selection += rest[[front[place] for place in spread]].tolist()
        rest = np.delete(rest, front)
    return selection


class _Sampler:
    """Optuna's TPE, or NSGA-II for several targets, which proposes settings in batches.

    Args:
        ranges: Range of each exponent.
        exponents_WK: Settings that have been evaluated before.
        score_WT: Scores of these settings.
        seed: Seed of the sampler.
    """

    def __init__(self, ranges: Sequence[ExponentRange], exponents_WK: Floats, score_WT: Floats, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._ranges = list(ranges)
        self._distributions = {
            r.name: optuna.distributions.FloatDistribution(r.low, r.high) for r in ranges if r.low < r.high
        }
        directions = ["maximize"] * score_WT.shape[1]
        self._trials: list[optuna.trial.Trial] = []
        if len(directions) == 1:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
            self._study = optuna.create_study(directions=directions, sampler=sampler)
            for row, scores in zip(exponents_WK.tolist(), score_WT.tolist(), strict=True):
                trial = optuna.trial.create_trial(
                    params=self._params(row), distributions=dict(self._distributions), values=scores
                )
                self._study.add_trial(trial)
        else:
            first = _best_of_fronts(score_WT, _BATCH)
            genetic = optuna.samplers.NSGAIISampler(seed=seed, population_size=len(first))
            self._study = optuna.create_study(directions=directions, sampler=genetic)
            for row in exponents_WK[first].tolist():
                self._study.enqueue_trial(self._params(row))
            self.ask(len(first))
            # This call sets the generation of a trial. The sampler would ignore a trial without a generation.
            for trial in self._study.get_trials(deepcopy=False):
                genetic.get_trial_generation(self._study, trial)
            self.tell(score_WT[first])

    def ask(self, count: int) -> Floats:
        """Return the next settings to evaluate."""
        self._trials = [self._study.ask(dict(self._distributions)) for _ in range(count)]
        return np.array([[t.params.get(r.name, r.low) for r in self._ranges] for t in self._trials])

    def tell(self, score_WT: Floats) -> None:
        """Record the scores of the settings that the last call of `ask` has returned."""
        for trial, scores in zip(self._trials, score_WT.tolist(), strict=True):
            self._study.tell(trial, scores)

    def _params(self, exponents_K: Sequence[float]) -> dict[str, float]:
        return {
            r.name: value for r, value in zip(self._ranges, exponents_K, strict=True) if r.name in self._distributions
        }
