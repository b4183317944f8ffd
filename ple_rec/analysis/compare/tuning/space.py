"""What trials change: keys of a run's configuration with their values, the same for every variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ple_rec.analysis.compare.cost import check_size, cost_of
from ple_rec.analysis.compare.equal_cost import UNITS
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
