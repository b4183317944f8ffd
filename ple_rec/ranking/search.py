"""The search for exponents: many settings at random, then Optuna's TPE (or NSGA-II for several targets) around them.

All settings of a batch are evaluated together. The first ones are a scrambled Sobol sequence over the ranges (Owen's
scrambling, seeded), which covers them more evenly than chance; their results are told to the sampler, whose batches are
of one size and so do not depend on anything but the seed. TPE is told all of them; the best ones, front by front, are
NSGA-II's first generation, the parents of its first batch.

A setting that breaks a constraint loses to every one that keeps all; among themselves such settings are ranked by the
sum of what the constraints lack, in units of their bounds.

Shape suffixes: K factors, W settings, T targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError
from ple_rec.ranking.metrics import Measured

Floats = NDArray[np.float64]
Evaluate = Callable[[Floats], Mapping[Measured, Floats]]
_BATCH = 16
_BROKEN = -1e9  # the score of a setting that breaks a constraint, less what it lacks: below any metric


@dataclass(frozen=True)
class Range:
    """Of an exponent.

    Args:
        name: Of the factor.
        low: Least.
        high: Greatest; equal to `low` for one that is not searched.
    """

    name: str
    low: float
    high: float

    def neutral(self) -> Range:
        """The same factor with one exponent: 0, or what is nearest to it in the range."""
        exponent = min(max(0.0, self.low), self.high)
        return Range(self.name, exponent, exponent)

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> Range:
        """`NAME=LOW:HIGH` or `NAME=VALUE`.

        Raises:
            UserError: it is neither, or no factor has the name.
        """
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            found = cls(name, float(low), float(high or low))
        except ValueError:
            found = None
        if found is None or not np.isfinite([found.low, found.high]).all() or found.low > found.high:
            rule = "a range is NAME=LOW:HIGH, a fixed exponent NAME=VALUE"
            raise UserError("--exponent", f'got "{text}"', rule, "for example --exponent share=0:2")
        if name not in names:
            raise UserError("--exponent", f'got "{name}"', f"the factors are {', '.join(names)}", "name one of them")
        return found


@dataclass(frozen=True)
class Constraint:
    """A metric that may not fall below, or rise above, a bound.

    Args:
        measured: The metric.
        at_least: Else at most.
        bound: Of it.
    """

    measured: Measured
    at_least: bool
    bound: float

    @classmethod
    def parse(cls, text: str, tasks: dict[str, str]) -> Constraint:
        """`METRIC>=VALUE` or `METRIC<=VALUE`.

        Raises:
            UserError: it is neither, or the value is not finite.
        """
        for sign in (">=", "<="):
            name, found, value = text.partition(sign)
            if found:
                try:
                    bound = float(value)
                except ValueError:
                    break
                if not np.isfinite(bound):
                    break
                return cls(Measured.parse(name.strip(), tasks, "--subject-to"), sign == ">=", bound)
        rule = "it is METRIC>=VALUE or METRIC<=VALUE, with a finite value"
        raise UserError("--subject-to", f'got "{text}"', rule, "for example --subject-to 'share.mean@5>=0.02'")

    def lacks(self, value_W: Floats) -> Floats:
        """How far each value is from what it may be, in units of the bound; 0 where it is kept."""
        short_W = self.bound - value_W if self.at_least else value_W - self.bound
        return np.asarray(np.maximum(short_W, 0.0) / max(abs(self.bound), 1e-12))

    def __str__(self) -> str:
        return f"{self.measured} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Found:
    """What was tried.

    Args:
        exponents_WK: Every setting, in the order in which it was tried.
        values: Every metric of each, (W,).
        lacking_W: 0 where all constraints are kept.
        best: The best setting; of several targets one on the front (the first by the first target).
        front: Settings that no other one beats in all targets, ascending by the first; of a single target `best` alone.
    """

    exponents_WK: Floats
    values: Mapping[Measured, Floats]
    lacking_W: Floats
    best: int
    front: tuple[int, ...]


def search(
    evaluate: Evaluate,
    ranges: Sequence[Range],
    targets: Sequence[Measured],
    constraints: Sequence[Constraint] = (),
    *,
    start_K: Floats,
    grid: int = 1024,
    trials: int = 512,
    seed: int = 0,
) -> Found:
    """Search for the exponents that make the targets greatest, all constraints kept.

    Args:
        evaluate: Gives every metric of settings (W, K), of the targets and of the constraints.
        ranges: Of each of the K factors.
        targets: One, or several, between which the front trades.
        constraints: Of any metric.
        start_K: The setting that is tried first, once it was brought within the ranges.
        grid: Settings at random, before
        trials: those that the sampler asks for.
        seed: Of both.

    Raises:
        UserError: no setting keeps all constraints.
    """
    low_K, high_K = (np.array([getattr(r, end) for r in ranges]) for end in ("low", "high"))
    tried = [np.concatenate([start_K.clip(low_K, high_K)[None], _sobol(low_K, high_K, grid, seed)])]
    told = [_told(evaluate(tried[0]), targets, constraints)]
    if trials and any(r.low < r.high for r in ranges):
        sampler = _Sampler(ranges, tried[0], told[0].score_WT, seed)
        for begin in range(0, trials, _BATCH):
            asked = sampler.ask(min(_BATCH, trials - begin))
            tried.append(asked)
            told.append(_told(evaluate(asked), targets, constraints))
            sampler.tell_asked(told[-1].score_WT)
    exponents_WK = np.concatenate(tried)
    values = {measured: np.concatenate([part.values[measured] for part in told]) for measured in told[0].values}
    lacking_W = np.concatenate([part.lacking_W for part in told])
    score_WT = np.concatenate([part.score_WT for part in told])
    if lacking_W.min() > 0:
        nearest = int(lacking_W.argmin())
        have = ", ".join(f"{c.measured} {values[c.measured][nearest]:.5g}" for c in constraints)
        raise UserError(
            "--subject-to",
            " and ".join(map(str, constraints)),
            f"none of {len(lacking_W):,} settings keeps this; the nearest has {have}",
            "relax the bounds, or widen the exponents' ranges by --exponent",
        )
    front = _front(score_WT, lacking_W)
    return Found(exponents_WK, values, lacking_W, front[-1], tuple(front))


@dataclass(frozen=True)
class _Told:
    values: Mapping[Measured, Floats]
    lacking_W: Floats
    score_WT: Floats


def _told(values: Mapping[Measured, Floats], targets: Sequence[Measured], constraints: Sequence[Constraint]) -> _Told:
    value_WT = np.stack([values[target] for target in targets], axis=1)
    lacks = [constraint.lacks(values[constraint.measured]) for constraint in constraints]
    lacking_W = np.sum(lacks, axis=0) if lacks else np.zeros(len(value_WT))
    score_WT = np.where(lacking_W[:, None] > 0, _BROKEN - lacking_W[:, None], value_WT)
    return _Told(values, lacking_W, score_WT)


def _front(score_WT: Floats, lacking_W: Floats) -> list[int]:
    """Of those that keep the constraints, the ones that no other beats; ascending by the first target."""
    kept = np.flatnonzero(lacking_W <= 0)
    order = kept[np.lexsort((kept, *(-score_WT[kept, t] for t in reversed(range(score_WT.shape[1])))))]
    front: list[int] = []
    for i in order.tolist():  # the first target falls
        if not any((score_WT[j] >= score_WT[i]).all() for j in front):
            front.append(i)
    return front[::-1]


def _sobol(low_K: Floats, high_K: Floats, count: int, seed: int) -> Floats:
    from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy has no stubs

    if not count:
        return np.empty((0, len(low_K)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a count that is no power of two: balance is all that is lost
        points_WK = qmc.Sobol(len(low_K), seed=seed).random(count)
    return np.asarray(low_K + points_WK * (high_K - low_K))


def _fronts(score_WT: Floats, count: int) -> list[int]:
    """The best settings: front by front, of the one that does not fit as a whole some that are spread over it."""
    chosen: list[int] = []
    left = np.arange(len(score_WT))
    while len(chosen) < count and len(left):
        front = _front(score_WT[left], np.zeros(len(left)))
        room = min(count - len(chosen), len(front))
        spread = np.unique(np.linspace(0, len(front) - 1, room).round().astype(int)).tolist()
        chosen += left[[front[place] for place in spread]].tolist()
        left = np.delete(left, front)
    return chosen


class _Sampler:
    """Optuna's, asked and told in batches.

    Args:
        ranges: Of the factors.
        exponents_WK: Settings that were tried before.
        score_WT: Theirs.
        seed: Of the sampler.
    """

    def __init__(self, ranges: Sequence[Range], exponents_WK: Floats, score_WT: Floats, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._ranges = list(ranges)
        self._of = {r.name: optuna.distributions.FloatDistribution(r.low, r.high) for r in ranges if r.low < r.high}
        directions = ["maximize"] * score_WT.shape[1]
        self._asked: list[optuna.trial.Trial] = []
        if len(directions) == 1:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
            self._study = optuna.create_study(directions=directions, sampler=sampler)
            for row, scores in zip(exponents_WK.tolist(), score_WT.tolist(), strict=True):
                trial = optuna.trial.create_trial(params=self._params(row), distributions=dict(self._of), values=scores)
                self._study.add_trial(trial)
        else:
            first = _fronts(score_WT, _BATCH)
            genetic = optuna.samplers.NSGAIISampler(seed=seed, population_size=len(first))
            self._study = optuna.create_study(directions=directions, sampler=genetic)
            for row in exponents_WK[first].tolist():
                self._study.enqueue_trial(self._params(row))
            self.ask(len(first))
            for asked in self._study.get_trials(deepcopy=False):
                genetic.get_trial_generation(self._study, asked)  # sets it; one of no generation would be passed over
            self.tell_asked(score_WT[first])

    def ask(self, count: int) -> Floats:
        self._asked = [self._study.ask(dict(self._of)) for _ in range(count)]
        return np.array([[t.params.get(r.name, r.low) for r in self._ranges] for t in self._asked])

    def tell_asked(self, score_WT: Floats) -> None:
        for trial, scores in zip(self._asked, score_WT.tolist(), strict=True):
            self._study.tell(trial, scores)

    def _params(self, exponents_K: Sequence[float]) -> dict[str, float]:
        return {r.name: value for r, value in zip(self._ranges, exponents_K, strict=True) if r.name in self._of}
