"""Difference between an existing dataset directory and the dataset that a preparation would make.

`ple-rec prep` shows the difference in the error by which it refuses to replace the existing dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_prep.output.parent import Parent
from data_prep.sources.table import RawTables
from ple_rec.config.diff import differences
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.schema import STATS_FILE
from ple_rec.config.words import short_value
from ple_rec.errors import PleRecError
from ple_rec.storage import Location

_MAX_LISTED = 4  # Keys, and files of each kind, that a message lists.


def describe_difference(out: Location, config: PrepConfig, raw: RawTables, parent: Parent | None) -> str:
    """Return a text that lists the keys of the configuration, the raw files and the parent that differ.

    If none differs, or the existing dataset cannot be read, the text says so.

    Args:
        out: Complete dataset directory of the existing dataset.
        config: Configuration of the new dataset.
        raw: Raw files of the new dataset.
        parent: Dataset to which the new dataset appends a day, and whose ids it keeps; None without `--append`.
    """
    try:
        old = load_config(PrepConfig, out / PREP_FILE)
        source = json.loads((out / STATS_FILE).read_text(encoding="utf-8"))["source"]
        old_parent = load_schema(out).parent
    except (PleRecError, OSError, ValueError, KeyError, TypeError):
        return f"its {PREP_FILE}, {STATS_FILE} or schema cannot be read by this version"
    changes = [*_changed_keys(old, config), *_changed_files(_contents(source), _contents(raw.listing()))]
    new_parent = None if parent is None else parent.schema.fingerprint
    if old_parent != new_parent:
        changes.append(
            f"parent: {new_parent[:12] if new_parent else 'none'}, was {old_parent[:12] if old_parent else 'none'}"
        )
    return "; ".join(changes) or "another version of ple-rec made it"


def _changed_keys(old: PrepConfig, new: PrepConfig) -> Iterator[str]:
    # Both configurations get the values that prep computed from the log for the old dataset, so that only keys that the
    # user has set can differ.
    changed = differences(old.with_found_values_of(old), new.with_found_values_of(old))
    if changed:
        yield _listed(
            "configuration: ", [f"{key} is {_value_text(now)}, was {_value_text(was)}" for key, was, now in changed]
        )


def _value_text(value: Any) -> str:
    return "not set" if value is None else short_value(value)


def _changed_files(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for heading, names in (
        ("new files: ", [name for name in new if name not in old]),
        ("removed files: ", [name for name in old if name not in new]),
        ("changed files: ", [name for name in new if name in old and new[name] != old[name]]),
    ):
        if names:
            yield _listed(heading, names)


def _contents(source: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the content digest and the number of rows of every file, by its name."""
    return {file["file"]: (file["identity"], file["rows"]) for file in source}


def _listed(heading: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{heading}{', '.join(names[:_MAX_LISTED])}{more}"
