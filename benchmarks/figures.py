"""Draw the figures of docs/images/paper from the measured results in docs/results.

python -m benchmarks.figures
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import figure7
from benchmarks.results import REPOSITORY, Results
from ple_rec.analysis.result import ExpertWeight, Gate
from ple_rec.reports.compare.charts import save_utilisation, seesaw_chart

FOLDER = Path("docs", "images", "paper")


def draw_figures(paper: Mapping[str, Any]) -> dict[str, bytes]:
    """Return every figure as SVG by the name of its file.

    Args:
        paper: Values of the results in `docs/results/paper.json`, by name.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_seesaw(paper["table5_tuned"]["tasks"], folder)
        for chart in figure7.charts(_points(paper["fig7"])):
            chart.save(folder)
        for data in ("census", "kuairand"):
            save_utilisation("ple", _gates(paper[f"utilisation_{data}"]), folder)
            # `save_utilisation` names the file by the model alone, and the next data set would overwrite it.
            (folder / "utilisation-ple.svg").rename(folder / f"utilisation-{data}-ple.svg")
        return {file.name: file.read_bytes() for file in sorted(folder.glob("*.svg"))}


def _save_seesaw(tasks: Mapping[str, Any], folder: Path) -> None:
    income, married = tasks["income"]["models"], tasks["never_married"]["models"]
    gains = {name: (row["gain"], married[name]["gain"]) for name, row in income.items() if "gain" in row}
    chart = seesaw_chart("income", "never_married", "single_task", gains)
    assert chart is not None, "the comparison has gains"
    dataclasses.replace(chart, key="seesaw-census").save(folder)


def _points(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, figure7.Results]]:
    """Return the correlation of the labels of each point of Fig. 7, and its results in the form of compare.json."""

    def cell(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"gain": {"mean": row["gain"], "seed_interval": row["over_seeds"]} if "gain" in row else None}

    return [
        (
            point["correlation"],
            {
                "tasks": ["task1", "task2"],
                "variants": {
                    name: {"tasks": {task: cell(row) for task, row in rows.items()}}
                    for name, rows in point["models"].items()
                },
            },
        )
        for point in points
    ]


def _gates(gates: Sequence[Mapping[str, Any]]) -> list[Gate]:
    return [
        Gate(
            gate["level"],
            gate["output"],
            tuple(ExpertWeight(shared=expert["name"].startswith("shared."), **expert) for expert in gate["experts"]),
        )
        for gate in gates
    ]


def main() -> None:
    """Write every figure into docs/images/paper."""
    for name, content in draw_figures(Results(REPOSITORY).values["paper"]).items():
        (REPOSITORY / FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
