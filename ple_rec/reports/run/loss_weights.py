"""The section on the tasks' loss weights over time: shown where one changes, or is not 1."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ple_rec.reports.charts import hardly_differ, weight_lines
from ple_rec.reports.page import Panel
from ple_rec.runs.read import RunFiles, Series
from ple_rec.runs.results import mapping

_MANY = 12  # more tasks than this have their weights folded away


class _Line(NamedTuple):
    """The tasks whose weights are the same at every step, and these weights."""

    tasks: list[str]
    series: Series

    @property
    def ends(self) -> tuple[float, float]:
        known = self.series.values[np.isfinite(self.series.values)]
        return float(known[0]), float(known[-1])

    @property
    def changes(self) -> bool:
        spread = np.nanmax(self.series.values) - np.nanmin(self.series.values)
        return bool(spread > 1e-9 * np.nanmax(np.abs(self.series.values)))


def loss_weights(run: RunFiles) -> dict[str, Any] | None:
    """Return a line per task, drawn where one changes; None where all weights are 1."""
    lines = _lines(run)
    changes = any(line.changes for line in lines)
    if not changes and not any(line.ends[0] != 1 for line in lines):
        return None
    learned = mapping(run.config.get("train")).get("loss_weighting") == "uncertainty"
    panel = None
    if changes:
        lines.sort(key=lambda line: -line.ends[1])
        drawn = [(line.tasks, line.series) for line in lines]
        note = "at each report step" + ("; the axis does not start at 0" if hardly_differ(drawn) else "")
        panel = Panel("Weight", note, weight_lines("loss-weights", "Loss weights over training steps", drawn))
    ends = [(task, *line.ends) for line in lines for task in line.tasks]
    return {"panel": panel, "learned": learned, "ends": ends, "folded": len(ends) > _MANY}


def _lines(run: RunFiles) -> list[_Line]:
    lines: list[_Line] = []
    for task in run.log.tasks():
        series = run.log.series("train", "tasks", task, "weight")
        if not series:
            continue
        same = (line for line in lines if np.array_equal(line.series.values, series.values, equal_nan=True))
        line = next(same, None)
        if line is None:
            lines.append(_Line([task], series))
        else:
            line.tasks.append(task)
    return lines
