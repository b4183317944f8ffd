"""`report.html`: one self-contained page that says what a run was, did and reached.

Everything comes from the files of the run directory; nothing is loaded from elsewhere. A section is a function from
`RunFiles` to HTML, listed in `SECTIONS`; a new one needs only its line there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ple_rec.html.markup import absent, pairs, text
from ple_rec.html.page import Part, document, write_document
from ple_rec.train.report.calibration import calibration
from ple_rec.train.report.curves import learning_curves, throughput
from ple_rec.train.report.gates import gates
from ple_rec.train.report.head import header, key_figures, notice, run_name
from ple_rec.train.report.health import table_health
from ple_rec.train.report.loss_weights import loss_weights
from ple_rec.train.report.run_files import RunFiles, read_run
from ple_rec.train.report.slices import slices
from ple_rec.train.report.tables import placement_table, results_tables
from ple_rec.train.results import mapping, split_tasks

REPORT_FILE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, from the files in it alone.

    A part of the run that is absent or damaged (the run was killed, an older file) is named in a notice at the top of
    the page; the rest renders. Equal files give equal bytes. The page appears under its name only when complete.

    Args:
        run_dir: A directory with any of `config.toml`, `plan.json`, `train.jsonl`, `metrics.json`.

    Returns:
        The path of the report.

    Raises:
        UserError: the directory holds none of the four files, or the report cannot be written.
    """
    target = run_dir / REPORT_FILE
    write_document(
        _page(read_run(run_dir)),
        target,
        rule="the report is a file in the run directory",
        fix="free disk space, or make the path writable; the run's other files are untouched",
    )
    return target


class Section(NamedTuple):
    """A part of the page: its anchor, its heading, and what makes its content (empty: the run has no such part)."""

    anchor: str
    heading: str
    content: Callable[[RunFiles], str]


def _page(run: RunFiles) -> str:
    name = run_name(run)
    return document(
        f"{name} - run report",
        header(run, name),
        notice(run) + key_figures(run),
        [Part(section.anchor, section.heading, section.content(run)) for section in SECTIONS],
        "Made by ple-rec from the files of this run alone.",
    )


def _results(run: RunFiles) -> str:
    if any(split_tasks(run.metrics, split) for split in run.metrics):
        return results_tables(run.metrics)
    last = run.log.last("valid")
    if not last:
        return results_tables({})
    return f"<p>The last evaluation in the log, at step {last['step']:,}.</p>" + results_tables({"valid": last})


def _placement(run: RunFiles) -> str:
    return placement_table(run.plan)


def _config(run: RunFiles) -> str:
    if not run.config_text:
        return absent("Not recorded.")
    summary = f"config.toml, {len(run.config_text.splitlines())} lines"
    return f"<details><summary>{summary}</summary><pre><code>{text(run.config_text)}</code></pre></details>"


def _versions(run: RunFiles) -> str:
    items = list(mapping(run.metrics.get("versions")).items())
    prints = ((name, run.metrics.get(f"{name}_fingerprint")) for name in ("config", "dataset"))
    items += [(f"{name} fingerprint", value) for name, value in prints if value]
    return pairs(items) if items else absent("Not recorded.")


SECTIONS = (
    Section("results", "Results", _results),
    Section("curves", "Learning curves", learning_curves),
    Section("weights", "Loss weights", loss_weights),
    Section("calibration", "Calibration and ROC", calibration),
    Section("slices", "Metrics by slice", slices),
    Section("gates", "Expert weights", gates),
    Section("tables", "Embedding tables", _placement),
    Section("health", "Table health", table_health),
    Section("throughput", "Throughput", throughput),
    Section("config", "Configuration", _config),
    Section("versions", "Versions", _versions),
)
