"""Which split a row lies in, and which training rows sampling leaves out."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_prep.columns import DAY, DEALT, GROUP_COLUMN, SPLIT, WEIGHT_COLUMN
from data_prep.days import numbered
from data_prep.deriving import Deriving, as_float32
from data_prep.expressions.kinds import floating
from data_prep.hashing import below, hashed_text
from data_prep.resolve import Resolved
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, PrepConfig

OUTSIDE = -1  # split of a row that lies in none
SAMPLED_OUT = -2  # split of a training row that sampling leaves out


def dealt_by(config: PrepConfig) -> str | None:
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


def add_split(d: Deriving) -> None:
    """The column `SPLIT`; `DAY` and the group are there."""
    split = d.config.split
    if isinstance(split, DaySplit):
        chosen = _by_day(d, split)
    elif isinstance(split, HeldOutSplit):
        chosen = _held_out(d, split)
    elif isinstance(split, HashSplit):
        text = ibis.literal(f"{split.seed}:").concat(d.hashed("split.value"))
        chosen = ibis.cases(
            (below(text, split.test), SPLITS.index("test")),
            (below(text, split.test + split.valid), SPLITS.index("valid")),
            else_=SPLITS.index("train"),
        )
        d.columns |= {"__split_text": d.hashed("split.value"), DEALT: d.build("split.value")}
        d.rule("split.value", "the value that is hashed is there", "__split_text", text.isnull())
    else:
        value = d.build("split.value")
        if not isinstance(value, ir.StringValue):
            rule, fix = "it gives the text train, valid or test", "use case when ... end"
            raise d.resolved.wrong_type("split.value", value, rule, fix=fix)
        chosen = ibis.cases(*((value == name, i) for i, name in enumerate(SPLITS)), else_=OUTSIDE)
        d.columns["__split_text"] = value
        d.rule("split.value", "it is train, valid or test", "__split_text", chosen == OUTSIDE)
    d.columns[SPLIT] = chosen.cast("int8")


def _by_day(d: Deriving, split: DaySplit) -> ir.IntegerValue:
    day = d.columns[DAY]

    def inside(first: int | str, last: int | str) -> ir.BooleanValue:
        return day.between(numbered(first, d.day_1), numbered(last, d.day_1)).fill_null(False)

    test: ir.BooleanValue = inside(*split.test)
    branches = [(inside(*split.train), SPLITS.index("train"))]
    if split.valid is not None:
        branches.append((inside(*split.valid), SPLITS.index("valid")))
    elif split.valid_share is not None:
        value = hashed_text(d.columns[GROUP_COLUMN]) if split.valid_hash is None else d.hashed("split.valid_hash")
        held = below(ibis.literal("valid:").concat(value), split.valid_share).fill_null(False)
        branches.append((test & held, SPLITS.index("valid")))
    branches.append((test, SPLITS.index("test")))
    return ibis.cases(*branches, else_=OUTSIDE)


def _held_out(d: Deriving, split: HeldOutSplit) -> ir.IntegerValue:
    first, last = (numbered(day, d.day_1) for day in split.days)
    d.columns[DEALT] = d.columns[GROUP_COLUMN] if split.hash is None else d.build("split.hash")
    value = hashed_text(d.columns[DEALT]) if split.hash is None else d.hashed("split.hash")
    text = ibis.literal("held out:").concat(value)
    outside = ~d.columns[DAY].between(first, last).fill_null(False)
    return ibis.cases(
        (outside, OUTSIDE),
        (below(text, split.test).fill_null(False), SPLITS.index("test")),
        (below(text, split.test + split.valid).fill_null(False), SPLITS.index("valid")),
        else_=SPLITS.index("train"),
    )


def add_sampling(d: Deriving) -> None:
    """Rows that are left out lie in no split; those kept by chance weigh more."""
    sampling = d.config.sampling
    if sampling is None:
        if WEIGHT_COLUMN in d.columns:
            d.columns[WEIGHT_COLUMN] = as_float32(d.columns[WEIGHT_COLUMN])
        return
    texts = [d.hashed(f"sampling.hash[{i}]").fill_null("") for i in range(len(sampling.hash))]
    text = texts[0]
    for more in texts[1:]:
        text = text.concat(":", more)
    by_chance = (d.columns[SPLIT] == 0) & ~d.boolean("sampling.keep").fill_null(False)
    left_out = by_chance & ~below(ibis.literal("sampling:").concat(text), sampling.rate)
    d.columns[SPLIT] = ibis.ifelse(left_out, SAMPLED_OUT, d.columns[SPLIT]).cast("int8")
    weight = ibis.ifelse(by_chance, floating(1 / sampling.rate), floating(1.0))
    if WEIGHT_COLUMN in d.columns:
        weight = weight * d.columns[WEIGHT_COLUMN]
    d.columns[WEIGHT_COLUMN] = as_float32(weight)
