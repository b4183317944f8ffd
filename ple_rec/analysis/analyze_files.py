"""The files of an analysis: `analysis.json` and `analysis.html`; `analyze` itself writes `test_rows.npz`."""

from __future__ import annotations

from pathlib import Path

from ple_rec.analysis.analyze import Analysis
from ple_rec.analysis.plain import json_text
from ple_rec.reports.analysis import write_page
from ple_rec.train.run_dir import ANALYSIS, write_text


def write_analysis(analysis: Analysis, run_dir: Path) -> tuple[str, Path]:
    """Write both into a run directory.

    Returns:
        What `analysis.json` holds, and the path of the page.

    Raises:
        UserError: they cannot be written.
    """
    text = json_text(analysis.record())
    write_text(run_dir / ANALYSIS, text + "\n")
    return text, write_page(analysis, run_dir)
