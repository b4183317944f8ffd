"""Survey of a log before anything is written: rows by split, by part and by day, and rows that break a rule.

`data_prep.pipeline` calls `survey` when the split of every row is known. `survey` refuses a log that must not become a
dataset, since too many rows are bad (break a rule of the configuration), or a split or a day has no rows.

In this module, part i of the log is its rows at the positions [i n, (i + 1) n), where n is `output.part_rows`. The
training rows of a part become one Parquet file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART, Engine
from data_prep.expressions.times import PER_SECOND, days_since_1970
from data_prep.sources.files import POSITION, RawTable
from data_prep.sources.table import shown_value
from data_prep.transforms.arithmetic import date_text, day_number
from data_prep.transforms.columns import DAY, REASON, SPLIT, SPLIT_KEY
from data_prep.transforms.expression_scope import readable_columns
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import Derived
from data_prep.transforms.splits import SAMPLED_OUT
from data_prep.transforms.words import THRESHOLD
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import DaySplit, HeldOutSplit
from ple_rec.errors import DataError

_MAX_EXAMPLES = 5  # Greatest number of rules, days or files that a message names.


@dataclass(frozen=True)
class RowRange:
    """Range of the log that contains all good rows of one split in one part.

    Args:
        rows: Number of the split's good rows in the range.
        first: Position of the first of these rows in the log.
        last: Position of the last of these rows in the log.
    """

    rows: int
    first: int
    last: int

    @property
    def is_contiguous(self) -> bool:
        """True if every row from the first to the last is a good row of the split."""
        return self.rows == self.last - self.first + 1

    def with_more(self, rows: int, first: int, last: int) -> RowRange:
        """Return the range with more rows of the same part."""
        return RowRange(self.rows + rows, min(self.first, first), max(self.last, last))


@dataclass
class Survey:
    """Counts of the rows of a log.

    Args:
        total: Number of rows that fulfil `log.where`.
        rows: Number of good rows, which break no rule, by split.
        part_ranges: Range of the good rows, by split and number of the part.
        rows_by_day: Number of good rows, by split and day. Days count from 1970-01-01.
        other_days: Days of the good rows that lie in no split.
        dropped_rows: Number of rows that are left out, by their split (None for rows in no split) and the reason.
        bad_rows_by_rule: Number of rows, by number (from 1) of the first rule in `Derived.rules` that they break.
        bad_rows_by_day: Number of rows that break a rule, by day; rows without a day are not counted.
        effective_groups: Effective number of groups, first in train, then in valid and test together. If n_g of n rows
            lie in group g, this is n^2 / (sum of n_g^2), the number of equal groups over which a mean varies as much as
            over these. None if the split does not keep all rows of a group, such as a user, together, and in the
            result of `count_rows`.
    """

    total: int = 0
    rows: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    part_ranges: dict[Split, dict[int, RowRange]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    rows_by_day: dict[Split, dict[int, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    other_days: set[int] = field(default_factory=set)
    dropped_rows: dict[tuple[Split | None, str], int] = field(default_factory=dict)
    bad_rows_by_rule: dict[int, int] = field(default_factory=dict)
    bad_rows_by_day: dict[int, int] = field(default_factory=dict)
    effective_groups: tuple[float, float] | None = None

    @property
    def bad_rows(self) -> int:
        """Number of rows that break a rule."""
        return sum(self.bad_rows_by_rule.values())

    def add_dropped(self, split: Split | None, reason: str, rows: int) -> None:
        """Add to the number of rows of a split (None for no split) that are left out for a reason."""
        self.dropped_rows[split, reason] = self.dropped_rows.get((split, reason), 0) + rows

    def merge_ranges(self, split: Split, parts: Sequence[int]) -> list[tuple[int, int, bool]]:
        """Merge the ranges of neighbouring parts, so that fewer queries read them.

        Contiguous ranges, which contain nothing but good rows of the split, are merged if they adjoin. Successive
        ranges that also contain other rows are always merged: all are filtered, and the filter removes the rows between
        them, too.

        Args:
            split: Split of the rows.
            parts: Numbers of the parts, in ascending order.

        Returns:
            First and last position of each merged range, and True if it may contain rows of other splits or bad rows.
        """
        merged: list[tuple[int, int, bool]] = []
        for part in parts:
            rows = self.part_ranges[split][part]
            if merged:
                first, last, needs_filter = merged[-1]
                if (needs_filter and not rows.is_contiguous) or (
                    not needs_filter and rows.is_contiguous and rows.first == last + 1
                ):
                    merged[-1] = (first, rows.last, needs_filter)
                    continue
            merged.append((rows.first, rows.last, not rows.is_contiguous))
        return merged


def survey(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, day_1: int | None) -> Survey:
    """Count the rows of a log, and refuse a log that breaks the rules of its configuration.

    Args:
        engine: Engine that counts the rows.
        derived: Rows of the log with their computed columns: part, split, day and the rule that they break.
        resolved: Configuration with its expressions.
        raw: Files of the log.
        day_1: Day that the configuration counts as day 1, in days from 1970-01-01; None if it counts none so.

    Raises:
        DataError: The log has more bad rows than the configuration allows, a day or a split has no rows, or the number
            of rows that were read differs from the footers.
    """
    counts = count_rows(engine, derived)
    _check_total(resolved, raw, counts)
    counts.dropped_rows = dict(sorted(counts.dropped_rows.items(), key=lambda each: (each[0][0] or "", each[0][1])))
    if counts.bad_rows:
        _check_bad_rows(engine, derived, resolved, raw, counts)
    check_splits(resolved, counts, day_1)
    rows = derived.table
    if SPLIT_KEY in rows.columns:
        counts.effective_groups = _effective_groups(engine, rows.filter(rows[REASON] == 0) if counts.bad_rows else rows)
    return counts


def count_rows(engine: Engine, derived: Derived) -> Survey:
    """Count the rows of a log without any check; `effective_groups` stays None."""
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
            counts.add_dropped("train", "left out by sampling", count)
        elif name is None and not reason:
            counts.add_dropped(None, "in no split", count)
            if day is not None:
                counts.other_days.add(day)
        elif reason:
            counts.bad_rows_by_rule[reason] = counts.bad_rows_by_rule.get(reason, 0) + count
            if day is not None:
                counts.bad_rows_by_day[day] = counts.bad_rows_by_day.get(day, 0) + count
            counts.add_dropped(name, derived.rules[reason - 1].reason, count)
        elif name is not None:
            counts.rows[name] += count
            ends = (row["first"], row["last"])
            known = counts.part_ranges[name].get(part)
            counts.part_ranges[name][part] = RowRange(count, *ends) if known is None else known.with_more(count, *ends)
            if day is not None:
                counts.rows_by_day[name][day] = counts.rows_by_day[name].get(day, 0) + count
    return counts


def check_splits(resolved: Resolved, counts: Survey, day_1: int | None) -> None:
    """Refuse a day of the split without rows, and a split without rows.

    Raises:
        DataError: A day or a split has no rows.
    """
    _check_days(resolved, counts, day_1)
    for split in SPLITS:
        if not counts.rows[split]:
            raise _empty_split_error(resolved, split, counts)


def _effective_groups(engine: Engine, rows: ir.Table) -> tuple[float, float]:
    """Return `Survey.effective_groups`; a row without a group counts as a group of its own."""
    in_splits = rows.filter(rows[SPLIT] >= 0)
    sizes = in_splits.group_by([SPLIT, SPLIT_KEY]).aggregate(rows=in_splits.count().cast("int64"))
    square = ibis.ifelse(sizes[SPLIT_KEY].isnull(), sizes["rows"], sizes["rows"] * sizes["rows"])
    summed = sizes.group_by(SPLIT).aggregate(rows=sizes["rows"].sum(), squares=square.sum())
    by_split = engine.fetch(summed).to_pylist()  # The column SPLIT has the index in SPLITS: 0 is train.
    train = [row for row in by_split if row[SPLIT] == 0]
    evaluated = [row for row in by_split if row[SPLIT] != 0]
    return _effective_number(train), _effective_number(evaluated)


def _effective_number(splits: Sequence[Mapping[str, Any]]) -> float:
    number: float = sum(row["rows"] for row in splits) ** 2 / sum(row["squares"] for row in splits)
    return number


def _empty_split_error(resolved: Resolved, split: Split, counts: Survey) -> DataError:
    """Return the error of a split without rows. It says how many rows were left out of the split, and why."""
    left_out = {reason: rows for (name, reason), rows in counts.dropped_rows.items() if name == split}
    value, fix = f"no row lies in {split}", _empty_split_fix(resolved, split)
    if left_out:
        main_reason = max(left_out, key=lambda reason: left_out[reason])
        value += f" (left out of it: {_rows_text(sum(left_out.values()))}, mostly by {main_reason})"
        fix = "correct the rule, or the rows"
    rule = "train, valid and test each need rows, since training reads all three"
    return DataError(f"{resolved.place}: split", value, rule, fix)


def _empty_split_fix(resolved: Resolved, split: Split) -> str:
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
        counts.add_dropped(None, f"not log.where: {resolved.config.log.where}", raw.rows - total)
        return
    raise DataError(
        ", ".join(file.display_name for file in raw.files[:_MAX_EXAMPLES])
        + (", ..." if len(raw.files) > _MAX_EXAMPLES else ""),
        f"{total:,} rows were read",
        f"the footers count {raw.rows:,}",
        "a file is damaged: copy or write it again",
    )


def _check_bad_rows(engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, counts: Survey) -> None:
    """Refuse more bad rows than the configuration allows.

    The message shows the first row that breaks each of the five rules that are broken most often.
    """
    config = resolved.config
    drops_bad_rows = config.on_bad_row == "drop"
    bad, count, total = counts.bad_rows_by_rule, counts.bad_rows, counts.total
    if count <= (config.max_bad_fraction if drops_bad_rows else 0.0) * total:
        return
    first, *more = sorted(bad, key=lambda reason: (-bad[reason], reason))[:_MAX_EXAMPLES]
    place, value, rule, rule_fix = _first_bad_row(engine, derived, resolved, raw, counts, first)
    rule += f" ({_rows_text(bad[first])})"
    for reason in more:
        other_place, other_value, other_rule, _ = _first_bad_row(engine, derived, resolved, raw, counts, reason)
        rule += f"\n  also {other_place}: {other_value}; {other_rule} ({_rows_text(bad[reason])})"
    if rest := len(bad) - 1 - len(more):
        rule += f"\n  and {rest} more rules are broken"
    if drops_bad_rows:
        rule += f"\n  {count:,} of {total:,} rows are bad, more than max_bad_fraction = {config.max_bad_fraction}"
        fix = "correct the log or the configuration, or raise max_bad_fraction"
    else:
        fix = 'correct the log or the configuration, or drop such rows: on_bad_row = "drop"'
    raise DataError(place, value, rule, rule_fix or fix)


def _rows_text(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _first_bad_row(
    engine: Engine, derived: Derived, resolved: Resolved, raw: RawTable, counts: Survey, reason: int
) -> tuple[str, str, str, str | None]:
    """Return place, value, rule and fix of the first row that breaks a rule; the fix is None if none is known.

    `reason` is the rule's number in `Derived.rules`, from 1.
    """
    rule, position, raw_value = derived.find_first_broken(engine, reason)
    fix = rule.fix
    # Another unit is proposed only if most rows break the rule, since it would make all other rows bad.
    if rule.key == "time.value" and 2 * counts.bad_rows_by_rule[reason] > counts.total:
        fix = _time_unit_fix(resolved, raw_value)
    if raw_value is None:
        fix = fix or _missing_label_fix(resolved, rule.key)
    return raw.locate(position), f"{resolved.quoted(rule.key)} is {shown_value(raw_value)}", rule.rule, fix


def no_day_error(engine: Engine, rows: ir.Table, resolved: Resolved) -> DataError:
    """Return the error of a log without rows, or whose rows have no time within the bounds; it shows the first row."""
    config = resolved.config.time
    assert config is not None  # A split by day requires `[time]`.
    value = resolved.build("time.value", readable_columns(rows))
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
        _time_unit_fix(resolved, raw_value) or "correct [time]",
    )


def _missing_label_fix(resolved: Resolved, key: str) -> str | None:
    """Return the fix for rows without a label: a condition `space` that leaves them out of that task alone.

    The fix does not drop the rows, since the other tasks would lose them, too: in a chain of tasks such as click and
    conversion, a label is missing in every row that did not reach its task. The result is None if `key` is no label.
    """
    for i, task in enumerate(resolved.config.tasks):
        if key == f"tasks[{i}].label" and THRESHOLD not in resolved.parsed[key].columns:
            label = resolved.parsed[key]
            operand = label.text if label.text in label.columns else f"({label.text})"
            space = "" if task.space is None else f"({task.space}) and "
            space = json.dumps(f"{space}{operand} is not null", ensure_ascii=False)
            return f"say where it exists: tasks[{i}].space = {space}, or correct the log"
    return None


def _time_unit_fix(resolved: Resolved, value: object) -> str | None:
    """Return the fix for a time that lies within the bounds if it is read in another unit; None if no unit fits."""
    config = resolved.config.time
    if config is None or not isinstance(value, int):
        return None
    for unit, per_second in PER_SECOND.items():
        day = (value // per_second + config.offset_seconds) // 86_400
        if unit != config.unit and days_since_1970(config.earliest) <= day <= days_since_1970(config.latest):
            return f'as {unit} it is {date_text(day)}: set time.unit = "{unit}"'
    return None


def _check_days(resolved: Resolved, counts: Survey, day_1: int | None) -> None:
    """Refuse a split by day in which a day has no row, unless the configuration allows the day to be empty."""
    split = resolved.config.split
    if not isinstance(split, DaySplit):
        return
    allowed_empty = {day_number(day, day_1) for day in split.empty_days}
    days_by_split = {name: set(days) for name, days in counts.rows_by_day.items()}
    if split.valid is None:  # Then valid is a share of the rows of the test days.
        days_by_split["test"] |= days_by_split["valid"]
    for name, (first, last) in split.ranges.items():
        days, required = days_by_split[name], range(day_number(first, day_1), day_number(last, day_1) + 1)
        if missing := [day for day in required if day not in days and day not in allowed_empty]:
            examples = ", ".join(date_text(day) for day in missing[:_MAX_EXAMPLES])
            more = f" and {len(missing) - _MAX_EXAMPLES} more" if len(missing) > _MAX_EXAMPLES else ""
            value = f"no row on {examples}{more}"
            fix = "give the missing files, correct the range or [time], or list the day in split.empty_days"
            if bad := sum(counts.bad_rows_by_day.get(day, 0) for day in missing):
                value += f" but {bad:,} bad ones, which are left out"
                fix = 'correct the rule or the rows; on_bad_row = "refuse" names both'
            rule = f"every day from {date_text(required[0])} to {date_text(required[-1])} has rows"
            raise DataError(f"{resolved.place}: split.{name}", value, rule, fix)
