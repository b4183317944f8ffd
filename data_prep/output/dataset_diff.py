"""Difference between an existing dataset directory and the one that a preparation would make."""

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
from ple_rec.config.words import shortened
from ple_rec.errors import PleRecError
from ple_rec.storage import Location

_MOST_LISTED = 4  # A message lists so many keys, and so many files of each kind.


def what_differs(out: Location, config: PrepConfig, raw: RawTables, parent: Parent | None) -> str:
    """Return a message with the keys of the configuration and the raw files that differ.

    Args:
        out: Complete dataset directory.
        config: Configuration of the new dataset.
        raw: Raw files of the new dataset.
        parent: Dataset whose ids an appended day keeps; None without `--append`.
    """
    try:
        old = load_config(PrepConfig, out / PREP_FILE)
        source = json.loads((out / STATS_FILE).read_text(encoding="utf-8"))["source"]
        lineage = load_schema(out).parent
    except (PleRecError, OSError, ValueError, KeyError, TypeError):
        return f"its {PREP_FILE}, {STATS_FILE} or schema is not one of this version"
    changes = [*_keys(old, config), *_files(_contents(source), _contents(raw.listing()))]
    fingerprint = None if parent is None else parent.schema.fingerprint
    if lineage != fingerprint:
        changes.append(
            f"parent: {fingerprint[:12] if fingerprint else 'none'}, was {lineage[:12] if lineage else 'none'}"
        )
    return "; ".join(changes) or "another version of ple-rec made it"


def _keys(old: PrepConfig, new: PrepConfig) -> Iterator[str]:
    changed = differences(old.filled_as(old), new.filled_as(old))
    if changed:
        yield _some("configuration: ", [f"{key} is {_value(now)}, was {_value(was)}" for key, was, now in changed])


def _value(value: Any) -> str:
    return "not set" if value is None else shortened(value)


def _files(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for what, names in (
        ("new files: ", [name for name in new if name not in old]),
        ("files that are gone: ", [name for name in old if name not in new]),
        ("files that have changed: ", [name for name in new if name in old and new[name] != old[name]]),
    ):
        if names:
            yield _some(what, names)


def _contents(source: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the content digest and the number of rows of every file, by its name."""
    return {file["file"]: (file["identity"], file["rows"]) for file in source}


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"{what}{', '.join(names[:_MOST_LISTED])}{more}"
