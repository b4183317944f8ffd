"""One pass over the rows before anything is written: how many lie where, and which break a rule."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.output.parts import PART
from data_prep.sources.files import POSITION, RawTable
from data_prep.sources.table import shown_value
from data_prep.transforms.arithmetic import PER_SECOND, number_of, numbered, text_of
from data_prep.transforms.columns import DAY, DEALT, REASON, SPLIT
from data_prep.transforms.expression_scope import columns_of
from data_prep.transforms.resolve import THRESHOLD, Resolved
from data_prep.transforms.rows import Derived
from data_prep.transforms.splits import SAMPLED_OUT
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import DaySplit, HeldOutSplit
from ple_rec.errors import DataError

_EXAMPLES = 5  # rules that a message names


@dataclass(frozen=True)
class RowRange:
    """The rows of a split in a part of the log.

    Args:
        rows: How many.
        first: Position of the first.
        last: Position of the last.
    """

    rows: int
    first: int
    last: int

    @property
    def whole(self) -> bool:
        """Whether no other row lies between the first and the last."""
        return self.rows == self.last - self.first + 1

    def with_more(self, rows: int, first: int, last: int) -> RowRange:
        """With more rows of the same part."""
        return RowRange(self.rows + rows, min(self.first, first), max(self.last, last))


@dataclass
class Survey:
    """How many rows lie where.

    Args:
        total: Rows that were counted: those that `log.where` takes.
        rows: By split.
        parts: The rows of each part, by split.
        days: Rows by split and day, days from 1970-01-01.
        other_days: Days of good rows that lie in no split.
        dropped: Rows by split (or none) and reason.
        broken: Rows that break a rule, by the number of the rule in `Derived.rules`, counted from 1.
        bad_days: Those of them that have a day, by day.
        groups: Effective numbers of groups in train, and in valid and test, of a split that deals out whole groups of
            rows: n^2 / (sum of n_g^2) for n rows, n_g of them in group g. So many groups of equal size let a figure
            scatter as these do.
    """

    total: int = 0
    rows: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    parts: dict[Split, dict[int, RowRange]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    days: dict[Split, dict[int, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    other_days: set[int] = field(default_factory=set)
    dropped: dict[tuple[Split | None, str], int] = field(default_factory=dict)
    broken: dict[int, int] = field(default_factory=dict)
    bad_days: dict[int, int] = field(default_factory=dict)
    groups: tuple[float, float] | None = None

    @property
    def bad(self) -> int:
        """Rows that break a rule."""
        return sum(self.broken.values())

    def drop(self, split: Split | None, reason: str, rows: int) -> None:
        """Count rows that are left out."""
        self.dropped[split, reason] = self.dropped.get((split, reason), 0) + rows


def survey(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, day_1: int | None) -> Survey:
    """Count the rows, and refuse what the configuration does not let pass.

    Args:
        engine: Counts.
        derived: The rows.
        resolved: The configuration.
        raw: The log's files.
        day_1: As `derive` takes it.

    Raises:
        DataError: Bad rows, or too many of them; a day of the split without rows; an empty split.
    """
    found = count_rows(engine, derived)
    _check_total(resolved, raw, found)
    found.dropped = dict(sorted(found.dropped.items(), key=lambda each: (each[0][0] or "", each[0][1])))
    if found.bad:
        _judge(engine, derived, resolved, raw, found)
    check_splits(resolved, found, day_1)
    rows = derived.table
    if DEALT in rows.columns:
        found.groups = _groups(engine, rows.filter(rows[REASON] == 0) if found.bad else rows)
    return found


def count_rows(engine: Engine, derived: Derived) -> Survey:
    """Count the rows, and refuse none."""
    rows = derived.table
    counted = rows.group_by([PART, SPLIT, DAY, REASON]).aggregate(
        rows=rows.count(), first=rows[POSITION].min(), last=rows[POSITION].max()
    )
    found = Survey()
    for row in engine.fetch(counted).to_pylist():
        part, split, day, reason, count = (row[c] for c in (PART, SPLIT, DAY, REASON, "rows"))
        name = SPLITS[split] if split >= 0 else None
        found.total += count
        if split == SAMPLED_OUT and not reason:
            found.drop("train", "left out by sampling", count)
        elif name is None and not reason:
            found.drop(None, "in no split", count)
            if day is not None:
                found.other_days.add(day)
        elif reason:
            found.broken[reason] = found.broken.get(reason, 0) + count
            if day is not None:
                found.bad_days[day] = found.bad_days.get(day, 0) + count
            found.drop(name, derived.rules[reason - 1].reason, count)
        elif name is not None:
            found.rows[name] += count
            here = found.parts[name].get(part)
            ends = (row["first"], row["last"])
            found.parts[name][part] = RowRange(count, *ends) if here is None else here.with_more(count, *ends)
            if day is not None:
                found.days[name][day] = found.days[name].get(day, 0) + count
    return found


def check_splits(resolved: Resolved, found: Survey, day_1: int | None) -> None:
    """Refuse a day of the split without rows, and a split without any.

    Raises:
        DataError: There is one.
    """
    _check_days(resolved, found, day_1)
    for split in SPLITS:
        if not found.rows[split]:
            raise _empty(resolved, split, found)


def _groups(engine: Engine, rows: ir.Table) -> tuple[float, float]:
    """Count the groups of train, and of valid and test, as `Survey.groups` weighs them; rows without one are alone."""
    dealt = rows.filter(rows[SPLIT] >= 0)
    sizes = dealt.group_by([SPLIT, DEALT]).aggregate(rows=dealt.count().cast("int64"))
    square = ibis.ifelse(sizes[DEALT].isnull(), sizes["rows"], sizes["rows"] * sizes["rows"])
    summed = sizes.group_by(SPLIT).aggregate(rows=sizes["rows"].sum(), squares=square.sum())
    found = engine.fetch(summed).to_pylist()
    train, later = ([row for row in found if (row[SPLIT] == 0) is first] for first in (True, False))
    of = [sum(row["rows"] for row in side) ** 2 / sum(row["squares"] for row in side) for side in (train, later)]
    return of[0], of[1]


def _empty(resolved: Resolved, split: Split, found: Survey) -> DataError:
    """Return the error of a split without rows; rows that were left out of it tell more than where it should begin."""
    left_out = {reason: rows for (name, reason), rows in found.dropped.items() if name == split}
    value, fix = f"no row lies in {split}", _more(resolved, split)
    if left_out:
        most = max(left_out, key=lambda reason: left_out[reason])
        value += f" (left out of it: {_rows(sum(left_out.values()))}, mostly by {most})"
        fix = "correct the rule, or the rows"
    rule = "train, valid and test each need rows, for training reads all three"
    return DataError(f"{resolved.place}: split", value, rule, fix)


def _more(resolved: Resolved, split: Split) -> str:
    """What to do about a split without rows."""
    appended = isinstance(resolved.config.split, HeldOutSplit)
    if appended and split != "train":
        return f"hold more out of the day by append.{split}, or give more of the log"
    return f"{'give the files of the day' if appended else 'correct [split]'}, or give more of the log"


def _check_total(resolved: Resolved, raw: RawTable, found: Survey) -> None:
    """Every row of the files has been counted, once."""
    if (total := found.total) == raw.rows:
        return
    if total < raw.rows and resolved.config.log.where is not None:
        found.drop(None, f"not log.where: {resolved.config.log.where}", raw.rows - total)
        return
    raise DataError(
        ", ".join(file.shown for file in raw.files[:_EXAMPLES]) + (", ..." if len(raw.files) > _EXAMPLES else ""),
        f"{total:,} rows were read",
        f"the footers count {raw.rows:,}",
        "a file is damaged: copy or write it again",
    )


def _judge(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, found: Survey) -> None:
    """Refuse bad rows, where they are not dropped, by the first of each reason."""
    config = resolved.config
    drop = config.on_bad_row == "drop"
    bad, count, total = found.broken, found.bad, found.total
    if count <= (config.max_bad_fraction if drop else 0.0) * total:
        return
    first, *more = sorted(bad, key=lambda reason: (-bad[reason], reason))[:_EXAMPLES]
    place, value, rule, hint = _example(engine, derived, resolved, raw, first)
    rule += f" ({_rows(bad[first])})"
    for reason in more:
        where, what, broken, _ = _example(engine, derived, resolved, raw, reason)
        rule += f"\n  also {where}: {what}; {broken} ({_rows(bad[reason])})"
    if rest := len(bad) - 1 - len(more):
        rule += f"\n  and {rest} more rules are broken"
    if drop:
        rule += f"\n  {count:,} of {total:,} rows are bad, more than max_bad_fraction = {config.max_bad_fraction}"
        fix = "correct the log or the configuration, or raise max_bad_fraction"
    else:
        fix = 'correct the log or the configuration, or drop such rows: on_bad_row = "drop"'
    raise DataError(place, value, rule, hint or fix)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _example(
    engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, reason: int
) -> tuple[str, str, str, str | None]:
    """Return place, value and rule of the first row that breaks a rule, and the fix unless it is the general one."""
    rule, position, shown = derived.first_broken(engine, reason)
    hint = _unit_hint(resolved, shown) if rule.key == "time.value" else rule.fix
    if shown is None:
        hint = hint or _space_hint(resolved, rule.key)
    return raw.locate(position), f"{resolved.quoted(rule.key)} is {shown_value(shown)}", rule.rule, hint


def no_day(engine: Engine, rows: ir.Table, resolved: Resolved) -> DataError:
    """The error of a log of which no row has a day that may be one; it shows the first."""
    config = resolved.config.time
    assert config is not None
    value = resolved.build("time.value", columns_of(rows))
    first = rows.select(POSITION, shown=value).order_by(POSITION).limit(1)
    found = engine.fetch(first).to_pylist()
    if not found:
        return DataError(
            f"{resolved.place}: log", "no row", "day 1 is the first day of the log", "give more of the log"
        )
    raw = resolved.tables.get("log")
    place = f"{resolved.place}: time" if raw is None else raw.locate(found[0][POSITION])
    shown = found[0]["shown"]
    return DataError(
        place,
        f"time.value `{config.value}` is {shown_value(shown)}",
        f"as {config.unit} it must lie between {config.earliest} and {config.latest}, and so in no row of the log",
        _unit_hint(resolved, shown) or "correct [time]",
    )


def _space_hint(resolved: Resolved, key: str) -> str | None:
    """Return the space by which a task leaves out rows whose label is missing; None for any other key.

    Dropping such rows, of a chain all that did not come as far, would take them from the other tasks too.
    """
    for i, task in enumerate(resolved.config.tasks):
        if key == f"tasks[{i}].label" and THRESHOLD not in resolved.parsed[key].columns:
            label = resolved.parsed[key]
            known = label.text if label.text in label.columns else f"({label.text})"
            space = "" if task.space is None else f"({task.space}) and "
            space = json.dumps(f"{space}{known} is not null", ensure_ascii=False)
            return f"say where it exists: tasks[{i}].space = {space}, or correct the log"
    return None


def _unit_hint(resolved: Resolved, value: object) -> str | None:
    """Which unit would make a day of a value."""
    config = resolved.config.time
    if config is None or not isinstance(value, int):
        return None
    for unit, per_second in PER_SECOND.items():
        day = (value // per_second + config.offset_seconds) // 86_400
        if unit != config.unit and number_of(config.earliest) <= day <= number_of(config.latest):
            return f'as {unit} it is {text_of(day)}: set time.unit = "{unit}"'
    return None


def _check_days(resolved: Resolved, found: Survey, day_1: int | None) -> None:
    split = resolved.config.split
    if not isinstance(split, DaySplit):
        return
    allowed = {numbered(day, day_1) for day in split.empty_days}
    there = {name: set(days) for name, days in found.days.items()}
    if split.valid is None:
        there["test"] |= there["valid"]
    for name, (first, last) in split.ranges.items():
        days, wanted = there[name], range(numbered(first, day_1), numbered(last, day_1) + 1)
        if missing := [day for day in wanted if day not in days and day not in allowed]:
            shown = ", ".join(text_of(day) for day in missing[:_EXAMPLES])
            more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
            value = f"no row on {shown}{more}"
            fix = "give the missing files, correct the range or [time], or list the day in split.empty_days"
            if bad := sum(found.bad_days.get(day, 0) for day in missing):
                value += f" but {bad:,} bad ones, which are left out"
                fix = 'correct the rule or the rows; on_bad_row = "refuse" names both'
            rule = f"every day from {text_of(wanted[0])} to {text_of(wanted[-1])} has rows"
            raise DataError(f"{resolved.place}: split.{name}", value, rule, fix)
