"""What a comparison tells of its tuning: in compare.json, on the terminal, on the page.

    compare.json: {"tune": {"metric", "trials", "space"},
                   "variants": {name: {.., "tuned": {key: value} | None,
                                       "trials": {"number", "failed", "first", "best", "values"}}}}

`number` is of the trials that have ended, `first` and `best` are the metric of the configuration as written and of the
best trial, `values` those of every trial (None: failed, or not ended). `tuned` is None until all trials have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ple_rec.analysis.compare.figures import Chart
from ple_rec.analysis.compare.lines import Curve, Paint, draw_lines, looks
from ple_rec.analysis.compare.tuning.record import space_record
from ple_rec.analysis.compare.tuning.study import Study
from ple_rec.config.words import toml_value
from ple_rec.html.markup import DASH, table, text
from ple_rec.text import aligned
from ple_rec.text.units import metric_text
from ple_rec.train.better import HIGHER
from ple_rec.train.results import MISSING

OPTIMISTIC = (
    "The best of several trials was chosen by this metric, which so flatters it: what a tuned model is worth, the test "
    "split says, on which no trial was evaluated."
)
_WORST = 0.2  # share of the trials that need not lie within the axis

Results = Mapping[str, Any]


def with_tuning(results: dict[str, Any], studies: Mapping[str, Study]) -> dict[str, Any]:
    """compare.json with what the tuning found; as it is where nothing was tuned."""
    if not studies:
        return results
    for name, variant in results["variants"].items():
        variant.update(_record(studies[name]))
    first = next(iter(studies.values()))
    return results | {"tune": {"metric": first.metric, "trials": first.trials, "space": space_record(first.space)}}


def tuning_text(results: Results) -> str:
    """A table of the tuned values and of what the trials reached; empty where nothing was tuned."""
    if "tune" not in results:
        return ""
    head, rows = _cells(results)
    return "\n".join([*aligned([head, *([cell or MISSING for cell in row] for row in rows)]), OPTIMISTIC])


def tuning_part(results: Results) -> str:
    """The same for the page."""
    if "tune" not in results:
        return ""
    head, rows = _cells(results)
    body = [
        f"<tr><th>{text(row[0])}</th>{''.join(f'<td>{text(cell) if cell else DASH}</td>' for cell in row[1:])}</tr>"
        for row in rows
    ]
    words = f"By {results['tune']['metric']} on the validation split; the values of the best trial train all seeds."
    # a key is long, and breaks after its table, so that the values of all are seen at once
    heads = ["<th></th>", *(f"<th>{text(word).replace('.', '.<br>')}</th>" for word in head[1:])]
    return f"<p>{text(words)}</p>{table(heads, body)}<p>{text(OPTIMISTIC)}</p>"


def tuning_charts(results: Results) -> list[Chart]:
    """The metric of every trial and the best so far, a line a variant; none where nothing was tuned."""
    if "tune" not in results:
        return []
    metric = results["tune"]["metric"]
    higher = metric.rpartition(".")[2] in HIGHER
    trials = {name: variant["trials"]["values"] for name, variant in results["variants"].items()}
    every = [value for values in trials.values() for value in values if value is not None]
    if not every:
        return []

    def draw(axes: Axes, paint: Paint) -> None:
        curves: dict[str, Curve] = {}
        shown = [float(np.quantile(every, _WORST if higher else 1 - _WORST))]
        for (name, values), look in zip(trials.items(), looks(), strict=False):
            known = [np.nan if value is None else value for value in values]
            axes.plot(range(len(values)), known, ".", color=paint(look.colour), alpha=0.4)
            best = best_so_far(values, higher=higher)
            curves[name] = np.array([n for n, _ in best], float), np.array([value for _, value in best])
            shown += [value for _, value in best]
        room = 0.05 * max(max(shown) - min(shown), 1e-5)
        axes.set_ylim(min(shown) - room, max(shown) + room)  # a trial that all but diverged would leave no room
        draw_lines(axes, paint, curves)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="trial, 0 as written", ylabel=f"{metric} on the validation split")

    note = f"points: trials, of which up to {_WORST:.0%} may lie beyond the axis; lines: the best so far"
    return [Chart("tuning", "Trials", note, draw, (460, 280))]


def best_so_far(values: Sequence[float | None], *, higher: bool) -> list[tuple[int, float]]:
    """Number and best metric up to it, from the first trial that finished to the last of all."""
    found: list[tuple[int, float]] = []
    for number, value in enumerate(values):
        if value is not None:
            better = max if higher else min
            found.append((number, better(value, found[-1][1]) if found else value))
        elif found:
            found.append((number, found[-1][1]))
    return found


def _record(study: Study) -> dict[str, Any]:
    results, best = study.results, study.best
    return {
        "tuned": None if study.left else study.tuned(),
        "trials": {
            "number": sum(found is not None for found in results),
            "failed": sum(found is not None and found.score is None for found in results),
            "first": study.value(0),
            "best": None if best is None else study.value(best),
            "values": [study.value(n) for n in range(study.trials)],
        },
    }


def _cells(results: Results) -> tuple[list[str], list[list[str]]]:
    tune = results["tune"]
    keys = list(tune["space"])
    head = [f"tuning, {tune['metric']} on validation", "trials", "failed", "as written", "best", *keys]
    rows = []
    for name, variant in results["variants"].items():
        trials, tuned = variant["trials"], variant["tuned"] or {}
        metrics = ["" if trials[key] is None else metric_text(trials[key]) for key in ("first", "best")]
        values = [_value_text(tuned[key]) if key in tuned else "" for key in keys]
        rows.append([name, str(trials["number"]), str(trials["failed"]), *metrics, *values])
    return head, rows


def _value_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else toml_value(value)
