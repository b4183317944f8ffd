"""Assignment of rows to the splits train, valid and test, and sampling of the training rows.

A split is by day, by a hash, both ("held out": days, then a hash within them), or by an expression that gives its name.
A hash puts rows with the same value, for example all rows of a user, into the same split. In a split by day, a hash may
divide the days of test into valid and test.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_prep.expressions.kinds import floating
from data_prep.expressions.times import days_since_1970
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import date_text, day_number, hash_is_below, hashed_text
from data_prep.transforms.columns import DAY, GROUP_COLUMN, NO_GROUP, SPLIT, SPLIT_KEY, WEIGHT_COLUMN
from data_prep.transforms.expression_scope import ColumnBuilder, as_float32
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.words import group_keys
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, PrepConfig

# The column `SPLIT` holds the index of the split in `SPLITS`, or one of these.
OUTSIDE = -1  # The row is in no split.
SAMPLED_OUT = -2  # The row is a training row that sampling leaves out.
_SAMPLED_BY = "__sampled_by"  # The first value that sampling hashes and that is not null; null if all are.


def split_key(config: PrepConfig) -> str | None:
    """Return the configuration's key of the expression whose value decides on the split, such as `split.hash`.

    All rows with the same value are in the same split. The result is None for a split by day or by a column of the log,
    where this does not hold.
    """
    if isinstance(config.split, HashSplit):
        return "split.value"
    if isinstance(config.split, HeldOutSplit):
        return group_keys(config)[0] if config.split.hash is None else "split.hash"
    return None


def last_training_day(config: PrepConfig) -> int | None:
    """Return the last day of train, in days from 1970-01-01; None if rows are not split by day.

    Args:
        config: Configuration, with the date of day 1 filled in if the split counts days from it.
    """
    split = config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        return None
    day_1 = None if config.day_1 is None else days_since_1970(config.day_1)
    return day_number(split.train[1] if isinstance(split, DaySplit) else split.days[1], day_1)


def date_of_training(config: PrepConfig) -> str | None:
    """Return the date of `last_training_day`."""
    day = last_training_day(config)
    return None if day is None else date_text(day)


def features_that_determine(key: str, resolved: Resolved) -> tuple[str, ...]:
    """Return the names of the features that reveal the value of the expression at a key.

    Such a feature, without buckets, is the same expression, or the only column that the expression reads.
    """
    config, expression = resolved.config, resolved.parsed[key]
    values = {f.name: resolved.parsed[f"sparse[{i}].value"] for i, f in enumerate(config.sparse) if not f.bucketised}
    values |= {f.name: resolved.parsed[f"dense[{i}].value"] for i, f in enumerate(config.dense_features)}
    return tuple(
        name for name, value in values.items() if value.text == expression.text or (value.text,) == expression.columns
    )


def add_split(builder: ColumnBuilder) -> None:
    """Add the column `SPLIT` and, depending on the kind of split, a column and a rule for the value that decides on it.

    The columns of the day and of the group must have been added before.
    """
    split = builder.config.split
    if isinstance(split, DaySplit):
        chosen = _by_day(builder, split)
    elif isinstance(split, HeldOutSplit):
        chosen = _held_out(builder, split)
    elif isinstance(split, HashSplit):
        value = builder.hash_input("split.value")
        text = ibis.literal(f"{split.seed}:").concat(hashed_text(value))
        chosen = ibis.cases(
            (hash_is_below(text, split.test), SPLITS.index("test")),
            (hash_is_below(text, split.test + split.valid), SPLITS.index("valid")),
            else_=SPLITS.index("train"),
        )
        builder.columns[SPLIT_KEY] = value
        builder.add_rule("split.value", "the hashed value is not missing", SPLIT_KEY, value.isnull())
    else:
        value = builder.build("split.value")
        if not isinstance(value, ir.StringValue):
            rule, fix = "it must be the text train, valid or test", "use case when ... end"
            raise builder.resolved.wrong_type("split.value", value, rule, fix=fix)
        chosen = ibis.cases(*((value == name, i) for i, name in enumerate(SPLITS)), else_=OUTSIDE)
        builder.columns["__split_text"] = value
        builder.add_rule("split.value", "it is train, valid or test", "__split_text", chosen == OUTSIDE)
    builder.columns[SPLIT] = chosen.cast("int8")


def _by_day(builder: ColumnBuilder, split: DaySplit) -> ir.IntegerValue:
    day = builder.columns[DAY]

    def inside(first: int | str, last: int | str) -> ir.BooleanValue:
        return day.between(day_number(first, builder.day_1), day_number(last, builder.day_1)).fill_null(False)

    test: ir.BooleanValue = inside(*split.test)
    branches = [(inside(*split.train), SPLITS.index("train"))]
    if split.valid is not None:
        branches.append((inside(*split.valid), SPLITS.index("valid")))
    elif split.valid_share is not None:
        text = _split_text(builder, _split_value(builder, split.valid_hash, "split.valid_hash"))
        in_valid = hash_is_below(ibis.literal("valid:").concat(text), split.valid_share)
        branches.append((test & in_valid, SPLITS.index("valid")))
    branches.append((test, SPLITS.index("test")))
    return ibis.cases(*branches, else_=OUTSIDE)


def _held_out(builder: ColumnBuilder, split: HeldOutSplit) -> ir.IntegerValue:
    first, last = (day_number(day, builder.day_1) for day in split.days)
    builder.columns[SPLIT_KEY] = _split_value(builder, split.hash, "split.hash")
    text = ibis.literal(f"held out:{split.seed}").concat(_split_text(builder, builder.columns[SPLIT_KEY]))
    outside = ~builder.columns[DAY].between(first, last).fill_null(False)
    return ibis.cases(
        (outside, OUTSIDE),
        (hash_is_below(text, split.test), SPLITS.index("test")),
        (hash_is_below(text, split.test + split.valid), SPLITS.index("valid")),
        else_=SPLITS.index("train"),
    )


def _split_value(builder: ColumnBuilder, expression: str | None, key: str) -> ir.Value:
    """Return the value whose rows are put into the same split: that of the expression at `key`, or else the group.

    It is null for a row without such a value, and for group -1, which means no group.
    """
    return builder.columns[GROUP_COLUMN].nullif(NO_GROUP) if expression is None else builder.hash_input(key)


def _split_text(builder: ColumnBuilder, value: ir.Value) -> ir.StringValue:
    """Return the text whose hash decides on the split of a row: its value, or its position if the value is null."""
    position = ibis.literal("row ").concat(hashed_text(builder.columns[POSITION]))
    return ibis.coalesce(hashed_text(value), position)


def add_sampling(builder: ColumnBuilder) -> None:
    """Sample the training rows that do not fulfil `sampling.keep`, at the rate `sampling.rate`.

    Rows that are left out get the split `SAMPLED_OUT`. The weight of the others is divided by the rate. Rows that
    fulfil `sampling.keep` stay, with their weight. In any case, the weights become float32.
    """
    sampling = builder.config.sampling
    if sampling is None:
        if WEIGHT_COLUMN in builder.columns:
            builder.columns[WEIGHT_COLUMN] = as_float32(builder.columns[WEIGHT_COLUMN])
        return
    values = [hashed_text(builder.hash_input(f"sampling.hash[{i}]")) for i in range(len(sampling.hash))]
    text = values[0].fill_null("")
    for value in values[1:]:
        text = text.concat(":", value.fill_null(""))
    by_chance = (builder.columns[SPLIT] == 0) & ~builder.boolean("sampling.keep").fill_null(False)
    builder.columns[_SAMPLED_BY] = ibis.coalesce(*values)
    undecided = by_chance & builder.columns[_SAMPLED_BY].isnull()
    rule = "at least one of the hashed values is not missing in a row that may be left out"
    fix = "add a column to sampling.hash that differs between such rows, e.g. the time or a request id"
    builder.add_rule("sampling.hash", rule, _SAMPLED_BY, undecided, fix)
    left_out = by_chance & ~undecided & ~hash_is_below(ibis.literal("sampling:").concat(text), sampling.rate)
    builder.columns[SPLIT] = ibis.ifelse(left_out, SAMPLED_OUT, builder.columns[SPLIT]).cast("int8")
    weight = ibis.ifelse(by_chance, floating(1 / sampling.rate), floating(1.0))
    if WEIGHT_COLUMN in builder.columns:
        weight = weight * builder.columns[WEIGHT_COLUMN]
    builder.columns[WEIGHT_COLUMN] = as_float32(weight)
