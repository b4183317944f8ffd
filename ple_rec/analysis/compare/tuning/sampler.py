"""The values that trials try: Optuna's TPE, asked for a batch at a time.

The values of a trial follow from the space, its number and the results of earlier *batches*: `START` trials drawn at
random, then `BATCH` at a time by TPE, however many of the first ones failed, each batch with a seed of its own. So they
depend neither on how many run side by side, nor on the order in which they end, nor on interruptions, and more trials
go on as if they had been asked for at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ple_rec.analysis.compare.tuning.space import Dimension, Space

START, BATCH = 10, 4


@dataclass(frozen=True)
class Result:
    """What came of a trial.

    Args:
        values: That it tried, by key.
        score: On the validation split, the higher the better; None: it failed.
    """

    values: Mapping[str, Any]
    score: float | None


def batch_of(number: int) -> range:
    """The batch that a trial belongs to."""
    if number < START:
        return range(START)
    first = number - (number - START) % BATCH
    return range(first, first + BATCH)


def ask(space: Space, first: int, count: int, earlier: Sequence[Result]) -> list[dict[str, Any]]:
    """The values of the trials of a batch, from its first one on.

    Args:
        space: Keys with their ranges.
        first: Number of the batch's first trial; it seeds the draws.
        count: How many; fewer are the first of more.
        earlier: Results of the trials before the batch. One whose values lie outside the space is not told to TPE.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    at_random = 1 if first else START  # until so many have been told; those that failed do not count
    sampler = optuna.samplers.TPESampler(n_startup_trials=at_random, seed=first)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for result in earlier:
        if (trial := _told(space, distributions, result)) is not None:
            study.add_trial(trial)
    asked = [study.ask(distributions).params for _ in range(count)]
    return [{dimension.key: _value(dimension, params[dimension.key]) for dimension in space} for params in asked]


def _distribution(dimension: Dimension) -> BaseDistribution:
    given = dimension.given
    if given.choices is not None:
        return CategoricalDistribution(range(len(given.choices)))  # by their places, as a list is no choice of Optuna's
    low, high = dimension.limits
    if dimension.whole:
        return IntDistribution(low, high, log=given.log)
    return FloatDistribution(low, high, log=given.log)


def _told(space: Space, distributions: Mapping[str, BaseDistribution], result: Result) -> FrozenTrial | None:
    params = {dimension.key: _place(dimension, result.values.get(dimension.key)) for dimension in space}
    if any(param is None for param in params.values()):
        return None
    state = TrialState.FAIL if result.score is None else TrialState.COMPLETE
    return create_trial(state=state, value=result.score, params=params, distributions=dict(distributions))


def _place(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna knows it; None where it lies outside the space."""
    if dimension.given.choices is not None:
        known = [_plain(choice) for choice in dimension.given.choices]
        return known.index(_plain(value)) if _plain(value) in known else None
    low, high = dimension.limits
    return value if isinstance(value, int | float) and low <= value <= high else None


def _value(dimension: Dimension, param: Any) -> Any:
    return param if dimension.given.choices is None else _plain(dimension.given.choices[param])


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value
