"""Survey of the rows before anything is written: counts by split, part and day, and the rows that break a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART, Engine
from data_prep.sources.files import POSITION, RawTable
from data_prep.sources.table import shown_value
from data_prep.transforms.arithmetic import PER_SECOND, date_text, day_number, days_since_1970
from data_prep.transforms.columns import DAY, REASON, SPLIT, SPLIT_KEY
from data_prep.transforms.expression_scope import columns_of
from data_prep.transforms.resolve import THRESHOLD, Resolved
from data_prep.transforms.rows import Derived
from data_prep.transforms.splits import SAMPLED_OUT
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import DaySplit, HeldOutSplit
from ple_rec.errors import DataError

_EXAMPLES = 5  # A message names so many rules, days or files.


@dataclass(frozen=True)
class RowRange:
    """Rows of a split in a part of the log.

    Args:
        rows: Number of the rows.
        first: Position of the first row.
        last: Position of the last row.
    """

    rows: int
    first: int
    last: int

    @property
    def whole(self) -> bool:
        """True if no other row lies between the first and the last."""
        return self.rows == self.last - self.first + 1

    def with_more(self, rows: int, first: int, last: int) -> RowRange:
        """Return the range with more rows of the same part."""
        return RowRange(self.rows + rows, min(self.first, first), max(self.last, last))


@dataclass
class Survey:
    """Counts of the rows of a log.

    Args:
        total: Number of the rows that fulfil `log.where`.
        rows: Number of good rows by split.
        parts: Range of the good rows by split and part.
        days: Number of good rows by split and day, in days from 1970-01-01.
        other_days: Days of the good rows that lie in no split.
        dropped: Number of rows that are left out by split, None for no split, and reason.
        broken: Number of rows that break a rule, by index of the rule in `Derived.rules`, counted from 1.
        bad_days: Number of rows that break a rule, by day; rows without a day are left out.
        groups: Effective number of groups in train, and in valid and test, if the split keeps groups together; else
            None. For n rows, n_g of them in group g, it is n^2 / (sum of n_g^2): a mean over so many groups of equal
            size varies as much as over these.
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
        """Number of rows that break a rule."""
        return sum(self.broken.values())

    def drop(self, split: Split | None, reason: str, rows: int) -> None:
        """Add to the number of rows that are left out for a reason."""
        self.dropped[split, reason] = self.dropped.get((split, reason), 0) + rows


def survey(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, day_1: int | None) -> Survey:
    """Count the rows, and refuse a log that the configuration does not allow.

    Args:
        engine: Engine that counts the rows.
        derived: Derived rows of the log.
        resolved: Configuration with its expressions.
        raw: Files of the log.
        day_1: Days from 1970-01-01 to day 1; None if the configuration does not count days.

    Raises:
        DataError: The log has more bad rows than the configuration allows, or a day or a split has no rows.
    """
    counts = count_rows(engine, derived)
    _check_total(resolved, raw, counts)
    counts.dropped = dict(sorted(counts.dropped.items(), key=lambda each: (each[0][0] or "", each[0][1])))
    if counts.bad:
        _judge(engine, derived, resolved, raw, counts)
    check_splits(resolved, counts, day_1)
    rows = derived.table
    if SPLIT_KEY in rows.columns:
        counts.groups = _groups(engine, rows.filter(rows[REASON] == 0) if counts.bad else rows)
    return counts


def count_rows(engine: Engine, derived: Derived) -> Survey:
    """Count the rows without any check."""
    rows = derived.table
    counted = rows.group_by([PART, SPLIT, DAY, REASON]).aggregate(
        rows=rows.count(), first=rows[POSITION].min(), last=rows[POSITION].max()
    )
    counts = Survey()
    for row in engine.fetch(counted).to_pylist():
        part, split, day, reason, count = (row[c] for c in (PART, SPLIT, DAY, REASON, "rows"))
        name = SPLITS[split] if split >= 0 else None
        counts.total += count
        if split == SAMPLED_OUT and not reason:
            counts.drop("train", "left out by sampling", count)
        elif name is None and not reason:
            counts.drop(None, "in no split", count)
            if day is not None:
                counts.other_days.add(day)
        elif reason:
            counts.broken[reason] = counts.broken.get(reason, 0) + count
            if day is not None:
                counts.bad_days[day] = counts.bad_days.get(day, 0) + count
            counts.drop(name, derived.rules[reason - 1].reason, count)
        elif name is not None:
            counts.rows[name] += count
            ends = (row["first"], row["last"])
            known = counts.parts[name].get(part)
            counts.parts[name][part] = RowRange(count, *ends) if known is None else known.with_more(count, *ends)
            if day is not None:
                counts.days[name][day] = counts.days[name].get(day, 0) + count
    return counts


def check_splits(resolved: Resolved, counts: Survey, day_1: int | None) -> None:
    """Refuse a day of the split without rows, and a split without rows.

    Raises:
        DataError: A day or a split has no rows.
    """
    _check_days(resolved, counts, day_1)
    for split in SPLITS:
        if not counts.rows[split]:
            raise _empty(resolved, split, counts)


def _groups(engine: Engine, rows: ir.Table) -> tuple[float, float]:
    """Return `Survey.groups`; a row without a group is a group of its own."""
    in_splits = rows.filter(rows[SPLIT] >= 0)
    sizes = in_splits.group_by([SPLIT, SPLIT_KEY]).aggregate(rows=in_splits.count().cast("int64"))
    square = ibis.ifelse(sizes[SPLIT_KEY].isnull(), sizes["rows"], sizes["rows"] * sizes["rows"])
    summed = sizes.group_by(SPLIT).aggregate(rows=sizes["rows"].sum(), squares=square.sum())
    by_split = engine.fetch(summed).to_pylist()
    train = [row for row in by_split if row[SPLIT] == 0]
    evaluated = [row for row in by_split if row[SPLIT] != 0]
    return _effective_number(train), _effective_number(evaluated)


def _effective_number(splits: Sequence[Mapping[str, Any]]) -> float:
    number: float = sum(row["rows"] for row in splits) ** 2 / sum(row["squares"] for row in splits)
    return number


def _empty(resolved: Resolved, split: Split, counts: Survey) -> DataError:
    """Return the error of a split without rows; it names the rows that were left out of the split, if any."""
    left_out = {reason: rows for (name, reason), rows in counts.dropped.items() if name == split}
    value, fix = f"no row lies in {split}", _more(resolved, split)
    if left_out:
        most = max(left_out, key=lambda reason: left_out[reason])
        value += f" (left out of it: {_rows(sum(left_out.values()))}, mostly by {most})"
        fix = "correct the rule, or the rows"
    rule = "train, valid and test each need rows, since training reads all three"
    return DataError(f"{resolved.place}: split", value, rule, fix)


def _more(resolved: Resolved, split: Split) -> str:
    """Return the fix for a split without rows."""
    appended = isinstance(resolved.config.split, HeldOutSplit)
    if appended and split != "train":
        return f"hold more out of the day by append.{split}, or give more of the log"
    return f"{'give the files of the day' if appended else 'correct [split]'}, or give more of the log"


def _check_total(resolved: Resolved, raw: RawTable, counts: Survey) -> None:
    """Check that each row of the files was counted once; rows that `log.where` leaves out are recorded as dropped."""
    if (total := counts.total) == raw.rows:
        return
    if total < raw.rows and resolved.config.log.where is not None:
        counts.drop(None, f"not log.where: {resolved.config.log.where}", raw.rows - total)
        return
    raise DataError(
        ", ".join(file.shown for file in raw.files[:_EXAMPLES]) + (", ..." if len(raw.files) > _EXAMPLES else ""),
        f"{total:,} rows were read",
        f"the footers count {raw.rows:,}",
        "a file is damaged: copy or write it again",
    )


def _judge(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, counts: Survey) -> None:
    """Refuse more bad rows than the configuration allows; the message shows the first row of each reason."""
    config = resolved.config
    drop = config.on_bad_row == "drop"
    bad, count, total = counts.broken, counts.bad, counts.total
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
    """Return place, value, rule and fix of the first row that breaks a rule; the general fix is None."""
    rule, position, raw_value = derived.first_broken(engine, reason)
    hint = _unit_hint(resolved, raw_value) if rule.key == "time.value" else rule.fix
    if raw_value is None:
        hint = hint or _space_hint(resolved, rule.key)
    return raw.locate(position), f"{resolved.quoted(rule.key)} is {shown_value(raw_value)}", rule.rule, hint


def no_day(engine: Engine, rows: ir.Table, resolved: Resolved) -> DataError:
    """Return the error of a log without a row whose day is in range; it shows the first row."""
    config = resolved.config.time
    assert config is not None
    value = resolved.build("time.value", columns_of(rows))
    first = engine.fetch(rows.select(POSITION, value=value).order_by(POSITION).limit(1)).to_pylist()
    if not first:
        return DataError(
            f"{resolved.place}: log", "no row", "day 1 is the first day of the log", "give more of the log"
        )
    raw = resolved.tables.get("log")
    place = f"{resolved.place}: time" if raw is None else raw.locate(first[0][POSITION])
    raw_value = first[0]["value"]
    return DataError(
        place,
        f"time.value `{config.value}` is {shown_value(raw_value)}",
        f"as {config.unit} it must lie between {config.earliest} and {config.latest}, and so in no row of the log",
        _unit_hint(resolved, raw_value) or "correct [time]",
    )


def _space_hint(resolved: Resolved, key: str) -> str | None:
    """Return the fix for rows whose label is missing: a space that leaves them out of the task; None for other keys.

    The fix does not drop such rows, since the other tasks would lose them, too: in a chain of tasks, a label is missing
    for every row that did not reach its task.
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
    """Return the fix for a time that lies in range in another unit; None if no unit fits."""
    config = resolved.config.time
    if config is None or not isinstance(value, int):
        return None
    for unit, per_second in PER_SECOND.items():
        day = (value // per_second + config.offset_seconds) // 86_400
        if unit != config.unit and days_since_1970(config.earliest) <= day <= days_since_1970(config.latest):
            return f'as {unit} it is {date_text(day)}: set time.unit = "{unit}"'
    return None


def _check_days(resolved: Resolved, counts: Survey, day_1: int | None) -> None:
    split = resolved.config.split
    if not isinstance(split, DaySplit):
        return
    allowed = {day_number(day, day_1) for day in split.empty_days}
    days_of = {name: set(days) for name, days in counts.days.items()}
    if split.valid is None:
        days_of["test"] |= days_of["valid"]
    for name, (first, last) in split.ranges.items():
        days, required = days_of[name], range(day_number(first, day_1), day_number(last, day_1) + 1)
        if missing := [day for day in required if day not in days and day not in allowed]:
            examples = ", ".join(date_text(day) for day in missing[:_EXAMPLES])
            more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
            value = f"no row on {examples}{more}"
            fix = "give the missing files, correct the range or [time], or list the day in split.empty_days"
            if bad := sum(counts.bad_days.get(day, 0) for day in missing):
                value += f" but {bad:,} bad ones, which are left out"
                fix = 'correct the rule or the rows; on_bad_row = "refuse" names both'
            rule = f"every day from {date_text(required[0])} to {date_text(required[-1])} has rows"
            raise DataError(f"{resolved.place}: split.{name}", value, rule, fix)
