"""`report.html`: one self-contained page that says what a run was, did and reached.

Everything comes from the files of the run directory; nothing is loaded from elsewhere. A section is a function from
`RunFiles` to HTML, listed in `SECTIONS`; a new one needs only its line there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ple_rec.errors import UserError
from ple_rec.train.report.charts import calibration_plot, learning_curve, over_steps, roc_curve
from ple_rec.train.report.head import evaluated, header, key_figures, notice, run_name
from ple_rec.train.report.run_files import RunFiles, Series, read_run
from ple_rec.train.report.tables import absent, gate_table, pairs, placement_table, results_tables, text
from ple_rec.train.report.units import metric_text
from ple_rec.train.results import mapping, number, split_tasks

REPORT_FILE = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Caption, key in the training records, keys in the evaluations of which the first present is drawn.
CURVES = (
    ("Loss", "loss", ("loss", "logloss", "mse")),
    ("NE", "ne", ("ne",)),
    ("AUC", "auc", ("auc",)),
    ("RMSE", "rmse", ("rmse",)),
    ("MAE", "mae", ("mae",)),
)


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
    page = _page(read_run(run_dir))
    target, draft = run_dir / REPORT_FILE, run_dir / f".{REPORT_FILE}.tmp"
    try:
        draft.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(
            place=str(target),
            value=f"cannot be written ({error.strerror})",
            rule="the report is a file in the run directory",
            fix="free disk space, or make the path writable; the run's other files are untouched",
        ) from error
    return target


class Section(NamedTuple):
    """A part of the page: its anchor, its heading, and what makes its content."""

    anchor: str
    heading: str
    content: Callable[[RunFiles], str]


def _page(run: RunFiles) -> str:
    name = run_name(run)
    style = resources.files("ple_rec.train.report").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{section.anchor}">{text(section.heading)}</a>' for section in SECTIONS)
    body = "".join(
        f'<section id="{section.anchor}"><h2>{text(section.heading)}</h2>{section.content(run)}</section>\n'
        for section in SECTIONS
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(name)} - run report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{header(run, name)}<nav>{links}</nav>\n{notice(run)}{key_figures(run)}\n<main>\n{body}</main>\n"
        f"<footer>Made by ple-rec from the files of this run alone.</footer>\n</body>\n</html>\n"
    )


def _results(run: RunFiles) -> str:
    if any(split_tasks(run.metrics, split) for split in run.metrics):
        return results_tables(run.metrics)
    last = run.log.last("valid")
    if not last:
        return results_tables({})
    return f"<p>The last evaluation in the log, at step {last['step']:,}.</p>" + results_tables({"valid": last})


def _learning_curves(run: RunFiles) -> str:
    best = run.best_step()
    groups = []
    for index, task in enumerate(run.log.tasks()):
        panels = []
        for caption, train_key, valid_keys in CURVES:
            train = run.log.series("train", "tasks", task, train_key)
            candidates = [run.log.series("valid", "tasks", task, key) for key in valid_keys]
            valid = next((series for series in candidates if series), candidates[0])
            title = f"{caption} of {task} over training steps"
            svg = learning_curve(f"curve-{index}-{caption.lower()}", title, train, valid, best)
            panels.append(_figure(caption, _reached(valid, best), svg))
        if any(panels):
            groups.append(f'<h3>{text(task)}</h3><div class="panels">{"".join(panels)}</div>')
    if not groups:
        return absent("Not recorded: the log has no metrics per task.")
    best_key = '<span class="best">best checkpoint</span>' if best is not None else ""
    legend = f'<p class="legend"><span class="train">train</span><span class="valid">valid</span>{best_key}</p>'
    return legend + "".join(groups)


def _reached(valid: Series, best: float | None) -> str:
    value = valid.at(best)
    if value is not None:
        return f"valid {metric_text(value)} at best"
    return f"valid {metric_text(float(valid.values[np.isfinite(valid.values)][-1]))}" if valid else ""


def _figure(caption: str, note: str, svg: str | None) -> str:
    if svg is None:
        return ""
    small = f" <small>{text(note)}</small>" if note else ""
    return f"<figure><figcaption>{text(caption)}{small}</figcaption>{svg}</figure>"


def _calibration(run: RunFiles) -> str:
    panels = []
    for index, (task, value) in enumerate(mapping(evaluated(run)["curves"]).items()):
        curves = mapping(value)
        buckets = [mapping(entry) for entry in curves.get("calibration") or []]
        columns = [[number(b.get(key)) for b in buckets] for key in ("predicted", "observed", "weight")]
        x, y, weight = ([np.nan if v is None else v for v in column] for column in columns)
        plot = calibration_plot(f"calibration-{index}", f"Calibration of {task}", x, y, weight)
        roc = roc_curve(f"roc-{index}", f"ROC curve of {task}", curves.get("roc") or [])
        panels += [_figure(task, "calibration", plot), _figure(task, "ROC", roc)]
    if not any(panels):
        return absent("Not recorded.")
    lead = (
        "<p>Each dot is a bucket of predictions, its area the bucket's weight; the dashed diagonal is perfect. Where "
        "rates are tiny the axes are logarithmic, and a hollow triangle is a bucket without a positive.</p>"
    )
    return f'{lead}<div class="panels square">{"".join(panels)}</div>'


def _gates(run: RunFiles) -> str:
    recorded = evaluated(run)["gates"]
    if recorded is None:
        return absent("Not recorded.")
    gates = [mapping(gate) for gate in recorded]
    if not gates:
        return absent("This model has no gates.")
    lead = (
        "<p>Mean weight that each output gives to each expert over the evaluated samples, with its standard deviation. "
        "Blank: not read.</p>"
    )
    return lead + "".join(f"<h3>Level {text(gate.get('level', ''))}</h3>{gate_table(gate)}" for gate in gates)


def _throughput(run: RunFiles) -> str:
    panels = [
        _figure(
            caption, note, over_steps(key.replace("_", "-"), caption, run.log.series("train", key), percent=percent)
        )
        for caption, note, key, percent in (
            ("Samples per second", "", "samples_per_second", False),
            ("Data wait", "share of step time", "data_wait", True),
            ("Learning rate", "", "learning_rate", False),
        )
    ]
    return f'<div class="panels">{"".join(panels)}</div>' if any(panels) else absent("Not recorded.")


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
    Section("curves", "Learning curves", _learning_curves),
    Section("calibration", "Calibration and ROC", _calibration),
    Section("gates", "Expert gates", _gates),
    Section("throughput", "Throughput", _throughput),
    Section("tables", "Embedding tables", _placement),
    Section("config", "Configuration", _config),
    Section("versions", "Versions", _versions),
)
