"""What a comparison tells of its tuning: in compare.json, on the terminal, on the page.

    compare.json: {"tune": {"metric", "trials", "space"},
                   "variants": {name: {.., "tuned": {key: value} | None,
                                       "trials": {"number", "failed", "first", "best", "values"}}}}

`number` is of the trials that have ended, `first` and `best` are the metric of the configuration as written and of the
best trial, `values` those of every trial (None: failed, or not ended). `tuned` is None until all trials have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.analysis.compare.tuning.study import Study, space_record
from ple_rec.config.words import toml_value
from ple_rec.runs.results import MISSING
from ple_rec.text import aligned
from ple_rec.text.units import metric_text

OPTIMISTIC = (
    "The best of several trials was chosen by this metric, which so flatters it: what a tuned model is worth, the test "
    "split says, on which no trial was evaluated."
)

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
    """Return a table of the tuned values and of what the trials reached; nothing where nothing was tuned."""
    if "tune" not in results:
        return ""
    head, rows = tuning_table(results)
    return "\n".join([*aligned([head, *rows]), OPTIMISTIC])


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


def tuning_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of what was tuned."""
    tune = results["tune"]
    keys = list(tune["space"])
    head = [f"tuning, {tune['metric']} on validation", "trials", "failed", "as written", "best", *keys]
    rows = []
    for name, variant in results["variants"].items():
        trials, tuned = variant["trials"], variant["tuned"] or {}
        metrics = [MISSING if trials[key] is None else metric_text(trials[key]) for key in ("first", "best")]
        values = [_value_text(tuned[key]) if key in tuned else MISSING for key in keys]
        rows.append([name, str(trials["number"]), str(trials["failed"]), *metrics, *values])
    return head, rows


def _value_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else toml_value(value)
