"""Page of a run, `report.html`: its results and the course of its training.

Everything comes from the files of the run directory. Each section in `SECTIONS` has a function that turns `RunFiles`
into a view (None if the run has no such part), and a block of its name in `templates/run.html.j2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ple_rec.config.choices import speed_text
from ple_rec.reports.page import Fact, KeyFigure, Section, render_page, write_document
from ple_rec.reports.run.gates import gates
from ple_rec.reports.run.progress import learning_curves, loss_weights, table_health, throughput
from ple_rec.reports.run.results import calibration, placement, results, slices
from ple_rec.runs.log import Series
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.overfitting import overfitting_warning
from ple_rec.runs.read import RunFiles, read_run
from ple_rec.storage import Location
from ple_rec.text.json_values import as_mapping, as_number
from ple_rec.text.units import short_bytes, short_count, short_duration


def run_name(run: RunFiles) -> str:
    """Return the name in the configuration, or else the name of the directory."""
    return str(run.config.get("name") or run.directory.absolute().name)


def facts(run: RunFiles) -> list[Fact]:
    """Return variant, dataset, seed, precision and the run that it started from, each only if it is recorded."""
    recorded = (
        Fact("variant", as_mapping(run.config.get("model")).get("variant")),
        Fact("data", as_mapping(run.config.get("data")).get("path")),
        Fact("seed", run.config.get("seed")),
        Fact("precision", _precision(run)),
        Fact("starts from", f"{run.start.get('run')}:{run.start.get('checkpoint')}" if run.start else None),
    )
    return [fact for fact in recorded if fact.value is not None]


def log_written(run: RunFiles) -> str:
    """Return the time of the last write to the log; empty without a log."""
    return f"{run.log_written:%Y-%m-%d %H:%M} UTC" if run.log_written is not None else ""


def _precision(run: RunFiles) -> str | None:
    """Return the precision of the matrix products; if `auto` chose it, with the measured speeds."""
    recorded, configured = (
        as_mapping(run.metrics.get("precision")),
        as_mapping(run.config.get("train")).get("precision"),
    )
    used, speeds = recorded.get("used", configured), as_mapping(recorded.get("gflops"))
    if not isinstance(used, str) or configured != "auto" or used == configured:
        return used if isinstance(used, str) else None
    numbers = ((name, as_number(speed)) for name, speed in speeds.items())
    texts = [f"{name} {speed_text(speed)} GFLOP/s" for name, speed in numbers if speed is not None]
    return f"{used} (auto{''.join(f', {text}' for text in texts)})"


def status(run: RunFiles) -> tuple[str, bool]:
    """Return the status of the run in words, and whether the run has finished."""
    is_tested = bool(split_tasks(run.metrics, "test"))
    if is_tested or (run.metrics and not _evaluates_test(run)):
        early = ": stopped early, since it no longer improved" if run.metrics.get("stopped_early") is True else ""
        return f"finished{early}{'' if is_tested else '; not evaluated on test'}", True
    if run.metrics:
        return "not evaluated on test", False
    return ("interrupted or still running" if run.log.splits else "no training recorded"), False


def _evaluates_test(run: RunFiles) -> bool:
    return as_mapping(run.config.get("evaluation")).get("test") is not False


def notes(run: RunFiles) -> list[str]:
    """Return sentences about missing, damaged and unusual results of the run."""
    losses = (run.log.series(split, "loss") for split in ("train", "valid"))
    warning = overfitting_warning(*losses, stops_early=run.config.get("early_stopping") is not None)
    warnings = [] if warning is None else [warning.removeprefix("warning: ")]
    return [*run.notes, *warnings, *_missing_metrics(run), *_damaged_metrics(run)]


def _missing_metrics(run: RunFiles) -> list[str]:
    if not run.metrics:
        return []
    present = {
        "test results": split_tasks(run.metrics, "test") or not _evaluates_test(run),
        "validation results": split_tasks(run.metrics, "valid"),
        "calibration and ROC curves": run.evaluation_part("curves")[1],
        "gate weights": run.evaluation_part("gates")[1] is not None,
        "metrics by slice": run.evaluation_part("slices")[1]
        or not as_mapping(run.config.get("evaluation")).get("slices"),
        "table health": run.metrics.get("table_health") or not run.plan.get("tables"),
    }
    missing = [name for name, value in present.items() if not value]
    return [f"metrics.json has no {', no '.join(missing)}."] if missing else []


def _damaged_metrics(run: RunFiles) -> list[str]:
    """Return a note that names the parts of `metrics.json` whose type is wrong, and which are left out."""
    parts = [
        (key, run.evaluation_part(key)[1], kind) for key, kind in (("curves", dict), ("gates", list), ("slices", list))
    ]
    parts.append(("table_health", run.metrics.get("table_health"), list))
    wrong = [key for key, value, kind in parts if value is not None and not isinstance(value, kind)]
    return [f"metrics.json holds {', '.join(wrong)} in an unexpected form; left out."] if wrong else []


def key_figures(run: RunFiles) -> list[KeyFigure]:
    """Return size, speed and cost of the run, each figure only if it is recorded."""
    log, metrics, last = run.log, run.metrics, run.log.last("train")
    sizes = as_mapping(metrics.get("parameters"))
    wait = _scaled_median(log.series("train", "data_wait"), scale=100)
    rate = as_number(metrics.get("samples_per_second")) or _scaled_median(log.series("train", "samples_per_second"))
    figures = (
        _figure("Steps", last.get("step"), "{:,.0f}".format, _best_text(run)),
        _figure("Samples seen", last.get("samples"), short_count, _epoch_text(last)),
        _figure("Training time", last.get("seconds"), short_duration),
        _figure("Samples per second", rate, short_count, _format_if_known("data wait {:.1f} %", wait)),
        _figure("Peak memory", _greatest(log.series("train", "peak_bytes")), short_bytes, "per rank"),
        _figure("Dense parameters", sizes.get("dense"), short_count, _table_parameters(sizes)),
        _figure("FLOPs per sample", metrics.get("flops_per_sample"), short_count),
        _figure("Ranks", run.plan.get("world_size"), "{:.0f}".format),
    )
    return [figure for figure in figures if figure is not None]


def _figure(label: str, value: object, show: Callable[[float], str], note: str = "") -> KeyFigure | None:
    known = as_number(value)
    return None if known is None else KeyFigure(label, show(known), note)


def _best_text(run: RunFiles) -> str:
    """Return step and metric of the best checkpoint in words."""
    metric, value = run.metrics.get("best_metric"), as_number(run.metrics.get("best_value"))
    step_text = _format_if_known("best checkpoint at {:,.0f}", run.best_step())
    return (
        f"{step_text}, {metric} {value:.4f}"
        if step_text and isinstance(metric, str) and value is not None
        else step_text
    )


def _format_if_known(template: str, value: object) -> str:
    known = as_number(value)
    return "" if known is None else template.format(known)


def _epoch_text(record: Mapping[str, Any]) -> str:
    epoch = as_number(record.get("epoch"))
    return "" if epoch is None else f"epoch {epoch + 1:.0f}"


def _table_parameters(sizes: Mapping[str, Any]) -> str:
    tables = as_number(sizes.get("tables"))
    return "" if tables is None else f"and {short_count(tables)} in tables"


def _scaled_median(series: Series, scale: float = 1) -> float | None:
    return scale * float(np.nanmedian(series.values)) if series else None


def _greatest(series: Series) -> float | None:
    return float(np.nanmax(series.values)) if series else None


REPORT_FILE = "report.html"


def write_report(run_dir: Location) -> Location:
    """Write `report.html` into a run directory, from the files in it alone.

    If a part of the run is absent or damaged, since the run was killed or is older, a notice at the top of the page
    names it. Equal files give equal bytes. The page appears under its name only when complete.

    Args:
        run_dir: Directory with any of `config.toml`, `plan.json`, `train.jsonl`, `metrics.json`.

    Returns:
        Path of the report.

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
    status_text, is_finished = status(run)
    return render_page(
        "run",
        [Section(section.anchor, section.heading, section.view(run)) for section in SECTIONS],
        name=run_name(run),
        status=status_text,
        finished=is_finished,
        facts=facts(run),
        log_written=log_written(run),
        notes=notes(run),
        figures=key_figures(run),
    )


class SectionBuilder(NamedTuple):
    """Anchor and heading of a section, and the function that turns the files of a run into its view."""

    anchor: str
    heading: str
    view: Callable[[RunFiles], object]


def _versions(run: RunFiles) -> list[tuple[str, object]]:
    fingerprints = ((name, run.metrics.get(f"{name}_fingerprint")) for name in ("config", "dataset"))
    recorded = [(f"{name} fingerprint", value) for name, value in fingerprints if value]
    return [*as_mapping(run.metrics.get("versions")).items(), *recorded]


SECTIONS = (
    SectionBuilder("results", "Results", results),
    SectionBuilder("curves", "Learning curves", learning_curves),
    SectionBuilder("weights", "Loss weights", loss_weights),
    SectionBuilder("calibration", "Calibration and ROC", calibration),
    SectionBuilder("slices", "Metrics by slice", slices),
    SectionBuilder("gates", "Expert weights", gates),
    SectionBuilder("tables", "Embedding tables", placement),
    SectionBuilder("health", "Table health", table_health),
    SectionBuilder("throughput", "Throughput", throughput),
    SectionBuilder("config", "Configuration", lambda run: run.config_text),
    SectionBuilder("versions", "Versions", _versions),
)
