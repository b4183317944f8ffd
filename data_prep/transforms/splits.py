"""Which split a row lies in, and which training rows sampling leaves out."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_prep.expressions.kinds import floating
from data_prep.output.parts import NO_GROUP
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import below, hashed_text, numbered
from data_prep.transforms.columns import DAY, DEALT, GROUP_COLUMN, SPLIT, WEIGHT_COLUMN
from data_prep.transforms.expression_scope import ColumnBuilder, as_float32
from data_prep.transforms.resolve import Resolved
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, PrepConfig

OUTSIDE = -1  # split of a row that lies in none
SAMPLED_OUT = -2  # split of a training row that sampling leaves out
_SAMPLED_BY = "__sampled_by"  # The column holds the first value that sampling hashes, null if all are missing.


def split_key(config: PrepConfig) -> str | None:
    """Return the key of the expression whose values the split deals out to train or to valid and test, each whole.

    None for a split by time, where a value may lie in both, and for one that the log has already.
    """
    if isinstance(config.split, HashSplit):
        return "split.value"
    if isinstance(config.split, HeldOutSplit):
        return "group" if config.split.hash is None else "split.hash"
    return None


def columns_that_tell(key: str, resolved: Resolved) -> tuple[str, ...]:
    """Return the features whose value tells that of the expression at `key`: the same one, or its only column."""
    config, by = resolved.config, resolved.parsed[key]
    values = {f.name: resolved.parsed[f"sparse[{i}].value"] for i, f in enumerate(config.sparse) if not f.bucketised}
    values |= {f.name: resolved.parsed[f"dense[{i}].value"] for i, f in enumerate(config.dense)}
    return tuple(name for name, value in values.items() if value.text == by.text or (value.text,) == by.columns)


def add_split(d: ColumnBuilder) -> None:
    """Add the column `SPLIT`, once `DAY` and the group are there."""
    split = d.config.split
    if isinstance(split, DaySplit):
        chosen = _by_day(d, split)
    elif isinstance(split, HeldOutSplit):
        chosen = _held_out(d, split)
    elif isinstance(split, HashSplit):
        value = d.hash_input("split.value")
        text = ibis.literal(f"{split.seed}:").concat(hashed_text(value))
        chosen = ibis.cases(
            (below(text, split.test), SPLITS.index("test")),
            (below(text, split.test + split.valid), SPLITS.index("valid")),
            else_=SPLITS.index("train"),
        )
        d.columns[DEALT] = value
        d.rule("split.value", "the value that is hashed is there", DEALT, value.isnull())
    else:
        value = d.build("split.value")
        if not isinstance(value, ir.StringValue):
            rule, fix = "it gives the text train, valid or test", "use case when ... end"
            raise d.resolved.wrong_type("split.value", value, rule, fix=fix)
        chosen = ibis.cases(*((value == name, i) for i, name in enumerate(SPLITS)), else_=OUTSIDE)
        d.columns["__split_text"] = value
        d.rule("split.value", "it is train, valid or test", "__split_text", chosen == OUTSIDE)
    d.columns[SPLIT] = chosen.cast("int8")


def _by_day(d: ColumnBuilder, split: DaySplit) -> ir.IntegerValue:
    day = d.columns[DAY]

    def inside(first: int | str, last: int | str) -> ir.BooleanValue:
        return day.between(numbered(first, d.day_1), numbered(last, d.day_1)).fill_null(False)

    test: ir.BooleanValue = inside(*split.test)
    branches = [(inside(*split.train), SPLITS.index("train"))]
    if split.valid is not None:
        branches.append((inside(*split.valid), SPLITS.index("valid")))
    elif split.valid_share is not None:
        text = _text_that_decides(d, _group_of(d, split.valid_hash, "split.valid_hash"))
        held = below(ibis.literal("valid:").concat(text), split.valid_share)
        branches.append((test & held, SPLITS.index("valid")))
    branches.append((test, SPLITS.index("test")))
    return ibis.cases(*branches, else_=OUTSIDE)


def _held_out(d: ColumnBuilder, split: HeldOutSplit) -> ir.IntegerValue:
    first, last = (numbered(day, d.day_1) for day in split.days)
    d.columns[DEALT] = _group_of(d, split.hash, "split.hash")
    text = ibis.literal(f"held out:{split.seed}").concat(_text_that_decides(d, d.columns[DEALT]))
    outside = ~d.columns[DAY].between(first, last).fill_null(False)
    return ibis.cases(
        (outside, OUTSIDE),
        (below(text, split.test), SPLITS.index("test")),
        (below(text, split.test + split.valid), SPLITS.index("valid")),
        else_=SPLITS.index("train"),
    )


def _group_of(d: ColumnBuilder, expression: str | None, key: str) -> ir.Value:
    """Return the value whose rows stay together in a split: that of the expression at `key`, or else the group.

    It is null where a row has none. Readers take group -1 for none, so a row of it has none.
    """
    return d.columns[GROUP_COLUMN].nullif(NO_GROUP) if expression is None else d.hash_input(key)


def _text_that_decides(d: ColumnBuilder, group: ir.Value) -> ir.StringValue:
    """Return the text whose hash decides on a row: that of its group, or of its position if it has no group."""
    position = ibis.literal("row ").concat(hashed_text(d.columns[POSITION]))
    return ibis.coalesce(hashed_text(group), position)


def add_sampling(d: ColumnBuilder) -> None:
    """Mark the rows that sampling leaves out by a split of their own, and weigh up the rows that chance keeps."""
    sampling = d.config.sampling
    if sampling is None:
        if WEIGHT_COLUMN in d.columns:
            d.columns[WEIGHT_COLUMN] = as_float32(d.columns[WEIGHT_COLUMN])
        return
    values = [hashed_text(d.hash_input(f"sampling.hash[{i}]")) for i in range(len(sampling.hash))]
    text = values[0].fill_null("")
    for value in values[1:]:
        text = text.concat(":", value.fill_null(""))
    by_chance = (d.columns[SPLIT] == 0) & ~d.boolean("sampling.keep").fill_null(False)
    d.columns[_SAMPLED_BY] = ibis.coalesce(*values)
    undecided = by_chance & d.columns[_SAMPLED_BY].isnull()
    rule = "of a row that may be left out, at least one of the values that are hashed is there"
    fix = "name one more column in sampling.hash that tells such rows apart, e.g. the time or a request id"
    d.rule("sampling.hash", rule, _SAMPLED_BY, undecided, fix)
    left_out = by_chance & ~undecided & ~below(ibis.literal("sampling:").concat(text), sampling.rate)
    d.columns[SPLIT] = ibis.ifelse(left_out, SAMPLED_OUT, d.columns[SPLIT]).cast("int8")
    weight = ibis.ifelse(by_chance, floating(1 / sampling.rate), floating(1.0))
    if WEIGHT_COLUMN in d.columns:
        weight = weight * d.columns[WEIGHT_COLUMN]
    d.columns[WEIGHT_COLUMN] = as_float32(weight)
