"""Write `paper.html`, with a section for each part of the paper: its tables, its figures, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper import figure7
from benchmarks.paper.parts import PaperPart
from ple_rec.reports.compare.page import PAGE_FILE as COMPARISON_PAGE
from ple_rec.reports.compare.text import format_results
from ple_rec.reports.page import Section, render_page, write_document
from ple_rec.runs.layout import explain_write_errors

PAGE, FIGURES = "paper.html", "figures"


@dataclass(frozen=True)
class FinishedPart:
    """Part of the paper with the results of its comparisons.

    Args:
        part: Part of the paper.
        results: Content of compare.json of each comparison, by its name.
        missing: Names of the comparisons whose dataset does not exist.
    """

    part: PaperPart
    results: Mapping[str, Mapping[str, Any]]
    missing: Sequence[str]

    @property
    def points(self) -> list[tuple[float, Mapping[str, Any]]]:
        """Correlation and compare.json of each comparison of Fig. 7 that has results; empty for another part."""
        if not self.part.correlations:
            return []
        pairs = zip(self.part.correlations, self.part.comparisons, strict=True)
        return [(p, self.results[c.name]) for p, c in pairs if c.name in self.results]


def write_paper(parts: Sequence[FinishedPart], root: Path) -> Path:
    """Write the page and the figures of Fig. 7.

    Raises:
        UserError: The page or a figure cannot be written.
    """
    with explain_write_errors(root / FIGURES):
        (root / FIGURES).mkdir(parents=True, exist_ok=True)
        for part in parts:
            for chart in figure7.charts(part.points) if part.points else ():
                chart.save(root / FIGURES)
    target = root / PAGE
    sections = [Section(part.part.name, part.part.title, _content(part)) for part in parts]
    page = render_page(Path(__file__).with_name("paper.html.j2"), sections, name="The paper's tables and figures")
    write_document(page, target, "the page is a file in the output folder", "free disk space, or make it writable")
    return target


def _content(part: FinishedPart) -> dict[str, Any]:
    points = part.points
    return {
        "missing": part.missing,
        "panels": [chart.to_panel() for chart in figure7.charts(points)] if points else [],
        "summary": f"{figure7.mse_table(points)}\n\n{figure7.summary(points)}" if points else "",
        "comparisons": [
            (name, f"{name}/{COMPARISON_PAGE}", format_results(results)) for name, results in part.results.items()
        ],
    }
