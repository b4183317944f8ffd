"""Configuration of an appended day, which keeps the ids, edges and thresholds of its parent dataset."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from data_prep.output.parent import Parent
from data_prep.transforms.arithmetic import date_text, days_since_1970
from ple_rec.config.diff import Difference, changed_beyond
from ple_rec.config.prep import CsvConfig, DaySplit, HeldOutSplit, PrepConfig, TableSpec, iso_date
from ple_rec.errors import Option, UserError

logger = logging.getLogger(__name__)

_MOST_LISTED = 4  # A message lists so many differences, or days.
_OWN = ("append", "on_bad_row", "max_bad_fraction", "output", "name")  # An appended day may change these keys.
# Files of the log and of side tables may change, too, so they are compared with these values in their place.
_NO_FILES: dict[str, Any] = {"files": (), "format": None, "csv": CsvConfig()}
_LISTS = ("sparse", "dense", "tasks")
_FORM = re.compile(r"(?:day=)?(\d{1,6}|\d{4}-\d\d-\d\d)")


def parse_day(text: str) -> int | str:
    """Return the day of `--append day=9` or `day=2022-05-08`.

    Raises:
        UserError: The text is no day.
    """
    match = _FORM.fullmatch(text.strip())
    try:
        if match is not None:
            return int(match[1]) if match[1].isdigit() and int(match[1]) > 0 else iso_date(match[1])
    except ValueError:
        pass
    raise UserError(
        f"{Option.APPEND} {text}", "no day", "it reads day=9 or day=2022-05-08", "count days from 1, or give a date"
    )


def appended(parent: Parent, requested: PrepConfig, day: int | str) -> PrepConfig:
    """Return the configuration of an appended day, and warn of days between it and its parent.

    Args:
        parent: Dataset whose ids the appended day keeps.
        requested: Configuration of the user; its columns must mean the same as those of the parent.
        day: Day that is appended, a date or a number that counts from day 1.

    Raises:
        UserError: The parent is not split by day, columns have another meaning, or the day has been trained already.
    """
    split = parent.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        raise UserError(
            str(parent.path), f'split.by = "{split.by}"', "days are appended to a split by day", "prepare the whole log"
        )
    _check_same(parent, requested)
    number = _number(day, parent)
    first, last = (_number(each, parent) for each in (split.train if isinstance(split, DaySplit) else split.days))
    if number <= last:
        seen = "is in train already" if number >= first else f"is before {date_text(last)}, the last day of train"
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"in {parent.path} {date_text(number)} {seen}",
            "days are trained once, and in order",
            f"name a day after {date_text(last)}",
        )
    _warn_of_gap(parent, day, number)
    config = parent.config
    # With a seed, a group that is held out today is trained on another day, when a new user gets an id. Without a seed,
    # the dataset and the days that are appended to it hold out the same groups every day.
    seed = date_text(number) if isinstance(split, DaySplit) or split.seed else ""
    held_out = HeldOutSplit(
        by="held_out",
        day_1=split.day_1,
        days=(date_text(number), date_text(number)),
        valid=requested.append.valid,
        test=requested.append.test,
        hash=split.valid_hash if isinstance(split, DaySplit) else split.hash,
        seed=seed,
    )
    if held_out.hash is None and config.group is None:
        raise UserError(
            str(parent.path),
            "no group, and no split.valid_hash",
            "an appended day holds out whole groups",
            "prepare the first days again with `group`",
        )
    own = {name: getattr(requested, name) for name in (*_OWN, "log", "sides")}
    return config.model_copy(update={"split": held_out} | own)


def _end(parent: Parent) -> int:
    """Return the last day of all splits of the parent, in days from 1970-01-01."""
    split = parent.config.split
    assert isinstance(split, DaySplit | HeldOutSplit)
    ranges = split.ranges.values() if isinstance(split, DaySplit) else [split.days]
    return max(_number(last, parent) for _, last in ranges)


def _warn_of_gap(parent: Parent, day: int | str, number: int) -> None:
    """Warn of the days between the last day of the parent and the appended day."""
    end = _end(parent)
    days = range(end + 1, number)
    if not days:
        return
    more = [f"{len(days) - _MOST_LISTED} more"] if len(days) > _MOST_LISTED else []
    *first, last = [*map(date_text, days[:_MOST_LISTED]), *more]
    logger.warning(
        "--append day=%s: %s %s left out, for %s ends on %s; days are appended in order, so no later dataset can add "
        "them. Fix: append them first, if the log has them",
        day,
        f"{', '.join(first)} and {last}" if first else last,
        "is" if len(days) == 1 else "are",
        parent.path,
        date_text(end),
    )


def _number(day: int | str, parent: Parent) -> int:
    """Return the days from 1970-01-01 to a day of the parent's split.

    Raises:
        UserError: The day is a number, and the parent names its days by date.
    """
    if isinstance(day, str):
        return days_since_1970(day)
    if parent.config.day_1 is None:
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"{parent.path} names its days by date",
            "a number counts from day 1, and it has none",
            f"name the date; the day after its last one is day={date_text(_end(parent) + 1)}",
        )
    return days_since_1970(parent.config.day_1) + day - 1


def _check_same(parent: Parent, requested: PrepConfig) -> None:
    """Refuse a configuration in which columns have another meaning."""
    old, new = parent.config.filled_as(parent.config), requested.filled_as(parent.config)
    old_names, new_names = _names(old), _names(new)
    differing: list[Difference] = [
        (key, old_names[key], new_names[key]) for key in old_names if old_names[key] != new_names[key]
    ]
    beyond = [*_OWN, "split", *(each for key, _, _ in differing for each in (key, f"{key}[[]*"))]
    differing += changed_beyond(_written_out(old, new), _written_out(new, old), beyond)
    days = zip(_days(old).items(), _days(new).values(), strict=True)
    differing += [(f"split.{key}", before, after) for (key, before), after in days if before != after]
    if differing:
        listed = [
            f"{key} = {_value_text(before)}, now {_value_text(after)}"
            for key, before, after in differing[:_MOST_LISTED]
        ]
        more = [f"{len(differing) - _MOST_LISTED} more"] if len(differing) > _MOST_LISTED else []
        raise UserError(
            str(parent.path),
            f"was prepared with {'; '.join([*listed, *more])}",
            "an appended day keeps every column's meaning",
            "use the configuration of the first days, or prepare all days again",
        )


def _names(config: PrepConfig) -> dict[str, list[str]]:
    """Return the names of side tables, features and tasks; if these differ, their contents are not compared."""
    return {"sides": sorted(config.sides)} | {key: [each.name for each in getattr(config, key)] for key in _LISTS}


def _vocabularies(config: PrepConfig) -> set[str]:
    return {feature.table_name for feature in config.sparse if not feature.bucketised}


def _written_out(config: PrepConfig, other: PrepConfig) -> PrepConfig:
    """Return a configuration with defaults written out and without files, so that equal columns compare equal.

    Args:
        config: Configuration to write out.
        other: Configuration that it is compared with; tables that only one of the two has are left out.
    """
    tables = _vocabularies(config) & _vocabularies(other)
    sparse = [{"value": f.source, "table": f.table_name} for f in config.sparse]
    return config.model_copy(
        update={
            "log": config.log.model_copy(update=_NO_FILES),
            "sides": {name: side.model_copy(update=_NO_FILES) for name, side in config.sides.items()},
            "tables": {name: config.tables.get(name, TableSpec()) for name in sorted(tables)},
            "sparse": tuple(f.model_copy(update=update) for f, update in zip(config.sparse, sparse, strict=True)),
            "dense": tuple(number.model_copy(update={"value": number.source}) for number in config.dense),
            "tasks": tuple(task.model_copy(update={"label": task.source}) for task in config.tasks),
        }
    )


def _days(config: PrepConfig) -> dict[str, str | None]:
    """Return the values of a split that an appended day must keep."""
    split = config.split
    if isinstance(split, DaySplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.valid_hash}
    if isinstance(split, HeldOutSplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.hash}
    return {"by": split.by, "day_1": None, "valid_hash": None}


def _value_text(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
