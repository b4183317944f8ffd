"""The files of an analysis: `analysis.json` and `analysis.html`; `analyze` itself writes `test_rows.npz`."""

from __future__ import annotations

from ple_rec.analysis.analyze import Analysis
from ple_rec.reports.analysis import write_page
from ple_rec.runs.directory import hold_to_add
from ple_rec.runs.layout import ANALYSIS, write_text
from ple_rec.storage import Location
from ple_rec.text.plain import json_text


def write_analysis(analysis: Analysis, run_dir: Location) -> tuple[str, Location]:
    """Write both into a run directory.

    Returns:
        What `analysis.json` holds, and the path of the page.

    Raises:
        UserError: they cannot be written.
    """
    text = json_text(analysis.record())
    with hold_to_add(run_dir):
        write_text(run_dir / ANALYSIS, text + "\n")
        return text, write_page(analysis, run_dir)
