"""`paper.html`: the parts that were made, each with its tables, figures and what is still missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.text import format_results
from ple_rec.analysis.paper import figure7
from ple_rec.analysis.paper.parts import Part
from ple_rec.html.markup import absent, figure, text
from ple_rec.html.page import Part as Section
from ple_rec.html.page import document, write_document
from ple_rec.reports.compare.page import PAGE as COMPARISON_PAGE
from ple_rec.train.run_dir import writing

PAGE, FIGURES = "paper.html", "figures"


@dataclass(frozen=True)
class Made:
    """A part as far as it was made.

    Args:
        part: Which.
        results: compare.json by the comparison's name.
        missing: Comparisons without their dataset.
    """

    part: Part
    results: Mapping[str, Mapping[str, Any]]
    missing: Sequence[str]

    @property
    def points(self) -> list[tuple[float, Mapping[str, Any]]]:
        """Correlation and compare.json of Fig. 7; none of another part."""
        if not self.part.correlations:
            return []
        pairs = zip(self.part.correlations, self.part.comparisons, strict=True)
        return [(p, self.results[c.name]) for p, c in pairs if c.name in self.results]


def write_paper(made: Sequence[Made], root: Path) -> Path:
    """Write the page and the figures of Fig. 7.

    Raises:
        UserError: they cannot be written.
    """
    with writing(root / FIGURES):
        (root / FIGURES).mkdir(parents=True, exist_ok=True)
        for part in made:
            for chart in figure7.charts(part.points) if part.points else ():
                chart.save(root / FIGURES)
    target = root / PAGE
    page = document(
        "The paper's tables and figures",
        '<p class="eyebrow">PLE, RecSys 2020</p><h1>The paper&#x27;s tables and figures</h1>',
        "",
        [Section(part.part.name, part.part.title, _content(part)) for part in made],
        "Made by ple-rec from the files of the runs alone.",
    )
    write_document(page, target, "the page is a file in the output folder", "free disk space, or make it writable")
    return target


def _content(made: Made) -> str:
    parts = [absent(f"{name}: its dataset is not there.") for name in made.missing]
    if made.points:
        charts = figure7.charts(made.points)
        parts += [figure(chart.caption, chart.note, chart.panel().svg) for chart in charts]
        parts.append(f"<pre>{text(figure7.gain_table(made.points))}\n\n{text(figure7.summary(made.points))}</pre>")
    for name, results in made.results.items():
        link = f'<a href="{text(name)}/{COMPARISON_PAGE}">{text(name)}</a>'
        parts.append(f"<h3>{link}</h3><pre>{text(format_results(results))}</pre>")
    return "".join(parts)
