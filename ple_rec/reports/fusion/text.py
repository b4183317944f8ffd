"""Text of a fusion, which `ple-rec fuse` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.ranking.fusion import LENGTH
from ple_rec.ranking.losses import losses
from ple_rec.text import aligned
from ple_rec.text.units import metric_text

# Content of fusion.json.
Record = Mapping[str, Any]
# Intervals over fewer lists have a warning.
FEW_LISTS = 30
# With so many effective rows, a rate of one half has an error of .05.
FEW = 100


def format_fusion(record: Record) -> str:
    """Return exponents, metrics with their gains and intervals, and notes, as text for the terminal."""
    return "\n\n".join([_exponents(record), _metrics(record), _notes(record)])


def estimates(record: Record) -> list[str]:
    """Return sentences on the estimator of every value@K, and warnings about few effective rows."""
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
        equation = f"sum of w y / sum of w over the rows there, {_weights(estimator)}"
        sentences.append(f"{estimate}: {equation}; {_effective(value)}")
        if value["effective_rows"] < FEW:
            sentences.append(
                f"warning: {metric} rests on {value['effective_rows']:,.0f} effective rows, fewer than {FEW}: "
                f"take more rows or a greater K{', or bound the weights by --clip' if estimator['propensity'] else ''}"
            )
    return sentences


def head(record: Record) -> str:
    """Return comments for the head of `fusion.toml`: factors that were not searched, and estimators of value@K."""
    return "".join(f"# {line}\n" for line in constants(record) + estimates(record))


def constants(record: Record) -> list[str]:
    """Return a sentence for each factor that moves no row, and so was not searched."""
    sentences = []
    for name in record["constant"]:
        at_bound = record["clipped"][name] == 1
        reason = "at a bound in 100 % of the rows" if at_bound else "the same in all rows of every list"
        fix = "leave it out by --tasks, or give a regression another link by --fusion"
        if name in record["scales_needed"]:
            fix = _scale(record, name)
        elif name == LENGTH:
            fix = "leave out --length, or name another feature"
        sentences.append(
            f"{name}: {reason} of {record['searched_on']}; such a factor moves no row, so its exponent was not "
            f"searched and is {record['exponents'][name]:g}. Fix: {fix}"
        )
    return sentences


def moving_factors(record: Record) -> list[str]:
    """Return the names of the factors that can move a row."""
    return [name for name in record["factors"] if name not in record["constant"]]


def notes(record: Record) -> list[str]:
    """Return notes and warnings about the numbers, a sentence each."""
    searched_on, report_on = record["searched_on"], record["told_on"]
    sentences = [
        f"of {record['settings']:,} settings, searched on {searched_on}; metrics of {report_on}",
        "kept at the top: " + ", ".join(f"{share:.0%} of the first {k}" for k, share in record["kept_at_top"].items()),
    ]
    if record["not_kept"]:
        sentences.append(f"kept on {searched_on}, not on {report_on}: {', '.join(record['not_kept'])}")
    if searched_on == report_on:
        sentences.append("the search has seen these rows, so the gain is too high; choose another split by --told-on")
    sentences += constants(record) + [f"a loss: {loss}" for loss in losses(record)]
    sentences += _no_gains(record) + _few_lists(record)
    sentences += [f"{name} = {product}" for name, product in record["values"].items()] + estimates(record)
    used = [name for name in moving_factors(record) if record["exponents"][name] != 0]
    shares = [f"{name} {share:.2%}" for name, share in record["clipped"].items() if share > 0 and name in used]
    if shares:
        sentences.append(f"at a bound of [1e-6, 1] (the length: at 1e-6): {', '.join(shares)} of the rows")
    sentences += [
        f"warning: p of {name} is above .999 in most rows of {searched_on}, so it hardly separates them. "
        f"Fix: {_scale(record, name)}"
        for name in record["scales_needed"]
        if name in moving_factors(record)
    ]
    return sentences


def _no_gains(record: Record) -> list[str]:
    """Return a sentence for each target whose interval of the gain holds 0."""
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
    """Return one warning about all intervals over few lists, or none."""
    few = {metric: value["lists"] for metric, value in record["metrics"].items() if value["lists"] < FEW_LISTS}
    metrics = ", ".join(f"{metric} ({lists})" for metric, lists in few.items())
    text = f"fewer than {FEW_LISTS} lists of {record['told_on']} have {metrics}: such intervals say little"
    return [f"warning: {text}"] if few else []


def _scale(record: Record, name: str) -> str:
    return f"pass --scale {name}={record['scales_needed'][name]:g}, the 95th percentile of its predictions"


def exponent_rows(record: Record) -> list[list[str]]:
    """Return name, new exponent and previous exponent of each factor that can move a row."""
    return [
        [name, f"{record['exponents'][name]:.4g}", f"{record['start'][name]:.4g}"] for name in moving_factors(record)
    ]


def _exponents(record: Record) -> str:
    return "\n".join(aligned([["factor", "exponent", "before"], *exponent_rows(record)]))


def metric_rows(record: Record) -> list[list[str]]:
    """Return name, value, gain, their intervals, lists and role of each metric."""
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
    if metric in record["targets"]:
        return "target"
    return next((text for text in record["constraints"] if text.startswith(f"{metric} ")), "")


def _metrics(record: Record) -> str:
    heads = [record["told_on"], "value", f"95 % over {record['resampled']}", "gain", "95 % of the gain", "lists", ""]
    return "\n".join(aligned([heads, *metric_rows(record)], left=(0, 6)))


def _notes(record: Record) -> str:
    return "\n".join(notes(record))


def _weights(estimator: Mapping[str, Any]) -> str:
    if estimator["propensity"] is None:
        return "w = 1"
    if estimator["clip"] is None:
        return f"w = 1 / {estimator['propensity']}"
    return (
        f"w = 1 / {estimator['propensity']} in units of its mean, at most {estimator['clip']:g} "
        f"(so clipped: {estimator['clipped']:.2%} of the rows, which brings a bias)"
    )


def _effective(value: Mapping[str, Any]) -> str:
    return f"{value['effective_rows']:,.0f} effective of {value['weighted_rows']:,} rows"
