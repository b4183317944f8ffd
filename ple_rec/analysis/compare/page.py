"""`compare.html`: the comparison on one page that loads nothing, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.compare.figures import Chart, curve_chart, gain_chart, seesaw_chart
from ple_rec.analysis.compare.text import GAP, MATCHES, gap_known, interval_text, mean_sd_text, signed_text
from ple_rec.analysis.compare.tuning.told import tuning_charts, tuning_part
from ple_rec.analysis.gate_bars import gate_bars
from ple_rec.analysis.utilisation import gates_of
from ple_rec.errors import UserError
from ple_rec.html.markup import DASH, figure, table, text
from ple_rec.html.page import Part, document, write_document
from ple_rec.html.units import short_bytes, short_count
from ple_rec.train.report.run_files import read_run
from ple_rec.train.report.units import metric_text
from ple_rec.train.run_dir import writing

PAGE, FIGURES = "compare.html", "figures"
_PAIRS = 6  # of tasks at most that get a seesaw


def write_page(results: Mapping[str, Any], root: Path) -> Path:
    """Write the page and the figures of compare.json.

    Args:
        results: What compare.json holds.
        root: Directory of the comparison, whose runs have the learning curves.

    Raises:
        UserError: they cannot be written.
    """
    charts = {"gains": _gains(results), "seesaw": _seesaws(results), "curves": _curves(results, root)}
    charts["tuning"] = tuning_charts(results)
    with writing(root / FIGURES):
        (root / FIGURES).mkdir(exist_ok=True)
        for chart in (chart for group in charts.values() for chart in group):
            chart.save(root / FIGURES)
    target = root / PAGE
    write_document(
        _page(results, charts),
        target,
        rule="the page is a file in the directory of the comparison",
        fix="free disk space, or make the path writable; the runs are untouched",
    )
    return target


def _page(results: Mapping[str, Any], charts: Mapping[str, list[Chart]]) -> str:
    finished = sum(len(variant["seeds"]) for variant in results["variants"].values())
    of = len(results["variants"]) * len(results["seeds"])
    facts = [
        f"<strong>{text(len(results['variants']))}</strong> variants",
        f"<strong>{finished}</strong> of {of} runs finished",
        text(results["data"]),
        text(MATCHES[results["match"]].format(results["reference"])),
    ]
    header = (
        f'<p class="eyebrow">comparison</p><h1>{text(results["name"])}</h1>'
        f'<p class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'
    )
    return document(
        f"{results['name']} - comparison",
        header,
        _holes(results),
        [
            Part("verdict", "Verdict", _verdict(results)),
            Part("results", "Results", "".join(_task(results, task) for task in results["tasks"])),
            Part("gains", "Gains", _panels(charts["gains"])),
            Part("seesaw", "Seesaw", _panels(charts["seesaw"])),
            Part("curves", "Learning curves", _panels(charts["curves"])),
            Part("experts", "Expert utilisation", _experts(results)),
            Part("tuning", "Tuning", tuning_part(results) + _panels(charts["tuning"])),
            Part("cost", "Cost", _cost(results)),
        ],
        "Made by ple-rec from the files of the runs alone.",
    )


def _holes(results: Mapping[str, Any]) -> str:
    """What is missing from the picture, and what was decided for the user."""
    notes = [text(remark) for remark in results["remarks"]]
    for name, variant in results["variants"].items():
        notes += [f"{text(name)}, seed {text(seed)}, failed: {text(why)}" for seed, why in variant["failed"].items()]
    if results["missing"]:
        notes.append(f"{results['missing']} run(s) have not been trained yet")
    if not notes:
        return ""
    items = "".join(f"<li>{note}</li>" for note in notes)
    return f'<div class="notice"><p>To be known</p><ul>{items}</ul></div>'


def _verdict(results: Mapping[str, Any]) -> str:
    verdict = results["verdict"]
    sentences = "".join(f"<p>{text(sentence)}</p>" for sentence in verdict["sentences"])
    return f"{sentences}<p><small>{text(verdict['rule'])}</small></p>"


def _task(results: Mapping[str, Any], task: str) -> str:
    metric, known = results["tasks"][task]["metric"], gap_known(results, task)
    words = ["", "seeds", f"{metric.upper()}, mean \u00b1 sd", "MTL gain", "95 % over seeds", "95 % over rows"]
    words += [f"{GAP} reachable, {metric_text(results['tasks'][task]['reachable'])}"] if known else []
    rows = []
    for name, variant in results["variants"].items():
        found = variant["tasks"].get(task)
        if found is None:
            cells = ["0", *[DASH] * (len(words) - 2)]
        else:
            gain = found["gain"] or {}
            texts = (
                mean_sd_text(found, "\u00b1"),
                signed_text(gain.get("mean")),
                interval_text(gain.get("seed_interval")),
                interval_text(gain.get("row_interval")),
                *([f"{found['gap']:.5f}"] if known else []),
            )
            cells = [str(len(found["values"])), *(text(cell) for cell in texts)]
        rows.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = [f"<th>{text(word)}</th>" for word in words]
    return f"<h3>{text(task)}</h3>{table(head, rows)}"


def _cost(results: Mapping[str, Any]) -> str:
    words = ("", "layer sizes", "FLOPs a sample", "dense parameters", "samples a second", "peak memory")
    rows = []
    for name, variant in results["variants"].items():
        cost = variant["cost"]
        speed, peak = cost["samples_per_second"], cost["peak_bytes"]
        cells = [
            " ".join(str(sizes) for sizes in variant["sizes"].values()),
            f"{cost['flops_per_sample']:,}",
            f"{cost['dense_parameters']:,}",
            DASH if speed is None else short_count(speed),
            DASH if peak is None else short_bytes(peak),
        ]
        rows.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    words_of = f"<p>{text(MATCHES[results['match']].format(results['reference']))}; forward, dense layers alone.</p>"
    return words_of + table([f"<th>{text(word)}</th>" for word in words], rows)


def _experts(results: Mapping[str, Any]) -> str:
    """Fig. 8: of every gate of every variant that has gates, the first seed's mean weights over the test split."""
    content = ""
    for name, variant in results["variants"].items():
        gates = gates_of(variant["gates"] or {})
        if not gates:
            continue
        limit = 1.05 * max(min(1.0, e.mean + e.std) for gate in gates for e in gate.experts)
        panels = [
            figure(f"level {gate.level}, {gate.output}", "", gate_bars(f"gate-{name}-{i}", gate, limit))
            for i, gate in enumerate(gates)
        ]
        told = "; ".join(_difference(difference) for difference in variant["gates"]["differences"])
        note = f"<p>Jensen-Shannon distance between tasks: {text(told)}.</p>" if told else ""
        content += f'<h3>{text(name)}</h3>{note}<div class="panels">{"".join(panels)}</div>'
    words = (
        "Mean weight of each expert over the test split, with its standard deviation over samples; shared ones hatched."
    )
    return f"<p>{words}</p>{content}" if content else ""


def _difference(found: Mapping[str, Any]) -> str:
    distance = found["shared_and_own"]
    value = DASH if distance is None else f"{distance:.3f}"
    return f"level {found['level']}, {' / '.join(found['tasks'])} {value}"


def _panels(charts: list[Chart]) -> str:
    return "".join(figure(chart.caption, chart.note, chart.svg()) for chart in charts)


def _gains(results: Mapping[str, Any]) -> list[Chart]:
    charts = []
    for task, facts in results["tasks"].items():
        found = {name: variant["tasks"].get(task) for name, variant in results["variants"].items()}
        gains = {name: values["gain"] for name, values in found.items() if values is not None}
        charts.append(gain_chart(task, facts["metric"], results["baseline"], gains))
    return [chart for chart in charts if chart is not None]


def _seesaws(results: Mapping[str, Any]) -> list[Chart]:
    def gain(variant: Mapping[str, Any], task: str) -> float | None:
        found = variant["tasks"].get(task)
        return None if found is None or found["gain"] is None else float(found["gain"]["mean"])

    charts = []
    for first, second in list(combinations(results["tasks"], 2))[:_PAIRS]:
        gains = {}
        for name, variant in results["variants"].items():
            x, y = gain(variant, first), gain(variant, second)
            if x is not None and y is not None:
                gains[name] = (x, y)
        charts.append(seesaw_chart(first, second, results["baseline"], gains))
    return [chart for chart in charts if chart is not None]


def _curves(results: Mapping[str, Any], root: Path) -> list[Chart]:
    charts = []
    for task, facts in results["tasks"].items():
        curves = {}
        for name, variant in results["variants"].items():
            runs = [root / name / f"seed-{seed}" for seed in variant["seeds"]]
            curves[name] = _mean_curve(runs, task, facts["metric"])
        charts.append(curve_chart(task, facts["metric"], curves))
    return [chart for chart in charts if chart is not None]


def _mean_curve(runs: list[Path], task: str, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over seeds at the steps that all of them were evaluated at."""
    series = []
    for run in runs:
        try:
            series.append(read_run(run).log.series("valid", "tasks", task, metric))
        except UserError:  # its files are gone; its metrics were there
            continue
    if not series:
        return np.empty(0), np.empty(0)
    steps = series[0].steps
    for other in series[1:]:
        steps = np.intersect1d(steps, other.steps)
    values = np.array([[found.at(step) for found in series] for step in steps.tolist()], dtype=np.float64)
    values = values.reshape(len(steps), len(series))  # of no step, too
    kept = np.isfinite(values).all(axis=1)  # what was undefined is NaN
    return steps[kept], values[kept].mean(axis=1)
