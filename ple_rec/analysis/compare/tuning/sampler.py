"""The space of settings that a tuning searches, and the samplers of Optuna that propose the next one.

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

from ple_rec.analysis.compare.equal_cost import UNITS, check_size, cost_of
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.config.compare import RangeConfig, TuneConfig
from ple_rec.config.diff import leaves
from ple_rec.config.load import with_overrides
from ple_rec.config.overrides import parse_override
from ple_rec.config.run import RunConfig
from ple_rec.config.words import toml_value
from ple_rec.data.dataset import Dataset
from ple_rec.errors import Option, UserError
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer

DEFAULT = {
    "dense_optimizer.learning_rate": RangeConfig(low=3e-4, high=3e-2, log=True),
    "table_optimizer.learning_rate": RangeConfig(low=2e-3, high=0.2, log=True),
    "model.dropout": RangeConfig(low=0.0, high=0.6),
    "model.input_dropout": RangeConfig(low=0.0, high=0.3),
}
_OF_TABLES = "table_optimizer."
_SAME = "all trials and variants are of the same samples, tasks and metric"
_APART = "it tells runs apart, or says where and how they run; a trial changes what a run learns"
_FIXED = {  # key, or table: why it is no trial's to change
    **dict.fromkeys(("data", "tasks", "evaluation", "train.best_metric", "early_stopping.metric"), _SAME),
    **dict.fromkeys(("name", "seed", "model.variant", "watch", "checkpoint", "runtime", "topology"), _APART),
    **dict.fromkeys(
        ("train.batch_size", "train.batch_size_per_rank"),
        "gains are paired by seed: runs of one seed see the same samples in the same order",
    ),
}


@dataclass(frozen=True)
class Dimension:
    """A key of the space.

    Args:
        key: Of a run's configuration.
        given: Its range, or its choices.
        whole: Whether the numbers of the range are ints.
    """

    key: str
    given: RangeConfig
    whole: bool = False

    @property
    def limits(self) -> list[Any]:
        """Values by which all of them are checked: the ends of a range, or every choice."""
        if self.given.choices is not None:
            return list(self.given.choices)
        assert self.given.low is not None
        assert self.given.high is not None
        kind = int if self.whole else float
        return [kind(self.given.low), kind(self.given.high)]


Space = tuple[Dimension, ...]


def space_of(matrix: Matrix, asked: TuneConfig) -> Space:
    """The space of a comparison's trials, once each of its values was tried on each variant's configuration.

    Args:
        matrix: The comparison, its cost made equal.
        asked: Its `[tune]`; without a space the default is taken, without the tables' optimizer where there are none.

    Raises:
        UserError: a key that is no trial's to change, or that changes a cost which was made equal; or variants that
            are judged by different metrics.
        ConfigError: a variant's configuration has no such key, or refuses a value.
    """
    judges = {_judge(variant.config): name for name, variant in matrix.variants.items()}
    if len(judges) > 1:
        told = ", ".join(f"{name} has {judge}" for judge, name in judges.items())
        raise UserError(
            "train.best_metric",
            told,
            f"by it trials are judged, and {_SAME}",
            f"give all the same, by {Option.OVERRIDES}",
        )
    first = next(iter(matrix.variants.values()))
    tables = select(first.config, Dataset(first.config.data.path)).sparse
    default = {key: given for key, given in DEFAULT.items() if tables or not key.startswith(_OF_TABLES)}
    given = asked.space or default
    for key in given:
        _check_key(key)
    space = tuple(Dimension(key, each, _whole(each, settings_of(first.config, key))) for key, each in given.items())
    for variant in matrix.variants.values():
        for dimension in space:
            _check(matrix, variant, dimension)
    return space


def settings_of(config: RunConfig, *keys: str) -> dict[str, Any]:
    """What a configuration has at keys; those without a value are left out."""
    found = dict(leaves(config))
    return {key: found[key] for key in keys if found.get(key) is not None}


def changed(name: str, config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A variant's configuration with other values.

    Raises:
        ConfigError: it has no such key, or refuses a value.
    """
    texts = [f"{key}={toml_value(value)}" for key, value in values.items()]
    return with_overrides(config, texts, f"variants.{name}, tuned with {', '.join(texts)}")


def _judge(config: RunConfig) -> str:
    """By what the trials of a configuration are judged, in words."""
    metric, weights = config.train.best_metric, [task.weight for task in config.tasks]
    if metric != "loss" or set(weights) <= {1.0}:
        return metric
    return f"{metric} (weights {', '.join(f'{weight:g}' for weight in weights)})"


def _check_key(key: str) -> None:
    place = f'tune.space."{key}"'
    try:
        parse_override(f"{key}=0")
    except UserError as error:
        rule = "a key of a run's configuration is needed"
        raise UserError(place, error.value, rule, 'write for example "model.dropout"') from None
    for fixed, why in _FIXED.items():
        if key == fixed or key.startswith((f"{fixed}.", f"{fixed}[")):
            raise UserError(place, "is no trial's to change", why, "leave it out of the space")


def _whole(given: RangeConfig, now: Mapping[str, Any]) -> bool:
    """Ints from ints, unless the key holds a float: `{low = 0, high = 1}` of a dropout means all between."""
    ints = isinstance(given.low, int) and isinstance(given.high, int)
    return ints and not any(isinstance(value, float) for value in now.values())


def _check(matrix: Matrix, variant: Variant, dimension: Dimension) -> None:
    for value in dimension.limits:
        config = changed(variant.name, variant.config, {dimension.key: value})
        tasks = [task.name for task in matrix.tasks]
        width, _ = first_layer(config, select(config, Dataset(config.data.path)))
        check_size(config, tasks, width)
        if matrix.match == "none":
            continue
        field, unit = UNITS[matrix.match]
        cost = cost_of(config, tasks, width)
        before, after = getattr(variant.cost, field), getattr(cost, field)
        if before != after:
            raise UserError(
                f'tune.space."{dimension.key}"',
                f"{toml_value(value)} changes {variant.name} from {before:,} to {after:,} {unit}",
                f'cost is matched before tuning (match = "{matrix.match}"), so that a gain is not one of size',
                'leave sizes out of the space, or set match = "none"',
            )


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
