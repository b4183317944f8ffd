"""Configuration of a day that is appended to a parent dataset (`ple-rec prep --append`).

An appended day becomes a dataset of its own. It keeps the vocabularies, bucket edges and thresholds of its parent, so
that a model that was trained on the parent can train on it, too.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from data_prep.expressions.times import days_since_1970
from data_prep.output.parent import Parent
from data_prep.transforms.arithmetic import date_text
from ple_rec.config.diff import Difference, disallowed_differences
from ple_rec.config.prep import CsvConfig, DaySplit, HeldOutSplit, PrepConfig, TableSpec, iso_date
from ple_rec.errors import Option, UserError

logger = logging.getLogger(__name__)

_MAX_LISTED = 4  # Greatest number of differences or days that a message lists.
_CHANGEABLE_KEYS = ("append", "on_bad_row", "max_bad_fraction", "output", "name")  # An appended day may change these.
# Files of the log and of side tables may change, too; before two configurations are compared, both get these values.
_NO_FILES: dict[str, Any] = {"files": (), "format": None, "csv": CsvConfig()}
_NAMED_LISTS = ("sparse", "dense", "vectors", "rates", "histories", "tasks")
_DAY_ARGUMENT = re.compile(r"(?:day=)?(\d{1,6}|\d{4}-\d\d-\d\d)")


def parse_day(text: str) -> int | str:
    """Parse the value of `--append`: `day=9` gives the number 9, `day=2022-05-08` the date. `day=` may be left out.

    Raises:
        UserError: The text is neither a number from 1 on nor a date.
    """
    match = _DAY_ARGUMENT.fullmatch(text.strip())
    try:
        if match is not None:
            return int(match[1]) if match[1].isdigit() and int(match[1]) > 0 else iso_date(match[1])
    except ValueError:
        pass
    raise UserError(
        f"{Option.APPEND} {text}", "no day", "it reads day=9 or day=2022-05-08", "count days from 1, or give a date"
    )


def append_config(parent: Parent, requested: PrepConfig, day: int | str) -> PrepConfig:
    """Return the configuration of an appended day, and warn of days between it and its parent.

    Args:
        parent: Dataset whose ids the appended day keeps.
        requested: Configuration that the user gives for the day. Its columns must be those of the parent.
        day: Day that is appended: a date, or a number that counts from day 1 of the parent.

    Returns:
        Configuration of the parent with the day as its only day. The raw files, the shares of valid and test, and the
        values of `_CHANGEABLE_KEYS` are those of `requested`.

    Raises:
        UserError: The parent is not split by day, cannot hold out groups or has no day 1 for a number, a column
            differs, or the day is not after the parent's training days.
    """
    split = parent.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        raise UserError(
            str(parent.path), f'split.by = "{split.by}"', "days are appended to a split by day", "prepare the whole log"
        )
    _check_same_columns(parent, requested)
    epoch_day = _epoch_day(day, parent)
    first, last = (_epoch_day(end, parent) for end in (split.train if isinstance(split, DaySplit) else split.days))
    if epoch_day <= last:
        seen = "is in train already" if epoch_day >= first else f"is before {date_text(last)}, the last day of train"
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"in {parent.path} {date_text(epoch_day)} {seen}",
            "days are trained once, and in order",
            f"name a day after {date_text(last)}",
        )
    _warn_of_gap(parent, day, epoch_day)
    config = parent.config
    # The date is the seed, so that other groups (such as users) are held out each day, and a new user that is held out
    # today can get an id on a later day. If the parent holds out groups without a seed, the same groups stay held out.
    seed = date_text(epoch_day) if isinstance(split, DaySplit) or split.seed else ""
    held_out = HeldOutSplit(
        by="held_out",
        day_1=split.day_1,
        days=(date_text(epoch_day), date_text(epoch_day)),
        valid=requested.append.valid,
        test=requested.append.test,
        hash=split.valid_hash if isinstance(split, DaySplit) else split.hash,
        seed=seed,
    )
    if held_out.hash is None and config.group is None:
        raise UserError(
            str(parent.path),
            "no group, and no split.valid_hash",
            "an appended day holds out whole groups for valid and test",
            "prepare the first days again with `group`",
        )
    requested_values = {name: getattr(requested, name) for name in (*_CHANGEABLE_KEYS, "log", "sides")}
    return config.model_copy(update={"split": held_out} | requested_values)


def _last_epoch_day(parent: Parent) -> int:
    """Return the last day of the parent over all its splits, as a number of days since 1970-01-01."""
    split = parent.config.split
    assert isinstance(split, DaySplit | HeldOutSplit)
    ranges = split.ranges.values() if isinstance(split, DaySplit) else [split.days]
    return max(_epoch_day(last, parent) for _, last in ranges)


def _warn_of_gap(parent: Parent, day: int | str, epoch_day: int) -> None:
    """Warn of the days between the last day of the parent and the appended day."""
    end = _last_epoch_day(parent)
    days = range(end + 1, epoch_day)
    if not days:
        return
    more = [f"{len(days) - _MAX_LISTED} more"] if len(days) > _MAX_LISTED else []
    readers = [name for name in ("rates", "histories") if getattr(parent.config, name)]
    *first, last = [*map(date_text, days[:_MAX_LISTED]), *more]
    logger.warning(
        "--append day=%s: %s %s left out, for %s ends on %s; days are appended in order, so no later dataset can add "
        "them%s. Fix: append them first, if the log has them",
        day,
        f"{', '.join(first)} and {last}" if first else last,
        "is" if len(days) == 1 else "are",
        parent.path,
        date_text(end),
        f", and their rows count in {' and '.join(readers)} only if they are in this log" if readers else "",
    )


def _epoch_day(day: int | str, parent: Parent) -> int:
    """Return a day, given as in the parent's split by date or number, as a number of days since 1970-01-01.

    Raises:
        UserError: The day is a number, and the parent names its days by date, so that it has no day 1.
    """
    if isinstance(day, str):
        return days_since_1970(day)
    if parent.config.day_1 is None:
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"{parent.path} names its days by date",
            "a day number counts from day 1, which this dataset does not have",
            f"name the date; the day after its last one is day={date_text(_last_epoch_day(parent) + 1)}",
        )
    return days_since_1970(parent.config.day_1) + day - 1


def _check_same_columns(parent: Parent, requested: PrepConfig) -> None:
    """Refuse a configuration that differs from the parent's in more than an appended day may change.

    Raises:
        UserError: Side tables, features, rates, histories, tasks, embedding tables, or the settings of `_day_settings`
            differ.
    """
    old, new = parent.config.with_found_values_of(parent.config), requested.with_found_values_of(parent.config)
    old_names, new_names = _column_names(old), _column_names(new)
    differing: list[Difference] = [
        (key, old_names[key], new_names[key]) for key in old_names if old_names[key] != new_names[key]
    ]
    # If the names of side tables, features, rates, histories or tasks differ, the message lists the names, and their
    # definitions are not compared. A pattern `sparse[[]*` matches the keys that begin with `sparse[`.
    ignored_keys = [*_CHANGEABLE_KEYS, "split", *(each for key, _, _ in differing for each in (key, f"{key}[[]*"))]
    differing += disallowed_differences(_with_defaults(old, new), _with_defaults(new, old), ignored_keys)
    settings = zip(_day_settings(old).items(), _day_settings(new).values(), strict=True)
    differing += [
        (f"split.{key}", old_value, new_value) for (key, old_value), new_value in settings if old_value != new_value
    ]
    if differing:
        listed = [
            f"{key} = {_value_text(old_value)}, now {_value_text(new_value)}"
            for key, old_value, new_value in differing[:_MAX_LISTED]
        ]
        more = [f"{len(differing) - _MAX_LISTED} more"] if len(differing) > _MAX_LISTED else []
        raise UserError(
            str(parent.path),
            f"was prepared with {'; '.join([*listed, *more])}",
            "an appended day keeps every column's meaning",
            "use the configuration of the first days, or prepare all days again",
        )


def _column_names(config: PrepConfig) -> dict[str, list[str]]:
    """Return the names of side tables, features, rates, histories and tasks, by key of the configuration."""
    return {"sides": sorted(config.sides)} | {
        key: [entry.name for entry in getattr(config, key)] for key in _NAMED_LISTS
    }


def _vocabulary_tables(config: PrepConfig) -> set[str]:
    return {feature.table_name for feature in config.sparse if not feature.bucketised}


def _with_defaults(config: PrepConfig, other: PrepConfig) -> PrepConfig:
    """Return a configuration with its defaults filled in and without files, so that equal columns compare equal.

    Args:
        config: Configuration to fill in.
        other: Configuration that it is compared with; embedding tables that only one of the two has are left out.
    """
    tables = _vocabulary_tables(config) & _vocabulary_tables(other)
    sparse = [{"value": f.source, "table": f.table_name} for f in config.sparse]
    return config.model_copy(
        update={
            "log": config.log.model_copy(update=_NO_FILES),
            "sides": {name: side.model_copy(update=_NO_FILES) for name, side in config.sides.items()},
            "tables": {name: config.tables.get(name, TableSpec()) for name in sorted(tables)},
            "sparse": tuple(f.model_copy(update=update) for f, update in zip(config.sparse, sparse, strict=True)),
            "dense": tuple(number.model_copy(update={"value": number.source}) for number in config.dense),
            "vectors": tuple(vector.model_copy(update={"value": vector.source}) for vector in config.vectors),
            "tasks": tuple(task.model_copy(update={"label": task.source}) for task in config.tasks),
        }
    )


def _day_settings(config: PrepConfig) -> dict[str, str | None]:
    """Return the settings of a split by day that an appended day must keep, in a form common to both kinds of split."""
    split = config.split
    if isinstance(split, DaySplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.valid_hash}
    if isinstance(split, HeldOutSplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.hash}
    return {"by": split.by, "day_1": None, "valid_hash": None}


def _value_text(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
