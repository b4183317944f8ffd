"""Records of `train.jsonl`, the log of a run, by split, and series of their values over steps."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.text.json_values import as_mapping, as_number


@dataclass(frozen=True)
class Series:
    """Values of one quantity over training steps.

    Args:
        steps: Global steps, (N,), ascending.
        values: Value at each step, (N,); an undefined value is NaN.
    """

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def __bool__(self) -> bool:
        """Return True if any value is finite, so that there is something to draw."""
        return bool(np.isfinite(self.values).any())

    def at(self, step: float | None) -> float | None:
        """Return the value at exactly this step; None if it is undefined, the step has none, or `step` is None."""
        hits = self.values[self.steps == step] if step is not None else self.values[:0]
        return float(hits[-1]) if hits.size and np.isfinite(hits[-1]) else None


@dataclass
class RunLog:
    """Records of `train.jsonl`.

    Args:
        splits: Records of each split, ascending in step.
        rewinds: Step of the first training record of each resumed run that replaced records of an earlier attempt.
    """

    splits: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    rewinds: list[int] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record, in the order of the file.

        A training record whose step is not beyond the last one comes from a resumed run. It replaces the records of
        all splits of the earlier attempt from that step on. An evaluation replaces an earlier one of the same split and
        step.
        """
        step, split = record["step"], record["split"]
        records = self.splits.setdefault(split, [])
        if split == "train" and records and step <= records[-1]["step"]:
            self.rewinds.append(step)
            for split_records in self.splits.values():
                del split_records[bisect.bisect_left(split_records, step, key=_step) :]
        place = bisect.bisect_left(records, step, key=_step)
        if place < len(records) and records[place]["step"] == step:
            del records[place]
        records.insert(place, record)

    def series(self, split: str, *path: str) -> Series:
        """Return one quantity of one split over steps.

        Args:
            split: Split of the records.
            path: Keys that lead to the quantity, for example `series("valid", "tasks", "ctr", "auc")`.
        """
        records = self.splits.get(split, [])
        values = []
        for record in records:
            value: object = record
            for key in path:
                value = as_mapping(value).get(key)
            number = as_number(value)
            values.append(np.nan if number is None else number)
        return Series(np.array([record["step"] for record in records], dtype=float), np.array(values, dtype=float))

    def last(self, split: str) -> Mapping[str, Any]:
        """Return the last record of a split; an empty one if there is none."""
        records = self.splits.get(split)
        return records[-1] if records else {}

    def tasks(self) -> list[str]:
        """Return every task that a record names, in order of appearance."""
        names = (
            name for records in self.splits.values() for record in records for name in as_mapping(record.get("tasks"))
        )
        return list(dict.fromkeys(names))


def _step(record: Mapping[str, Any]) -> float:
    step: float = record["step"]
    return step
