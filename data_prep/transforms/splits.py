"""Assignment of rows to splits, and sampling of the training rows."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_prep.expressions.kinds import floating
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import day_number, hash_is_below, hashed_text
from data_prep.transforms.columns import DAY, GROUP_COLUMN, NO_GROUP, SPLIT, SPLIT_KEY, WEIGHT_COLUMN
from data_prep.transforms.expression_scope import ColumnBuilder, as_float32
from data_prep.transforms.resolve import Resolved
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, PrepConfig

OUTSIDE = -1  # The split of a row that lies in none.
SAMPLED_OUT = -2  # The split of a training row that sampling leaves out.
_SAMPLED_BY = "__sampled_by"  # The column holds the first value that sampling hashes, null if all are missing.


def split_key(config: PrepConfig) -> str | None:
    """Return the key of the expression whose equal values a split keeps together, such as `split.hash` or `group`.

    None for a split by time, where a value may lie in train and in test, and for a split that the log has already.
    """
    if isinstance(config.split, HashSplit):
        return "split.value"
    if isinstance(config.split, HeldOutSplit):
        return "group" if config.split.hash is None else "split.hash"
    return None


def columns_that_tell(key: str, resolved: Resolved) -> tuple[str, ...]:
    """Return the features that determine the value of the expression at `key`: equal to it, or to its only column."""
    config, by = resolved.config, resolved.parsed[key]
    values = {f.name: resolved.parsed[f"sparse[{i}].value"] for i, f in enumerate(config.sparse) if not f.bucketised}
    values |= {f.name: resolved.parsed[f"dense[{i}].value"] for i, f in enumerate(config.dense)}
    return tuple(name for name, value in values.items() if value.text == by.text or (value.text,) == by.columns)


def add_split(builder: ColumnBuilder) -> None:
    """Add the column `SPLIT`, which is computed from the columns of the day and the group."""
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
        builder.rule("split.value", "the value that is hashed is there", SPLIT_KEY, value.isnull())
    else:
        value = builder.build("split.value")
        if not isinstance(value, ir.StringValue):
            rule, fix = "it gives the text train, valid or test", "use case when ... end"
            raise builder.resolved.wrong_type("split.value", value, rule, fix=fix)
        chosen = ibis.cases(*((value == name, i) for i, name in enumerate(SPLITS)), else_=OUTSIDE)
        builder.columns["__split_text"] = value
        builder.rule("split.value", "it is train, valid or test", "__split_text", chosen == OUTSIDE)
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
        text = _text_that_decides(builder, _group_of(builder, split.valid_hash, "split.valid_hash"))
        in_valid = hash_is_below(ibis.literal("valid:").concat(text), split.valid_share)
        branches.append((test & in_valid, SPLITS.index("valid")))
    branches.append((test, SPLITS.index("test")))
    return ibis.cases(*branches, else_=OUTSIDE)


def _held_out(builder: ColumnBuilder, split: HeldOutSplit) -> ir.IntegerValue:
    first, last = (day_number(day, builder.day_1) for day in split.days)
    builder.columns[SPLIT_KEY] = _group_of(builder, split.hash, "split.hash")
    text = ibis.literal(f"held out:{split.seed}").concat(_text_that_decides(builder, builder.columns[SPLIT_KEY]))
    outside = ~builder.columns[DAY].between(first, last).fill_null(False)
    return ibis.cases(
        (outside, OUTSIDE),
        (hash_is_below(text, split.test), SPLITS.index("test")),
        (hash_is_below(text, split.test + split.valid), SPLITS.index("valid")),
        else_=SPLITS.index("train"),
    )


def _group_of(builder: ColumnBuilder, expression: str | None, key: str) -> ir.Value:
    """Return the value whose rows stay together in a split: that of the expression at `key`, or else the group.

    It is null for a row without one, and for a row of group -1, which readers take for none.
    """
    return builder.columns[GROUP_COLUMN].nullif(NO_GROUP) if expression is None else builder.hash_input(key)


def _text_that_decides(builder: ColumnBuilder, group: ir.Value) -> ir.StringValue:
    """Return the text whose hash decides on a row: its group, or its position if it has no group."""
    position = ibis.literal("row ").concat(hashed_text(builder.columns[POSITION]))
    return ibis.coalesce(hashed_text(group), position)


def add_sampling(builder: ColumnBuilder) -> None:
    """Move the rows that sampling leaves out to the split `SAMPLED_OUT`, and raise the weights of the sampled rows."""
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
    rule = "of a row that may be left out, at least one of the values that are hashed is there"
    fix = "name one more column in sampling.hash that tells such rows apart, e.g. the time or a request id"
    builder.rule("sampling.hash", rule, _SAMPLED_BY, undecided, fix)
    left_out = by_chance & ~undecided & ~hash_is_below(ibis.literal("sampling:").concat(text), sampling.rate)
    builder.columns[SPLIT] = ibis.ifelse(left_out, SAMPLED_OUT, builder.columns[SPLIT]).cast("int8")
    weight = ibis.ifelse(by_chance, floating(1 / sampling.rate), floating(1.0))
    if WEIGHT_COLUMN in builder.columns:
        weight = weight * builder.columns[WEIGHT_COLUMN]
    builder.columns[WEIGHT_COLUMN] = as_float32(weight)
