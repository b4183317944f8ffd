"""Raw columns -> the columns of a dataset before ids: splits, labels, spaces, features, and what is wrong with a row.

Column names inside the pipeline: `POSITION`, `PART`, `SPLIT`, `DAY`, `REASON`; `raw__<feature>` for what a vocabulary
or edges turn into ids; all others as they will stand in the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.columns import DAY_COLUMN, GROUP_COLUMN, WEIGHT_COLUMN, label_column, space_columns
from data_prep.days import LocalTime, number_of, quotient
from data_prep.expressions import numbers as exact
from data_prep.expressions.kinds import floating
from data_prep.hashing import below, hashed_number, text_of
from data_prep.parts import PART
from data_prep.resolve import THRESHOLD, Resolved
from data_prep.sources.files import POSITION
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, SparseSpec, TaskSpec, ThresholdSpec
from ple_rec.errors import PleRecError, UserError

SPLIT, DAY, REASON = "__split", "__day", "__reason"
OUTSIDE = -1  # split of a row that lies in none
SAMPLED_OUT = -2  # split of a training row that sampling leaves out
_EARLY = "__early"
_Rule = Callable[[ir.FloatingValue], ir.BooleanValue]
_LARGEST_FLOAT32 = 3.4028234663852886e38
_GROUP_DIGITS = 15


@dataclass(frozen=True)
class Rule:
    """What a row must keep.

    Args:
        key: Of the configuration.
        rule: In words.
        shown: Column of the derived rows that holds the value, for messages.
    """

    key: str
    rule: str
    shown: str

    @property
    def reason(self) -> str:
        """Why a row is left out."""
        return f"{self.key}: {self.rule}"


@dataclass(frozen=True)
class Derived:
    """The rows of a log, a lazy table, and the rules behind `REASON`: rule i is broken where it is i + 1."""

    table: ir.Table
    rules: tuple[Rule, ...]


def columns_of(rows: ir.Table) -> dict[str, ir.Value]:
    """The columns of rows as expressions read them: uint64 as int64, null where it does not fit."""
    return {
        name: _narrowed(rows[name]) if is_wide(rows[name]) else rows[name] for name in rows.columns if name != POSITION
    }


def is_wide(value: ir.Value) -> bool:
    """Whether a column holds uint64, or lists of it; Spark reads decimal(20, 0) instead, and files hold no decimals."""
    kind = value.type()
    kind = kind.value_type if isinstance(kind, dt.Array) else kind
    return isinstance(kind, dt.UInt64 | dt.Decimal)


def too_wide(value: ir.Value) -> ir.BooleanValue:
    """Where a `is_wide` column holds a number beyond int64."""
    if isinstance(value, ir.ArrayValue):
        lost = value.filter(lambda x: x.notnull() & _narrowed(x).isnull())
        return (lost.length() > 0).fill_null(False)
    return value.notnull() & _narrowed(value).isnull()


def _narrowed(value: ir.Value) -> ir.Value:
    if isinstance(value, ir.ArrayValue):
        return value.map(lambda x: exact.cast(x, "integer"))
    return cast(ir.Value, exact.cast(value, "integer"))


def names_of(rows: ir.Table, resolved: Resolved) -> dict[str, ir.Value]:
    """The words that expressions may use: columns, time, derived columns."""
    names = columns_of(rows)
    if resolved.config.time is not None:
        local = local_time(names, resolved)
        names |= {"time.day": local.day, "time.weekday": local.weekday}
        if local.hour is not None:
            names["time.hour"] = local.hour
    for name in resolved.config.derived:
        names[name] = resolved.build(f"derived.{name}", names)
    return names


def local_time(names: Mapping[str, ir.Value], resolved: Resolved) -> LocalTime:
    """The time of a row, where the configuration has `[time]`.

    Raises:
        UserError: The value has a type that the unit does not fit; a DataError where it is a column as it is.
    """
    assert resolved.config.time is not None
    value = resolved.build("time.value", names)
    try:
        return LocalTime(value, resolved.config.time, f"{resolved.place}: time.value")
    except UserError as error:
        raise resolved.wrong_type("time.value", value, error.rule, error.fix) from None


def condition_of(key: str, value: ir.Value, resolved: Resolved) -> ir.BooleanValue:
    """A condition, true where a number is not 0.

    Raises:
        UserError: It is neither; a DataError where it is a column as it is.
    """
    if isinstance(value, ir.BooleanValue):
        return value
    if isinstance(value, ir.NumericValue):
        return (exact.comparable(value) if isinstance(value, ir.FloatingValue) else value) != 0
    raise resolved.wrong_type(key, value, "a condition is true or false", "write a comparison, e.g. is_click = 1")


def threshold_columns(i: int) -> tuple[str, str]:
    """Columns of what the threshold of task i is a quantile of, and of what cuts the rows into parts."""
    return f"__threshold{i}_value", f"__threshold{i}_by"


def derive(rows: ir.Table, resolved: Resolved, day_1: int | None) -> Derived:
    """Every column that a configuration asks for, of joined rows.

    Args:
        rows: The log's columns and `side.column` ones, with `POSITION`.
        resolved: The configuration, its thresholds known; labels with an unknown one are left out.
        day_1: Days from 1970-01-01 to day 1, where the configuration counts days.

    Raises:
        UserError: An expression reads what is not there, or gives a type that its key does not take.
    """
    return _Deriver(rows, resolved, day_1).derive()


class _Deriver:
    def __init__(self, rows: ir.Table, resolved: Resolved, day_1: int | None) -> None:
        self.rows, self.resolved, self.config, self.day_1 = rows, resolved, resolved.config, day_1
        self.names = names_of(rows, resolved)
        self.columns: dict[str, ir.Value] = {}
        self.broken: list[tuple[Rule, ir.BooleanValue]] = []
        self.late: list[tuple[Rule, Callable[[ir.Table], ir.BooleanValue]]] = []  # of columns, computed once

    def derive(self) -> Derived:
        config = self.config
        self.columns[POSITION] = self.rows[POSITION]
        self.columns[PART] = _part(self.rows[POSITION], config.output.part_rows)
        self._wide()
        if config.time is not None:
            self._time()
        else:
            self.columns[DAY] = ibis.null("int64")
        self._checks()
        for i, feature in enumerate(config.sparse):
            self._sparse(i, feature)
        for i, number in enumerate(config.dense):
            self._dense(f"dense[{i}].value", number.name)
        self._tasks()
        if config.weight is not None:
            self._weight()
        if config.group is not None:
            self._group()
        for name in config.carry:
            self.columns[name] = self._build(f"carry.{name}")
        self._split()
        self._sampling()
        self.columns[_EARLY] = _first_of([condition for _, condition in self.broken], 1)
        table = self.rows.select(**self.columns)
        late = _first_of([condition(table) for _, condition in self.late], len(self.broken) + 1)
        table = table.mutate(**{REASON: ibis.ifelse(table[_EARLY] > 0, table[_EARLY], late)})
        return Derived(table, tuple(rule for rule, _ in (*self.broken, *self.late)))

    def _build(self, key: str) -> ir.Value:
        return self.resolved.build(key, self.names)

    def _refuse(self, key: str, value: ir.Value, rule: str, fix: str) -> PleRecError:
        return self.resolved.wrong_type(key, value, rule, fix)

    def _rule(self, key: str, rule: str, shown: str, broken: ir.BooleanValue) -> None:
        self.broken.append((Rule(key, rule, shown), broken))

    def _wide(self) -> None:
        """Numbers beyond int64 are bad rows, wherever they are read."""
        for i, name in enumerate(self.rows.columns):
            if is_wide(value := self.rows[name]):
                self.columns[f"__wide{i}"] = value
                self._rule(f"column {name!r}", "integers are int64, at most 2^63 - 1", f"__wide{i}", too_wide(value))

    def _time(self) -> None:
        config = self.config.time
        assert config is not None
        value, local = self._build("time.value"), local_time(self.names, self.resolved)
        day = ibis.ifelse(local.sane, local.day, ibis.null("int64"))  # or wild times would be as many days
        self.columns |= {DAY: day, "__time": value, DAY_COLUMN: day.cast("int32")}
        rule = f"as {config.unit} it must lie between {config.earliest} and {config.latest}"
        self._rule("time.value", rule, "__time", ~local.sane)

    def _checks(self) -> None:
        for i, name in enumerate(self.config.checks):
            value = self._boolean(f"checks.{name}")
            read = [column for column in self.resolved.parsed[f"checks.{name}"].columns if column in self.names]
            shown = f"__check{i}"
            self.columns[shown] = self.names[read[0]] if read else value
            rule = f"it must hold: {self.config.checks[name]}"
            self._rule(f"checks.{name}: {read[0]}" if read else f"checks.{name}", rule, shown, ~value.fill_null(True))

    def _boolean(self, key: str) -> ir.BooleanValue:
        return condition_of(key, self._build(key), self.resolved)

    def _number(self, key: str) -> ir.FloatingValue:
        value = self._build(key)
        if isinstance(value, ir.BooleanValue | ir.IntegerValue | ir.FloatingValue | ir.DecimalValue):
            return value.cast("float64")
        raise self._refuse(key, value, "a number is needed", "cast it, e.g. cast(x as double)")

    def _sparse(self, i: int, feature: SparseSpec) -> None:
        key, column = f"sparse[{i}].value", f"raw__{feature.name}"
        if feature.bucketised:
            value = self._number(key)
            self.columns[column] = value
            self._rule(key, "a number or nothing is needed, no NaN", column, value.isnan().fill_null(False))
            return
        value = self._build(key)
        kind = value.type()
        if feature.bag:
            if not isinstance(kind, dt.Array):
                raise self._refuse(
                    key, value, "a bag is a list", "drop bag = true, or give a list, e.g. split(tags, ',')"
                )
            self.columns[column] = self._ended(feature, value).cast(
                dt.Array(self._id_type(key, value, kind.value_type))
            )
            if feature.weights is not None:
                self._bag_weights(i, feature, value)
            return
        self.columns[column] = value.cast(self._id_type(key, value, kind))

    def _ended(self, feature: SparseSpec, value: ir.ArrayValue) -> ir.ArrayValue:
        if feature.max_length is None:
            return value
        length = value.length()
        if feature.keep == "first":
            return value[: feature.max_length]
        return ibis.ifelse(length > feature.max_length, value[length - feature.max_length :], value)

    def _id_type(self, key: str, value: ir.Value, kind: dt.DataType) -> dt.DataType:
        if isinstance(kind, dt.Integer | dt.Boolean):
            return dt.int64
        if isinstance(kind, dt.String):
            return dt.string
        raise self._refuse(
            key,
            value,
            "an id is an integer or text",
            "cast it, e.g. cast(x as bigint); give a number edges or quantiles, or make it a dense feature",
        )

    def _bag_weights(self, i: int, feature: SparseSpec, items: ir.ArrayValue) -> None:
        key, column, shown = f"sparse[{i}].weights", f"weights__{feature.name}", f"__weights{i}"
        weights = self._build(key)
        if not isinstance(weights, ir.ArrayValue) or not isinstance(weights.type().value_type, dt.Numeric):
            raise self._refuse(
                key, weights, "the weights of a bag are a list of numbers", "name a column of such lists"
            )
        length = items.length().fill_null(0)
        self.columns[column] = self._ended(feature, weights).cast("array<float64>").map(_float32)
        differs = weights.length().fill_null(0) != length
        self.columns[shown] = weights
        self._rule(key, f"as many weights as {feature.name!r} has items", shown, differs)
        numbers = weights.cast("array<float64>")
        bad = numbers.filter(lambda x: x.isnull() | x.isnan() | (x.abs() > floating(_LARGEST_FLOAT32))).length() > 0
        self._rule(key, "weights are finite", shown, bad.fill_null(False))

    def _dense(self, key: str, name: str) -> None:
        raw, value = self.names.get(self.resolved.parsed[key].text), self._number(key)
        self.columns[name] = _float32(value)
        self.columns[f"__{name}"] = value
        bad = _no_float32(value)
        if isinstance(raw, ir.FloatingValue) and raw.type() == dt.float32:
            bad = (raw - raw).isnan()  # of what is not finite; cheaper to ask
        self._rule(key, "a dense value is missing or a finite float32", f"__{name}", bad)

    def _tasks(self) -> None:
        spaces = space_columns(self.config)
        for i, task in enumerate(self.config.tasks):
            key = f"tasks[{i}].label"
            if task.space is not None:
                self.columns[spaces[task.name]] = self._boolean(f"tasks[{i}].space").fill_null(False)
            names = self.names
            if task.threshold is not None:
                if task.threshold.values is None:
                    self._awaits_threshold(i, task.threshold)
                    continue
                names = names | {THRESHOLD: self._threshold(i, task.threshold)}
            value = self.resolved.build(key, names)
            if not isinstance(value, ir.BooleanValue | ir.NumericValue):
                raise self._refuse(key, value, "a label is true or false, or a number", "write a comparison or a cast")
            number = value.cast("float64")
            column = label_column(task)
            self.columns |= {column: _float32(number), f"__{column}": number}
            rule, bad = _label_rule(task)
            where = f" where {task.space}" if task.space is not None else ""

            late = partial(_broken_label, column=f"__{column}", space=spaces.get(task.name), bad=bad)
            self.late.append((Rule(key, rule + where, f"__{column}"), late))

    def _threshold(self, i: int, spec: ThresholdSpec) -> ir.FloatingValue:
        assert spec.values is not None
        found = floating(spec.values[0])
        if spec.by is not None:
            by = self._threshold_by(i)
            steps = list(zip(spec.edges or (), spec.values[1:], strict=True))
            if steps:  # from the highest edge down, so that the first that is reached counts
                branches = [(by >= floating(edge), floating(value)) for edge, value in reversed(steps)]
                found = ibis.cases(*branches, else_=found)
        return found

    def _threshold_by(self, i: int) -> ir.FloatingValue:
        """What says which threshold a row has; a row of NaN, which lies in no part, is bad."""
        key, shown = f"tasks[{i}].threshold.by", f"__by{i}"
        value = self._number(key)
        self.columns[shown] = value
        self._rule(key, "a number or nothing is needed, no NaN", shown, value.isnan().fill_null(False))
        return value

    def _awaits_threshold(self, i: int, spec: ThresholdSpec) -> None:
        value, by = threshold_columns(i)
        self.columns[value] = self._number(f"tasks[{i}].threshold.value")
        if spec.by is not None:
            self.columns[by] = self._threshold_by(i)

    def _weight(self) -> None:
        value = self._number("weight")
        self.columns |= {WEIGHT_COLUMN: value, "__weight": value}
        good = (value >= 0) & ~_no_float32(value)
        self._rule("weight", "a sample weight is finite and at least 0", "__weight", ~good.fill_null(False))

    def _group(self) -> None:
        value = self._build("group")
        if isinstance(value, ir.StringValue):
            value = hashed_number(value, _GROUP_DIGITS)
        if not isinstance(value, ir.IntegerValue):
            raise self._refuse("group", value, "a group is an integer or text", "cast it, e.g. cast(x as bigint)")
        self.columns[GROUP_COLUMN] = value.cast("int64")

    def _hashed(self, key: str) -> ir.StringValue:
        """The text that is hashed of an expression's value."""
        value = self._build(key)
        if not isinstance(value, ir.StringValue | ir.IntegerValue):
            raise self._refuse(key, value, "what is hashed is an integer or text", "cast it, e.g. cast(x as bigint)")
        return text_of(value)

    def _split(self) -> None:
        split = self.config.split
        if isinstance(split, DaySplit):
            chosen = self._by_day(split)
        elif isinstance(split, HeldOutSplit):
            chosen = self._held_out(split)
        elif isinstance(split, HashSplit):
            text = ibis.literal(f"{split.seed}:").concat(self._hashed("split.value"))
            chosen = ibis.cases(
                (below(text, split.test), SPLITS.index("test")),
                (below(text, split.test + split.valid), SPLITS.index("valid")),
                else_=SPLITS.index("train"),
            )
            self.columns["__split_text"] = self._hashed("split.value")
            self._rule("split.value", "the value that is hashed is there", "__split_text", text.isnull())
        else:
            value = self._build("split.value")
            if not isinstance(value, ir.StringValue):
                raise self._refuse(
                    "split.value", value, "it gives the text train, valid or test", "use case when ... end"
                )
            chosen = ibis.cases(*((value == name, i) for i, name in enumerate(SPLITS)), else_=OUTSIDE)
            self.columns["__split_text"] = value
            self._rule("split.value", "it is train, valid or test", "__split_text", chosen == OUTSIDE)
        self.columns[SPLIT] = chosen.cast("int8")

    def _by_day(self, split: DaySplit) -> ir.IntegerValue:
        day = self.columns[DAY]

        def inside(first: int | str, last: int | str) -> ir.BooleanValue:
            return day.between(self._number_of(first), self._number_of(last)).fill_null(False)

        test: ir.BooleanValue = inside(*split.test)
        branches = [(inside(*split.train), SPLITS.index("train"))]
        if split.valid is not None:
            branches.append((inside(*split.valid), SPLITS.index("valid")))
        elif split.valid_share is not None:
            value = (
                text_of(self.columns[GROUP_COLUMN]) if split.valid_hash is None else self._hashed("split.valid_hash")
            )
            held = below(ibis.literal("valid:").concat(value), split.valid_share).fill_null(False)
            branches.append((test & held, SPLITS.index("valid")))
        branches.append((test, SPLITS.index("test")))
        return ibis.cases(*branches, else_=OUTSIDE)

    def _held_out(self, split: HeldOutSplit) -> ir.IntegerValue:
        first, last = (self._number_of(day) for day in split.days)
        value = text_of(self.columns[GROUP_COLUMN]) if split.hash is None else self._hashed("split.hash")
        text = ibis.literal("held out:").concat(value)
        outside = ~self.columns[DAY].between(first, last).fill_null(False)
        return ibis.cases(
            (outside, OUTSIDE),
            (below(text, split.test).fill_null(False), SPLITS.index("test")),
            (below(text, split.test + split.valid).fill_null(False), SPLITS.index("valid")),
            else_=SPLITS.index("train"),
        )

    def _number_of(self, day: int | str) -> int:
        if isinstance(day, str):
            return number_of(day)
        assert self.day_1 is not None
        return self.day_1 + day - 1

    def _sampling(self) -> None:
        """Rows that are left out lie in no split; those kept by chance weigh more."""
        sampling = self.config.sampling
        if sampling is None:
            if WEIGHT_COLUMN in self.columns:
                self.columns[WEIGHT_COLUMN] = _float32(self.columns[WEIGHT_COLUMN])
            return
        texts = [self._hashed(f"sampling.hash[{i}]").fill_null("") for i in range(len(sampling.hash))]
        text = texts[0]
        for more in texts[1:]:
            text = text.concat(":", more)
        by_chance = (self.columns[SPLIT] == 0) & ~self._boolean("sampling.keep").fill_null(False)
        left_out = by_chance & ~below(ibis.literal("sampling:").concat(text), sampling.rate)
        self.columns[SPLIT] = ibis.ifelse(left_out, SAMPLED_OUT, self.columns[SPLIT]).cast("int8")
        weight = ibis.ifelse(by_chance, floating(1 / sampling.rate), floating(1.0))
        if WEIGHT_COLUMN in self.columns:
            weight = weight * self.columns[WEIGHT_COLUMN]
        self.columns[WEIGHT_COLUMN] = _float32(weight)


def _part(position: ir.IntegerValue, size: int) -> ir.IntegerValue:
    """Part that a position lies in; by a shift where that will do, for engines divide through floats."""
    shift = size.bit_length() - 1
    part = position >> shift if size == 1 << shift else quotient(position, size)
    return part.cast("int32")


def _float32(value: ir.FloatingValue) -> ir.FloatingValue:
    """As it is written; something in a bad row, which may be computed although it is left out."""
    return value.try_cast("float32")


def _no_float32(value: ir.FloatingValue) -> ir.BooleanValue:
    """NaN, or too large for float32."""
    return (value.isnan() | (value.abs() > floating(_LARGEST_FLOAT32))).fill_null(False)


def _label_rule(task: TaskSpec) -> tuple[str, _Rule]:
    """What a label must be, and where it is not."""
    if task.kind == "binary":
        return "a binary label is 0 or 1", lambda x: ~(~x.isnan() & ((x == 0) | (x == 1))).fill_null(False)
    words = [f"at least {task.minimum}"] * (task.minimum is not None)
    words += [f"at most {task.maximum}"] * (task.maximum is not None)

    def bad(x: ir.FloatingValue) -> ir.BooleanValue:
        found = exact.is_null(x) | x.isnan() | (x.abs() > floating(_LARGEST_FLOAT32))
        if task.minimum is not None:
            found |= x < floating(task.minimum)
        if task.maximum is not None:
            found |= x > floating(task.maximum)
        return found

    return f"the label is finite{' and ' if words else ''}{' and '.join(words)}", bad


def _broken_label(table: ir.Table, column: str, space: str | None, bad: _Rule) -> ir.BooleanValue:
    return bad(table[column]) if space is None else table[space] & bad(table[column])


def _first_of(conditions: Sequence[ir.BooleanValue], number: int) -> ir.IntegerValue:
    """The number of the first condition that holds, counted from `number`; 0 where none does."""
    if not conditions:
        return ibis.literal(0, "int16")
    branches = [(condition, i) for i, condition in enumerate(conditions, number)]
    return ibis.cases(*branches, else_=0).cast("int16")
