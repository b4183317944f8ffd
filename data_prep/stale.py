"""What differs between a dataset directory that is there and what is to be made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.parent import Parent
from data_prep.pipeline import Raw, source_of
from ple_rec.config.diff import differences
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, DaySplit, HeldOutSplit, PrepConfig
from ple_rec.config.schema import STATS_FILE
from ple_rec.config.words import shortened
from ple_rec.errors import PleRecError

_SHOWN = 4  # keys, and files of each kind, that a message names


def what_differs(out: Path, config: PrepConfig, raw: Raw, parent: Parent | None) -> str:
    """Keys of the configuration and raw files that differ, as far as the directory tells.

    Args:
        out: A complete dataset directory.
        config: Of what is to be made.
        raw: Its files.
        parent: The dataset that it adds a day to.
    """
    found = [*_keys(out, config), *_files(out, raw), *_parents(out, parent)]
    return "; ".join(found) or "another version of ple-rec made it"


def _keys(out: Path, config: PrepConfig) -> Iterator[str]:
    if not (out / PREP_FILE).is_file():
        yield f"it has no {PREP_FILE} to compare with"
        return
    try:
        old = load_config(PrepConfig, out / PREP_FILE)
    except PleRecError:
        yield f"its {PREP_FILE} is not one of this version"
        return
    found = differences(_as_asked(old, config), _as_asked(config, config))
    told = [f"{key} is {_value(now)}, was {_value(was)}" for key, was, now in found]
    yield from [_some("configuration: ", told)] if told else []


def _value(value: Any) -> str:
    return "not set" if value is None else shortened(value)


def _as_asked(config: PrepConfig, given: PrepConfig) -> PrepConfig:
    """Return the configuration without what the files gave: numbers that `given` leaves to training rows, CSV types."""
    split, now = config.split, given.split
    if isinstance(split, DaySplit | HeldOutSplit) and isinstance(now, DaySplit | HeldOutSplit) and now.day_1 is None:
        split = split.model_copy(update={"day_1": None})
    sparse = [
        feature
        if feature.edge_quantiles is None
        else feature.model_copy(update={"quantiles": feature.edge_quantiles, "edges": None, "edge_quantiles": None})
        for feature in config.sparse
    ]
    open_ = {task.name for task in given.tasks if task.threshold is not None and task.threshold.values is None}
    tasks = []
    for task in config.tasks:
        if task.name in open_ and task.threshold is not None:
            spec = task.threshold.model_copy(update={"edges": None, "values": None})
            task = task.model_copy(update={"threshold": spec})
        tasks.append(task)
    files = {"log": config.log.with_inferred({}), "sides": {n: s.with_inferred({}) for n, s in config.sides.items()}}
    return config.model_copy(update={"split": split, "sparse": tuple(sparse), "tasks": tuple(tasks), **files})


def _files(out: Path, raw: Raw) -> Iterator[str]:
    try:
        source = json.loads((out / STATS_FILE).read_text(encoding="utf-8"))["source"]
        old = _by_name(source)
    except (OSError, ValueError, KeyError, TypeError):
        yield f"its {STATS_FILE} names no raw files to compare with"
        return
    new = _by_name(source_of(raw))
    changed = [name for name in new if name in old and new[name] != old[name]]
    for what, names in (
        ("new files: ", [name for name in new if name not in old]),
        ("files that are gone: ", [name for name in old if name not in new]),
        ("files that have changed: ", changed),
    ):
        if names:
            yield _some(what, names)


def _by_name(source: Iterable[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Content and number of rows of every file."""
    return {file["file"]: (file["identity"], file["rows"]) for file in source}


def _parents(out: Path, parent: Parent | None) -> Iterator[str]:
    try:
        was = load_schema(out).parent
    except PleRecError:
        return
    now = None if parent is None else parent.schema.fingerprint
    if was != now:
        yield f"parent: {now[:12] if now else 'none'}, was {was[:12] if was else 'none'}"


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}{', '.join(names[:_SHOWN])}{more}"
