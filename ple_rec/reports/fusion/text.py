"""Text of a fusion, which `ple-rec fuse` prints; docs/ranking.md explains the terms.

A fusion scores a row by the product of its factors, each to the power of an exponent that a search has chosen. The
factors are the predictions of the tasks and, if asked for, a function of the length of the video. A prediction is first
clipped to [1e-6, 1], and the length function to 1e-6 from below. Rows are ranked within lists, one for each value of a
group column. A value@K estimates the mean label of the rows that are among the
first K of their lists.

A record is the content of fusion.json. Some of its keys:

    searched_on      split of the search
    told_on          split of the metrics
    settings         number of choices of the exponents that were tried
    start            previous exponents; `start_breaks` has the constraints that do not hold with them
    constant         factors that reorder no list
    clipped          share of the rows in which a factor is at a bound (1e-6, or for a task .999 and above), by factor
    scales_needed    95th percentile of the predictions, by task, if most of these are above .999
    not_kept         constraints that do not hold on `told_on`
    kept_at_top      share of the first K rows that are also among the first K with the previous exponents, by K
    resampled        column whose values, such as users, are resampled for the intervals
    values           definitions of labels that are the product of a task and a feature
    counterfactual   estimator of value@K, or None; its `clipped` is the share of the rows whose weight was bounded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.ranking.fusion import LENGTH_FACTOR
from ple_rec.ranking.losses import worsened_metrics
from ple_rec.text import align_columns
from ple_rec.text.units import metric_text

# Content of fusion.json.
Record = Mapping[str, Any]
# Metrics over fewer lists get a warning.
FEW_LISTS = 30
# Weighted rows with weights w count as (sum w)^2 / sum w^2 effective rows. With this many, a rate of one half has a
# standard error of 0.05; fewer get a warning.
FEW_EFFECTIVE_ROWS = 100


def format_fusion(record: Record) -> str:
    """Return exponents, metrics with their gains and intervals, and notes, as text for the terminal."""
    return "\n\n".join([_exponent_table(record), _metric_table(record), _notes(record)])


def estimator_notes(record: Record) -> list[str]:
    """Return a sentence on the estimator of every value@K, with a warning after it if it has few effective rows.

    The list is empty for a fusion without such metrics.
    """
    estimator = record["counterfactual"]
    sentences = []
    for metric, value in record["metrics"].items():
        if estimator is None or value["effective_rows"] is None:
            continue
        task, places = metric.split(".value@")
        source = (
            f"from those exposed at random ({estimator['random']})"
            if estimator["random"]
            else "evenly from all that could be shown"
        )
        estimate = (
            f"{metric} estimates the {task} of a video drawn {source} and put among the first {places} of its list"
        )
        equation = f"sum of w y / sum of w over the rows there, {_weights_text(estimator)}"
        sentences.append(f"{estimate}: {equation}; {_effective_text(value)}")
        if value["effective_rows"] < FEW_EFFECTIVE_ROWS:
            sentences.append(
                f"warning: {metric} rests on {value['effective_rows']:,.0f} effective rows, fewer than "
                f"{FEW_EFFECTIVE_ROWS}: take more rows or a greater K"
                f"{', or bound the weights by --clip' if estimator['propensity'] else ''}"
            )
    return sentences


def toml_comments(record: Record) -> str:
    """Return comments for the head of `fusion.toml`: factors that were not searched, and estimators of value@K."""
    return "".join(f"# {line}\n" for line in constant_factor_notes(record) + estimator_notes(record))


def constant_factor_notes(record: Record) -> list[str]:
    """Return a sentence for each factor that changes the order of no list, so that its exponent was not searched."""
    sentences = []
    for name in record["constant"]:
        at_bound = record["clipped"][name] == 1
        reason = "at a bound in 100 % of the rows" if at_bound else "the same in all rows of every list"
        fix = "leave it out by --tasks, or give a regression another link by --fusion"
        if name in record["scales_needed"]:
            fix = _scale_fix(record, name)
        elif name == LENGTH_FACTOR:
            fix = "leave out --length, or name another feature"
        sentences.append(
            f"{name}: {reason} of {record['searched_on']}; such a factor moves no row, so its exponent was not "
            f"searched and is {record['exponents'][name]:g}. Fix: {fix}"
        )
    return sentences


def moving_factors(record: Record) -> list[str]:
    """Return the names of the factors that can change the order of a list."""
    return [name for name in record["factors"] if name not in record["constant"]]


def notes(record: Record) -> list[str]:
    """Return notes and warnings about the search and its metrics, one sentence each."""
    searched_on, told_on = record["searched_on"], record["told_on"]
    sentences = [
        f"of {record['settings']:,} settings, searched on {searched_on}; metrics of {told_on}",
        "rows that stay at the top: "
        + ", ".join(f"{share:.0%} of the first {k}" for k, share in record["kept_at_top"].items()),
    ]
    if record["not_kept"]:
        sentences.append(f"constraints that hold on {searched_on}, not on {told_on}: {', '.join(record['not_kept'])}")
    if searched_on == told_on:
        sentences.append("the search has seen these rows, so the gain is too high; choose another split by --told-on")
    sentences += constant_factor_notes(record) + [f"worse than before: {text}" for text in worsened_metrics(record)]
    sentences += _unproven_gains(record) + _few_lists(record)
    sentences += [f"{name} = {product}" for name, product in record["values"].items()] + estimator_notes(record)
    used = [name for name in moving_factors(record) if record["exponents"][name] != 0]
    shares = [f"{name} {share:.2%}" for name, share in record["clipped"].items() if share > 0 and name in used]
    if shares:
        bounds = "p: 1e-6, or .999 and above; length: 1e-6"
        sentences.append(f"at a bound of a factor ({bounds}): {', '.join(shares)} of the rows")
    sentences += [
        f"warning: p of {name} is above .999 in most rows of {searched_on}, so it hardly separates them. "
        f"Fix: {_scale_fix(record, name)}"
        for name in record["scales_needed"]
        if name in moving_factors(record)
    ]
    return sentences


def _unproven_gains(record: Record) -> list[str]:
    """Return a sentence for each target whose interval of the gain contains 0."""
    start = list(record["start"].values())
    before = "exponents 1 are" if start == [1.0] * len(start) else "the exponents before are"
    sentences = []
    for target in record["targets"]:
        value = record["metrics"][target]
        low, high = value["gain_interval"]
        if low <= 0 <= high:
            advice = "" if record["start_breaks"] else f"; {before} as good"
            sentences.append(
                f"no gain of {target} is shown: the interval of {value['gain']:+.4f} holds 0 "
                f"({low:+.4f} to {high:+.4f}){advice}"
            )
    return sentences


def _few_lists(record: Record) -> list[str]:
    """Return one warning that names all metrics with too few lists; empty if there are none."""
    lists_by_metric = {
        metric: value["lists"] for metric, value in record["metrics"].items() if value["lists"] < FEW_LISTS
    }
    metrics = ", ".join(f"{metric} ({lists})" for metric, lists in lists_by_metric.items())
    text = f"fewer than {FEW_LISTS} lists of {record['told_on']} have {metrics}: such intervals say little"
    return [f"warning: {text}"] if lists_by_metric else []


def _scale_fix(record: Record, name: str) -> str:
    return f"pass --scale {name}={record['scales_needed'][name]:g}, the 95th percentile of its predictions"


def exponent_rows(record: Record) -> list[list[str]]:
    """Return name, new exponent and previous exponent of each factor that can change the order of a list."""
    return [
        [name, f"{record['exponents'][name]:.4g}", f"{record['start'][name]:.4g}"] for name in moving_factors(record)
    ]


def _exponent_table(record: Record) -> str:
    return "\n".join(align_columns([["factor", "exponent", "before"], *exponent_rows(record)]))


def metric_rows(record: Record) -> list[list[str]]:
    """Return name, value and its interval, gain and its interval, number of lists, and role of each metric."""
    return [
        [
            metric,
            metric_text(value["value"]),
            _interval(value["interval"]),
            f"{value['gain']:+.4f}",
            _interval(value["gain_interval"], signed=True),
            f"{value['lists']:,}",
            _role(record, metric),
        ]
        for metric, value in record["metrics"].items()
    ]


def _interval(interval: Sequence[float], *, signed: bool = False) -> str:
    return " to ".join(f"{end:+.4f}" if signed else f"{end:.4f}" for end in interval)


def _role(record: Record, metric: str) -> str:
    """Return `target`, or the constraint on the metric, such as `share.mean@5 >= 0.02`; empty if it has neither."""
    if metric in record["targets"]:
        return "target"
    return next((text for text in record["constraints"] if text.startswith(f"{metric} ")), "")


def _metric_table(record: Record) -> str:
    heads = [record["told_on"], "value", f"95 % over {record['resampled']}", "gain", "95 % of the gain", "lists", ""]
    return "\n".join(align_columns([heads, *metric_rows(record)], left_columns=(0, 6)))


def _notes(record: Record) -> str:
    return "\n".join(notes(record))


def _weights_text(estimator: Mapping[str, Any]) -> str:
    if estimator["propensity"] is None:
        return "w = 1"
    if estimator["clip"] is None:
        return f"w = 1 / {estimator['propensity']}"
    return (
        f"w = 1 / {estimator['propensity']} in units of its mean, at most {estimator['clip']:g} "
        f"(so clipped: {estimator['clipped']:.2%} of the rows, which brings a bias)"
    )


def _effective_text(value: Mapping[str, Any]) -> str:
    return f"{value['effective_rows']:,.0f} effective of {value['weighted_rows']:,} rows"
