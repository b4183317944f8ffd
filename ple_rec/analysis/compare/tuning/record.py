"""`tune.json`: the space of a variant's trials, and what each of them tried and reached.

{"format": 1, "metric", "seed", "space": {key: range}, "best": number | null,
"trials": [{"number", "values": {key: value}, "state": "waiting" | "failed" | "finished", <metric>: value | null}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.tuning.space import Space
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import write_json, writing
from ple_rec.runs.results import mapping

FILE = "tune.json"
_FORMAT = 1


def space_record(space: Space) -> dict[str, Any]:
    """A space as JSON has it."""
    return {d.key: d.given.model_dump(mode="json", exclude_none=True) for d in space}


def read_values(folder: Path, space: Space) -> list[dict[str, Any]]:
    """What trials were to try, by number; none where there is no record, or a damaged one.

    Without a record the values are asked anew, and are the same.

    Raises:
        UserError: they are of another space.
    """
    file = folder / FILE
    try:
        record: Mapping[str, Any] = mapping(json.loads(file.read_text()))
        trials = record.get("trials")
        if record.get("format") != _FORMAT or not isinstance(trials, list):
            return []
        values = [dict(trial["values"]) for trial in trials]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    if record.get("space") != space_record(space):
        raise UserError(
            str(file),
            f"holds trials of another space ({', '.join(mapping(record.get('space')))})",
            "the trials of a variant are of one space",
            f"give tune.space as it was, another {Option.RUNS.to('DIR')}, or {Option.OVERWRITE} to start the "
            "trials anew",
        )
    return values


def write_record(folder: Path, metric: str, seed: int, space: Space, trials: list[dict[str, Any]], best: Any) -> None:
    """Write it whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = {"format": _FORMAT, "metric": metric, "seed": seed, "space": space_record(space)}
    write_json(folder / FILE, record | {"trials": trials, "best": best})
