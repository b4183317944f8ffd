"""One more day for a dataset directory: same ids, same edges, same thresholds, new rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from data_prep.days import number_of, text_of
from data_prep.parent import Parent
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig, TableSpec, iso_date
from ple_rec.errors import UserError

_SHOWN = 4  # differences that a message names
_FREE = {"split", "append", "log", "sides", "on_bad_row", "max_bad_fraction", "output", "name"}
_FILES = {"files", "format", "csv"}  # of the log and of side tables, which may be others; what they mean may not
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
        f"--append {text}", "no day", "it reads day=9 or day=2022-05-08", "count days from 1, or give a date"
    )


def appended(parent: Parent, given: PrepConfig, day: int | str) -> PrepConfig:
    """The configuration of the day's dataset.

    Args:
        parent: The dataset whose ids it keeps.
        given: The configuration as the user gives it now; it must still mean what the parent's did.
        day: Which.

    Raises:
        UserError: The parent is not split by day, the configuration is another one, or the day is trained already.
    """
    split = parent.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        raise UserError(
            str(parent.path), f'split.by = "{split.by}"', "days are appended to a split by day", "prepare the whole log"
        )
    _check_same(parent, given)
    number = _number(split, day, parent)
    first, last = (
        _number(split, each, parent) for each in (split.train if isinstance(split, DaySplit) else split.days)
    )
    if number <= last:
        seen = "is in train already" if number >= first else f"is before {text_of(last)}, the last day of train"
        raise UserError(
            f"--append day={day}",
            f"in {parent.path} {text_of(number)} {seen}",
            "days are trained once, and in order",
            f"name a day after {text_of(last)}",
        )
    config = parent.config
    held = HeldOutSplit(
        by="held_out",
        day_1=split.day_1,
        days=(text_of(number), text_of(number)),
        valid=given.append.valid,
        test=given.append.test,
        hash=split.valid_hash if isinstance(split, DaySplit) else split.hash,
    )
    if held.hash is None and config.group is None:
        raise UserError(
            str(parent.path),
            "no group, and no split.valid_hash",
            "what is held out of an appended day keeps the rows of a group together",
            "prepare the first days again with `group`",
        )
    files = {
        "log": given.log.with_inferred(config.log.csv.inferred),
        "sides": {name: side.with_inferred(config.sides[name].csv.inferred) for name, side in given.sides.items()},
    }
    free = {name: getattr(given, name) for name in _FREE - {"split", *files}}
    return config.model_copy(update={"split": held} | free | files)


def _number(split: DaySplit | HeldOutSplit, day: int | str, parent: Parent) -> int:
    if isinstance(day, str):
        return number_of(day)
    if split.day_1 is None:
        raise UserError(
            f"--append day={day}",
            f"{parent.path} names its days by date",
            "a number counts from day 1, which it does not have",
            "name the date, day=2022-05-08",
        )
    return number_of(split.day_1) + day - 1


def _meaning(config: PrepConfig) -> dict[str, Any]:
    """What columns mean, by key, in which defaults that say the same are the same."""
    meaning = config.model_dump(mode="json", exclude=_FREE | {"tables"})
    meaning["log"] = {"where": config.log.where}
    meaning["sides"] = {name: side.model_dump(exclude=_FILES) for name, side in config.sides.items()}
    names = [feature.table_name for feature in config.sparse if not feature.bucketised]
    meaning["tables"] = {name: config.tables.get(name, TableSpec()).model_dump() for name in names}
    for feature, sparse in zip(config.sparse, meaning["sparse"], strict=True):
        sparse |= {"value": feature.source, "table": feature.table_name}
    for number, dense in zip(config.dense, meaning["dense"], strict=True):
        dense["value"] = number.source
    for task, label in zip(config.tasks, meaning["tasks"], strict=True):
        label["label"] = task.source
    if isinstance(config.split, DaySplit | HeldOutSplit):
        split = config.split
        hashed = split.valid_hash if isinstance(split, DaySplit) else split.hash
        meaning["split"] = {"day_1": split.day_1, "valid_hash": hashed}
    else:
        meaning["split"] = {"by": config.split.by}
    return meaning


def _check_same(parent: Parent, given: PrepConfig) -> None:
    """Refuse a configuration that would give columns another meaning."""
    old, new = _meaning(parent.config), _meaning(given)
    _take_found(old, new)
    if differing := list(_differences("", old, new)):
        shown = [f"{key} = {was}, now {now}" for key, was, now in differing[:_SHOWN]]
        more = [f"{len(differing) - _SHOWN} more"] if len(differing) > _SHOWN else []
        raise UserError(
            str(parent.path),
            f"was prepared with {'; '.join([*shown, *more])}",
            "an appended day keeps every column's meaning",
            "use the configuration of the first days, or prepare all days again",
        )


def _take_found(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let the numbers that the parent's training rows gave stand for the keys that asked for them."""
    for was, now in zip(old["sparse"], new["sparse"], strict=False):
        found = was.pop("edge_quantiles")
        if now.pop("edge_quantiles") is None and now["quantiles"] is not None and found is not None:
            was |= {"quantiles": found, "edges": None}
    for was, now in zip(old["tasks"], new["tasks"], strict=False):
        if was["threshold"] is not None and now["threshold"] is not None and now["threshold"]["values"] is None:
            was["threshold"] |= {"edges": None, "values": None}
    if new["split"].get("day_1") is None:
        old["split"]["day_1"] = new["split"].get("day_1")


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """Keys whose values differ, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}" if key else name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and _names(old) == _names(new) != []:
        for i, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{key}[{i}]", was, now)
    elif old != new:
        yield key, _shown(old), _shown(new)


def _names(values: list[Any]) -> list[str]:
    """Of features or tasks."""
    return [value["name"] for value in values if isinstance(value, dict)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = _names(value) or value
    return "nothing" if value is None else json.dumps(value)
