"""Search space of the tuning in a comparison, and the values that Optuna proposes for its trials.

A trial is one training of a variant (a model configuration) with values from the space. Trial 0 has the values of the
configuration itself (study.py), and the other ones of the first `STARTUP_TRIALS` trials are drawn at random. Then TPE
proposes `BATCH_TRIALS` trials at a time, each batch with a seed of its own. So the values of a trial follow from the
space, its number and the results of earlier *batches*. They depend neither on the number of parallel trials, nor on the
order in which these end, nor on interruptions. If a user adds trials later, their values are the same as if all had
been requested at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ple_rec.analysis.compare.equal_cost import UNITS, check_size, compute_cost
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.config.compare import RangeConfig, TuneConfig
from ple_rec.config.diff import leaves
from ple_rec.config.load import with_overrides
from ple_rec.config.overrides import parse_override
from ple_rec.config.run import RunConfig
from ple_rec.config.words import toml_value
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import first_layer_shape

DEFAULT_SPACE = {
    "dense_optimizer.learning_rate": RangeConfig(low=3e-4, high=3e-2, log=True),
    "table_optimizer.learning_rate": RangeConfig(low=2e-3, high=0.2, log=True),
    "model.dropout": RangeConfig(low=0.0, high=0.6),
    "model.input_dropout": RangeConfig(low=0.0, high=0.3),
}
_TABLE_KEYS = "table_optimizer."
_SAME_FOR_ALL = "all trials of all variants have the same samples, tasks and metric"
_NOT_LEARNING = "this key identifies a run, or says where and how it runs; trials change only what a run learns"
# Reason why no trial may change a key, by the key or the TOML table that has it.
_FIXED = {
    **dict.fromkeys(("data", "tasks", "evaluation", "train.best_metric", "early_stopping.metric"), _SAME_FOR_ALL),
    **dict.fromkeys(("name", "seed", "model.variant", "watch", "checkpoint", "runtime", "topology"), _NOT_LEARNING),
    **dict.fromkeys(
        ("train.batch_size", "train.batch_size_per_rank"),
        "gains are paired by seed: runs of one seed see the same samples in the same order",
    ),
}


@dataclass(frozen=True)
class Dimension:
    """Dimension of the search space: a configuration key and its possible values.

    Args:
        key: Dotted key of a run's configuration.
        domain: Range of the values, or a list of choices.
        is_integer: True if the numbers of the range are integers.
    """

    key: str
    domain: RangeConfig
    is_integer: bool = False

    @property
    def bounds_or_choices(self) -> list[Any]:
        """Both ends of a range, or every choice."""
        if self.domain.choices is not None:
            return list(self.domain.choices)
        # A domain without choices has both bounds.
        assert self.domain.low is not None
        assert self.domain.high is not None
        kind = int if self.is_integer else float
        return [kind(self.domain.low), kind(self.domain.high)]


Space = tuple[Dimension, ...]


def build_space(matrix: Matrix, tune: TuneConfig) -> Space:
    """Return the search space of a comparison's trials, and check its values on the configuration of each variant.

    Args:
        matrix: The comparison; its variants have equal cost, unless `match` is "none".
        tune: Table `[tune]` of the comparison. Without a space, the default one is used, without the learning rate of
            tables if the model has no tables.

    Raises:
        UserError: The space has a key that a trial may not change, a value changes a cost that was made equal,
            variants have different metrics for the choice of the best trial, or a model does not fit this machine.
        ConfigError: The configuration of a variant has no such key, or refuses a value.
    """
    variant_by_metric = {_judging_metric(variant.config): name for name, variant in matrix.variants.items()}
    if len(variant_by_metric) > 1:
        differing = ", ".join(f"{name} has {metric}" for metric, name in variant_by_metric.items())
        raise UserError(
            "train.best_metric",
            differing,
            f"it chooses the best trial, and {_SAME_FOR_ALL}",
            f"make it the same for all variants, by {Option.OVERRIDES}",
        )
    first = next(iter(matrix.variants.values()))
    tables = select_run_columns(first.config, DatasetDirectory(first.config.data.path)).sparse
    default = {key: domain for key, domain in DEFAULT_SPACE.items() if tables or not key.startswith(_TABLE_KEYS)}
    domains = tune.space or default
    for key in domains:
        _check_key(key)
    space = tuple(
        Dimension(key, domain, _is_integer_range(domain, values_at(first.config, key)))
        for key, domain in domains.items()
    )
    for variant in matrix.variants.values():
        for dimension in space:
            _check_values(matrix, variant, dimension)
    return space


def values_at(config: RunConfig, *keys: str) -> dict[str, Any]:
    """Return the values of a configuration at some keys; keys without a value are left out."""
    values = dict(leaves(config))
    return {key: values[key] for key in keys if values.get(key) is not None}


def with_trial_values(name: str, config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a variant's configuration with other values.

    Args:
        name: Name of the variant, for errors.
        config: Configuration of the variant.
        values: New values by key.

    Raises:
        ConfigError: The configuration has no such key, or refuses a value.
    """
    texts = [f"{key}={toml_value(value)}" for key, value in values.items()]
    return with_overrides(config, texts, f"variants.{name}, tuned with {', '.join(texts)}")


def _judging_metric(config: RunConfig) -> str:
    """Return the metric that chooses the best trial, as text.

    The loss is followed by the weights of the tasks if not all are 1, since losses of different weights are different
    metrics.
    """
    metric, weights = config.train.best_metric, [task.weight for task in config.tasks]
    if metric != "loss" or set(weights) <= {1.0}:
        return metric
    return f"{metric} (weights {', '.join(f'{weight:g}' for weight in weights)})"


def _check_key(key: str) -> None:
    place = f'tune.space."{key}"'
    try:
        parse_override(f"{key}=0")
    except UserError as error:
        rule = "it is a key of a run's configuration"
        raise UserError(place, error.value, rule, 'write for example "model.dropout"') from None
    for fixed, reason in _FIXED.items():
        if key == fixed or key.startswith((f"{fixed}.", f"{fixed}[")):
            raise UserError(place, "a trial may not change this key", reason, "leave it out of the space")


def _is_integer_range(domain: RangeConfig, current: Mapping[str, Any]) -> bool:
    """Return True if both bounds are integers and the key holds no float.

    For example, a dropout may have the range `{low = 0, high = 1}`, but the key holds a float.
    """
    ints = isinstance(domain.low, int) and isinstance(domain.high, int)
    return ints and not any(isinstance(value, float) for value in current.values())


def _check_values(matrix: Matrix, variant: Variant, dimension: Dimension) -> None:
    for value in dimension.bounds_or_choices:
        config = with_trial_values(variant.name, variant.config, {dimension.key: value})
        tasks = [task.name for task in matrix.tasks]
        width, _ = first_layer_shape(config, select_run_columns(config, DatasetDirectory(config.data.path)))
        check_size(config, tasks, width)
        if matrix.match == "none":
            continue
        field, unit = UNITS[matrix.match]
        cost = compute_cost(config, tasks, width)
        before, after = getattr(variant.cost, field), getattr(cost, field)
        if before != after:
            raise UserError(
                f'tune.space."{dimension.key}"',
                f"{toml_value(value)} changes {variant.name} from {before:,} to {after:,} {unit}",
                f'costs are equal before tuning (match = "{matrix.match}"), so that no gain comes from a larger model',
                'leave sizes out of the space, or set match = "none"',
            )


# Number of trials in the first batch, and in each later one.
STARTUP_TRIALS, BATCH_TRIALS = 10, 4


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial.

    Args:
        values: Values of the trial, by key.
        score: Metric on the validation split, negated if lower is better; None if the trial failed.
    """

    values: Mapping[str, Any]
    score: float | None


def batch_containing(number: int) -> range:
    """Return the numbers of the trials in the batch that contains the trial with this number."""
    if number < STARTUP_TRIALS:
        return range(STARTUP_TRIALS)
    first = number - (number - STARTUP_TRIALS) % BATCH_TRIALS
    return range(first, first + BATCH_TRIALS)


def propose(space: Space, first: int, count: int, earlier: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Return the values of the first trials of a batch whose values are drawn.

    Trial 0 is not among them; the caller puts the values of the configuration before those of the first batch.

    Args:
        space: Search space.
        first: Number of the batch's first trial, which is also the seed of the sampler.
        count: Number of trials to return. With a greater number, the first ones stay the same.
        earlier: Results of all trials before the batch. Those with values outside the space are left out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    # Optuna does not count failed trials as startup trials. With 1, TPE begins even if most of the first batch failed.
    startup_trials = 1 if first else STARTUP_TRIALS
    sampler = optuna.samplers.TPESampler(n_startup_trials=startup_trials, seed=first)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for result in earlier:
        if (trial := _frozen_trial(space, distributions, result)) is not None:
            study.add_trial(trial)
    proposals = [study.ask(distributions).params for _ in range(count)]
    return [
        {dimension.key: _value_from_optuna(dimension, params[dimension.key]) for dimension in space}
        for params in proposals
    ]


def _distribution(dimension: Dimension) -> BaseDistribution:
    domain = dimension.domain
    if domain.choices is not None:
        # Optuna accepts no lists as choices, so it chooses an index of the choices.
        return CategoricalDistribution(range(len(domain.choices)))
    low, high = dimension.bounds_or_choices
    if dimension.is_integer:
        return IntDistribution(low, high, log=domain.log)
    return FloatDistribution(low, high, log=domain.log)


def _frozen_trial(
    space: Space, distributions: Mapping[str, BaseDistribution], result: TrialResult
) -> FrozenTrial | None:
    params = {dimension.key: _optuna_value(dimension, result.values.get(dimension.key)) for dimension in space}
    if any(param is None for param in params.values()):
        return None
    state = TrialState.FAIL if result.score is None else TrialState.COMPLETE
    return create_trial(state=state, value=result.score, params=params, distributions=dict(distributions))


def _optuna_value(dimension: Dimension, value: Any) -> Any:
    """Return a value as Optuna has it: a choice as its index; None if the value lies outside the space."""
    if dimension.domain.choices is not None:
        choices = [_plain(choice) for choice in dimension.domain.choices]
        return choices.index(_plain(value)) if _plain(value) in choices else None
    low, high = dimension.bounds_or_choices
    return value if isinstance(value, int | float) and low <= value <= high else None


def _value_from_optuna(dimension: Dimension, param: Any) -> Any:
    return param if dimension.domain.choices is None else _plain(dimension.domain.choices[param])


def _plain(value: Any) -> Any:
    """Return a value in the form that it has after being written to JSON and read back."""
    return list(value) if isinstance(value, tuple) else value
