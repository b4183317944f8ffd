"""`report.html`: one page that says what a run was, did and reached.

Everything comes from the files of the run directory. A section is a function from `RunFiles` to a view (None: the run
has no such part), listed in `SECTIONS`, and the block of its name in `templates/run.html.j2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ple_rec.reports.page import Part, render, write_document
from ple_rec.reports.run.calibration import calibration
from ple_rec.reports.run.curves import learning_curves, throughput
from ple_rec.reports.run.gates import gates
from ple_rec.reports.run.head import facts, key_figures, log_written, notes, run_name, status
from ple_rec.reports.run.health import table_health
from ple_rec.reports.run.loss_weights import loss_weights
from ple_rec.reports.run.slices import slices
from ple_rec.reports.run.tables import placement, results
from ple_rec.runs.read import RunFiles, read_run
from ple_rec.runs.results import mapping
from ple_rec.storage import Location

REPORT_FILE = "report.html"


def write_report(run_dir: Location) -> Location:
    """Write `report.html` into a run directory, from the files in it alone.

    A part of the run that is absent or damaged (the run was killed, an older file) is named in a notice at the top of
    the page; the rest renders. Equal files give equal bytes. The page appears under its name only when complete.

    Args:
        run_dir: A directory with any of `config.toml`, `plan.json`, `train.jsonl`, `metrics.json`.

    Returns:
        The path of the report.

    Raises:
        UserError: The directory holds none of the four files, or the report cannot be written.
    """
    target = run_dir / REPORT_FILE
    write_document(
        run_page(read_run(run_dir)),
        target,
        rule="the report is a file in the run directory",
        fix="free disk space, or make the path writable; the run's other files are untouched",
    )
    return target


def run_page(run: RunFiles) -> str:
    """Return the report of a run as HTML."""
    text, finished = status(run)
    return render(
        "run",
        [Part(section.anchor, section.heading, section.view(run)) for section in SECTIONS],
        name=run_name(run),
        status=text,
        finished=finished,
        facts=facts(run),
        log_written=log_written(run),
        notes=notes(run),
        figures=key_figures(run),
    )


class Section(NamedTuple):
    """A part of the page: its anchor, its heading, and what makes its view."""

    anchor: str
    heading: str
    view: Callable[[RunFiles], object]


def _versions(run: RunFiles) -> list[tuple[str, object]]:
    prints = ((name, run.metrics.get(f"{name}_fingerprint")) for name in ("config", "dataset"))
    recorded = [(f"{name} fingerprint", value) for name, value in prints if value]
    return [*mapping(run.metrics.get("versions")).items(), *recorded]


SECTIONS = (
    Section("results", "Results", results),
    Section("curves", "Learning curves", learning_curves),
    Section("weights", "Loss weights", loss_weights),
    Section("calibration", "Calibration and ROC", calibration),
    Section("slices", "Metrics by slice", slices),
    Section("gates", "Expert weights", gates),
    Section("tables", "Embedding tables", placement),
    Section("health", "Table health", table_health),
    Section("throughput", "Throughput", throughput),
    Section("config", "Configuration", lambda run: run.config_text),
    Section("versions", "Versions", _versions),
)
