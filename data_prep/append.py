"""One more day for a dataset directory: same ids, same edges, same thresholds, new rows."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from data_prep.output.parent import Parent
from data_prep.transforms.arithmetic import number_of, text_of
from ple_rec.config.diff import Difference, changed_beyond
from ple_rec.config.prep import CsvConfig, DaySplit, HeldOutSplit, PrepConfig, TableSpec, iso_date
from ple_rec.errors import Option, UserError

logger = logging.getLogger(__name__)

_SHOWN = 4  # differences, or days, that a message names
_OWN = ("append", "on_bad_row", "max_bad_fraction", "output", "name")  # what the day may have otherwise
_NO_FILES: dict[str, Any] = {"files": (), "format": None, "csv": CsvConfig()}  # likewise, of the log and side tables
_LISTS = ("sparse", "dense", "tasks")
_FORM = re.compile(r"(?:day=)?(\d{1,6}|\d{4}-\d\d-\d\d)")


def parse_day(text: str) -> int | str:
    """The day of `--append day=9`, `day=2022-05-08`.

    Raises:
        UserError: It is no day.
    """
    found = _FORM.fullmatch(text.strip())
    try:
        if found is not None:
            return int(found[1]) if found[1].isdigit() and int(found[1]) > 0 else iso_date(found[1])
    except ValueError:
        pass
    raise UserError(
        f"{Option.APPEND} {text}", "no day", "it reads day=9 or day=2022-05-08", "count days from 1, or give a date"
    )


def appended(parent: Parent, given: PrepConfig, day: int | str) -> PrepConfig:
    """Return the configuration of the dataset of an appended day, and warn of days between it and its parent.

    Args:
        parent: Dataset whose ids it keeps.
        given: Configuration as the user gives it now; it must still mean what the parent's did.
        day: Day that is appended, a date or a number that counts from day 1.

    Raises:
        UserError: The parent is not split by day, the configuration is another one, or the day is trained already.
    """
    split = parent.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        raise UserError(
            str(parent.path), f'split.by = "{split.by}"', "days are appended to a split by day", "prepare the whole log"
        )
    _check_same(parent, given)
    number = _number(day, parent)
    first, last = (_number(each, parent) for each in (split.train if isinstance(split, DaySplit) else split.days))
    if number <= last:
        seen = "is in train already" if number >= first else f"is before {text_of(last)}, the last day of train"
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"in {parent.path} {text_of(number)} {seen}",
            "days are trained once, and in order",
            f"name a day after {text_of(last)}",
        )
    _warn_of_gap(parent, day, number)
    config = parent.config
    # A group that is held out today is trained on another day, so a new user gets an id then. A dataset without a seed
    # holds out the same groups every day; the days that are appended to it go on with them.
    seed = text_of(number) if isinstance(split, DaySplit) or split.seed else ""
    held = HeldOutSplit(
        by="held_out",
        day_1=split.day_1,
        days=(text_of(number), text_of(number)),
        valid=given.append.valid,
        test=given.append.test,
        hash=split.valid_hash if isinstance(split, DaySplit) else split.hash,
        seed=seed,
    )
    if held.hash is None and config.group is None:
        raise UserError(
            str(parent.path),
            "no group, and no split.valid_hash",
            "what is held out of an appended day keeps the rows of a group together",
            "prepare the first days again with `group`",
        )
    own = {name: getattr(given, name) for name in (*_OWN, "log", "sides")}
    return config.model_copy(update={"split": held} | own)


def _end(parent: Parent) -> int:
    """Return the last day of the parent, in whichever split it is, in days from 1970-01-01."""
    split = parent.config.split
    assert isinstance(split, DaySplit | HeldOutSplit)
    ranges = split.ranges.values() if isinstance(split, DaySplit) else [split.days]
    return max(_number(last, parent) for _, last in ranges)


def _warn_of_gap(parent: Parent, day: int | str, number: int) -> None:
    """Warn of the days between the last one of the parent, in whichever split it is, and the appended one."""
    end = _end(parent)
    days = range(end + 1, number)
    if not days:
        return
    more = [f"{len(days) - _SHOWN} more"] if len(days) > _SHOWN else []
    *first, last = [*map(text_of, days[:_SHOWN]), *more]
    logger.warning(
        "--append day=%s: %s %s left out, for %s ends on %s; days are appended in order, so no later dataset can add "
        "them. Fix: append them first, if the log has them",
        day,
        f"{', '.join(first)} and {last}" if first else last,
        "is" if len(days) == 1 else "are",
        parent.path,
        text_of(end),
    )


def _number(day: int | str, parent: Parent) -> int:
    """Return the days from 1970-01-01 to a day of the parent's split.

    Raises:
        UserError: It is a number, and the parent counts no days.
    """
    if isinstance(day, str):
        return number_of(day)
    if parent.config.day_1 is None:
        raise UserError(
            f"{Option.APPEND} day={day}",
            f"{parent.path} names its days by date",
            "a number counts from day 1, which it does not have",
            f"name the date; the day after its last one is day={text_of(_end(parent) + 1)}",
        )
    return number_of(parent.config.day_1) + day - 1


def _check_same(parent: Parent, given: PrepConfig) -> None:
    """Refuse a configuration that would give columns another meaning."""
    old, new = parent.config.filled_as(parent.config), given.filled_as(parent.config)
    was, now = _names(old), _names(new)
    differing: list[Difference] = [(key, was[key], now[key]) for key in was if was[key] != now[key]]
    beyond = [*_OWN, "split", *(each for key, _, _ in differing for each in (key, f"{key}[[]*"))]
    differing += changed_beyond(_written_out(old, new), _written_out(new, old), beyond)
    days = zip(_days(old).items(), _days(new).values(), strict=True)
    differing += [(f"split.{key}", before, after) for (key, before), after in days if before != after]
    if differing:
        shown = [f"{key} = {_shown(before)}, now {_shown(after)}" for key, before, after in differing[:_SHOWN]]
        more = [f"{len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
        raise UserError(
            str(parent.path),
            f"was prepared with {'; '.join([*shown, *more])}",
            "an appended day keeps every column's meaning",
            "use the configuration of the first days, or prepare all days again",
        )


def _names(config: PrepConfig) -> dict[str, list[str]]:
    """Return the names of side tables, features and tasks: where these differ, what they hold is not compared."""
    return {"sides": sorted(config.sides)} | {key: [each.name for each in getattr(config, key)] for key in _LISTS}


def _vocabularies(config: PrepConfig) -> set[str]:
    return {feature.table_name for feature in config.sparse if not feature.bucketised}


def _written_out(config: PrepConfig, other: PrepConfig) -> PrepConfig:
    """Return what columns mean, with defaults written out: the same in the same words, whatever the files.

    Args:
        config: The configuration.
        other: Configuration that it is compared with; tables that only one of them has are left out.
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
    """Return what an appended day keeps of a split: that it is by day, day 1, and what decides on valid."""
    split = config.split
    if isinstance(split, DaySplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.valid_hash}
    if isinstance(split, HeldOutSplit):
        return {"by": "day", "day_1": split.day_1, "valid_hash": split.hash}
    return {"by": split.by, "day_1": None, "valid_hash": None}


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
