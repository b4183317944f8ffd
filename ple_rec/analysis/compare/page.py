"""`compare.html`: the comparison on one page that loads nothing, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.charts import charts_of
from ple_rec.analysis.compare.figures import Chart
from ple_rec.analysis.compare.page_tasks import STYLE, between_tasks, cell, experts, panels
from ple_rec.analysis.compare.text import GAP, MATCHES, gap_known, interval_text, mean_sd_text, signed_text
from ple_rec.analysis.compare.tuning.told import tuning_charts, tuning_part
from ple_rec.analysis.compare.utilisation_figure import save_utilisation
from ple_rec.analysis.utilisation import gates_of
from ple_rec.html.markup import DASH, table, text
from ple_rec.html.page import Part, document, write_document
from ple_rec.text.units import metric_text, short_bytes, short_count
from ple_rec.train.report.page import REPORT_FILE
from ple_rec.train.run_dir import ANALYSIS_PAGE, writing

PAGE, FIGURES = "compare.html", "figures"


def write_page(results: Mapping[str, Any], root: Path) -> Path:
    """Write the page and the figures of compare.json.

    Args:
        results: What compare.json holds.
        root: Directory of the comparison, whose runs have the learning curves.

    Raises:
        UserError: they cannot be written.
    """
    charts = charts_of(results, root)
    charts["tuning"] = tuning_charts(results)
    with writing(root / FIGURES):
        (root / FIGURES).mkdir(exist_ok=True)
        for chart in (chart for group in charts.values() for chart in group):
            chart.save(root / FIGURES)
        for name, variant in results["variants"].items():
            if gates := gates_of(variant["gates"] or {}):
                save_utilisation(name, gates, root / FIGURES)
    target = root / PAGE
    write_document(
        _page(results, charts, root),
        target,
        rule="the page is a file in the directory of the comparison",
        fix="free disk space, or make the path writable; the runs are untouched",
    )
    return target


def _page(results: Mapping[str, Any], charts: Mapping[str, list[Chart]], root: Path) -> str:
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
            Part("gains", "Gains", panels(charts["gains"])),
            Part("seesaw", "Seesaw", panels(charts["seesaw"])),
            Part("curves", "Learning curves", panels(charts["curves"])),
            Part("tasks", "Between tasks", between_tasks(results, charts["conflict"], charts["correlation"])),
            Part("experts", "Expert utilisation", experts(results)),
            Part("tuning", "Tuning", tuning_part(results) + panels(charts["tuning"])),
            Part("cost", "Cost", _cost(results)),
            Part("runs", "Runs", _runs(results, root)),
        ],
        "Made by ple-rec from the files of the runs alone.",
        style=STYLE,
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
            cells = [str(len(found["values"])), *(cell(each) for each in texts)]
        rows.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{each}</td>' for each in cells)}</tr>")
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
        rows.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{each}</td>' for each in cells)}</tr>")
    words_of = (
        f"<p>{text(MATCHES[results['match']].format(results['reference']))}; forward, dense layers alone. Samples a "
        "second and memory are as the runs had them, some side by side and, in one process, one after another.</p>"
    )
    return words_of + table([f"<th>{text(word)}</th>" for word in words], rows)


def _runs(results: Mapping[str, Any], root: Path) -> str:
    """Where the pages of every run lie, those that are there."""
    rows = []
    for name in results["variants"]:
        cells = [
            ", ".join(
                f'<a href="{text(name)}/seed-{seed}/{page}">{word}</a>'
                for word, page in (("report", REPORT_FILE), ("analysis", ANALYSIS_PAGE))
                if (root / name / f"seed-{seed}" / page).is_file()
            )
            for seed in results["seeds"]
        ]
        rows.append(f"<tr><th>{text(name)}</th>{''.join(f'<td>{each or DASH}</td>' for each in cells)}</tr>")
    return table(["<th></th>", *(f"<th>seed {seed}</th>" for seed in results["seeds"])], rows)
