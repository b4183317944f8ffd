"""Search space of a tuning, and the values that Optuna's samplers propose for its trials.

The first `START` trials are drawn at random, then TPE proposes `BATCH` trials at a time, each batch with a seed of its
own. So the values of a trial follow from the space, its number and the results of earlier *batches*. They depend
neither on the number of trials side by side, nor on the order in which these end, nor on interruptions. If a user adds
trials later, their values are the same as if all had been asked for at once.
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
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer

DEFAULT = {
    "dense_optimizer.learning_rate": RangeConfig(low=3e-4, high=3e-2, log=True),
    "table_optimizer.learning_rate": RangeConfig(low=2e-3, high=0.2, log=True),
    "model.dropout": RangeConfig(low=0.0, high=0.6),
    "model.input_dropout": RangeConfig(low=0.0, high=0.3),
}
_TABLE_KEYS = "table_optimizer."
_SAME = "all trials and variants are of the same samples, tasks and metric"
_APART = "it tells runs apart, or says where and how they run; a trial changes what a run learns"
# Key or table of keys that no trial may change, and the reason.
_FIXED = {
    **dict.fromkeys(("data", "tasks", "evaluation", "train.best_metric", "early_stopping.metric"), _SAME),
    **dict.fromkeys(("name", "seed", "model.variant", "watch", "checkpoint", "runtime", "topology"), _APART),
    **dict.fromkeys(
        ("train.batch_size", "train.batch_size_per_rank"),
        "gains are paired by seed: runs of one seed see the same samples in the same order",
    ),
}


@dataclass(frozen=True)
class Dimension:
    """Key of the search space with its values.

    Args:
        key: Key of a run's configuration.
        domain: Range of its values, or their choices.
        whole: True if the numbers of the range are integers.
    """

    key: str
    domain: RangeConfig
    whole: bool = False

    @property
    def limits(self) -> list[Any]:
        """Values with which the domain is checked: both ends of a range, or every choice."""
        if self.domain.choices is not None:
            return list(self.domain.choices)
        assert self.domain.low is not None
        assert self.domain.high is not None
        kind = int if self.whole else float
        return [kind(self.domain.low), kind(self.domain.high)]


Space = tuple[Dimension, ...]


def space_of(matrix: Matrix, tune: TuneConfig) -> Space:
    """Return the search space of a comparison's trials, after a check of its values on each variant's configuration.

    Args:
        matrix: The comparison, with equal cost.
        tune: Table `[tune]` of the comparison. Without a space, the default is used; the learning rate of tables is
            left out if the model has none.

    Raises:
        UserError: A trial may not change one of the keys, a value changes the cost that was made equal, or variants
            are judged by different metrics.
        ConfigError: The configuration of a variant has no such key, or refuses a value.
    """
    judges = {_judge(variant.config): name for name, variant in matrix.variants.items()}
    if len(judges) > 1:
        differing = ", ".join(f"{name} has {judge}" for judge, name in judges.items())
        raise UserError(
            "train.best_metric",
            differing,
            f"trials are judged by it, and {_SAME}",
            f"give all the same, by {Option.OVERRIDES}",
        )
    first = next(iter(matrix.variants.values()))
    tables = select(first.config, DatasetDirectory(first.config.data.path)).sparse
    default = {key: domain for key, domain in DEFAULT.items() if tables or not key.startswith(_TABLE_KEYS)}
    domains = tune.space or default
    for key in domains:
        _check_key(key)
    space = tuple(
        Dimension(key, domain, _is_whole(domain, settings_of(first.config, key))) for key, domain in domains.items()
    )
    for variant in matrix.variants.values():
        for dimension in space:
            _check(matrix, variant, dimension)
    return space


def settings_of(config: RunConfig, *keys: str) -> dict[str, Any]:
    """Return the values of a configuration at some keys; keys without a value are left out."""
    values = dict(leaves(config))
    return {key: values[key] for key in keys if values.get(key) is not None}


def with_settings(name: str, config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
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


def _judge(config: RunConfig) -> str:
    """Return the metric that judges the trials of a configuration, with the weights of its tasks if they matter."""
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
    for fixed, reason in _FIXED.items():
        if key == fixed or key.startswith((f"{fixed}.", f"{fixed}[")):
            raise UserError(place, "is no trial's to change", reason, "leave it out of the space")


def _is_whole(domain: RangeConfig, current: Mapping[str, Any]) -> bool:
    """Return True if both bounds are ints, unless the key holds a float: `{low = 0, high = 1}` suits a dropout, too."""
    ints = isinstance(domain.low, int) and isinstance(domain.high, int)
    return ints and not any(isinstance(value, float) for value in current.values())


def _check(matrix: Matrix, variant: Variant, dimension: Dimension) -> None:
    for value in dimension.limits:
        config = with_settings(variant.name, variant.config, {dimension.key: value})
        tasks = [task.name for task in matrix.tasks]
        width, _ = first_layer(config, select(config, DatasetDirectory(config.data.path)))
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
class TrialResult:
    """Result of a trial.

    Args:
        values: Values of the trial, by key.
        score: Metric on the validation split with the sign that makes higher better; None if the trial failed.
    """

    values: Mapping[str, Any]
    score: float | None


def batch_of(number: int) -> range:
    """Return the numbers of the trials in a trial's batch."""
    if number < START:
        return range(START)
    first = number - (number - START) % BATCH
    return range(first, first + BATCH)


def propose(space: Space, first: int, count: int, earlier: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Return the values of the first trials of a batch.

    Args:
        space: Search space.
        first: Number of the batch's first trial, which seeds the draws.
        count: Number of trials; a greater number begins with the same trials.
        earlier: Results of the trials before the batch; TPE does not see those whose values lie outside the space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    # Failed trials do not count as startup trials. With 1, TPE begins even if most trials of the first batch failed.
    startup_trials = 1 if first else START
    sampler = optuna.samplers.TPESampler(n_startup_trials=startup_trials, seed=first)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for result in earlier:
        if (trial := _frozen_trial(space, distributions, result)) is not None:
            study.add_trial(trial)
    proposals = [study.ask(distributions).params for _ in range(count)]
    return [{dimension.key: _value(dimension, params[dimension.key]) for dimension in space} for params in proposals]


def _distribution(dimension: Dimension) -> BaseDistribution:
    domain = dimension.domain
    if domain.choices is not None:
        # Optuna accepts no lists as choices, so it chooses among their indices.
        return CategoricalDistribution(range(len(domain.choices)))
    low, high = dimension.limits
    if dimension.whole:
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
    """Return a value, or the index of a choice, for Optuna; None if the value lies outside the space."""
    if dimension.domain.choices is not None:
        choices = [_plain(choice) for choice in dimension.domain.choices]
        return choices.index(_plain(value)) if _plain(value) in choices else None
    low, high = dimension.limits
    return value if isinstance(value, int | float) and low <= value <= high else None


def _value(dimension: Dimension, param: Any) -> Any:
    return param if dimension.domain.choices is None else _plain(dimension.domain.choices[param])


def _plain(value: Any) -> Any:
    """Return a value in the form that JSON gives back."""
    return list(value) if isinstance(value, tuple) else value
