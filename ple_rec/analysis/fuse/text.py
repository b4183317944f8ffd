"""What `ple-rec fuse` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.ranking.fusion import LENGTH
from ple_rec.ranking.losses import losses
from ple_rec.text import aligned
from ple_rec.text.units import metric_text

Record = Mapping[str, Any]  # fusion.json
FEW_LISTS = 30  # lists below which resamples of them say little
FEW = 100  # effective rows; the error of a rate is then .05 at one half


def format_fusion(record: Record) -> str:
    """Exponents, metrics before and after with their intervals, and what stays at the top."""
    return "\n\n".join([_exponents(record), _metrics(record), _notes(record)])


def estimates(record: Record) -> list[str]:
    """What every value@K is an estimate of, and how good a one, a sentence each."""
    how = record["counterfactual"]
    found = []
    for measured, value in record["metrics"].items():
        if how is None or value["effective_rows"] is None:
            continue
        task, places = measured.split(".value@")
        drawn = (
            f"from those exposed at random ({how['random']})"
            if how["random"]
            else "evenly from all that could be shown"
        )
        of = f"{measured} estimates the {task} of a video drawn {drawn} and put among the first {places} of its list"
        found.append(f"{of}: sum of w y / sum of w over the rows there, {_weights(how)}; {_effective(value)}")
        if value["effective_rows"] < FEW:
            found.append(
                f"warning: {measured} hangs on {value['effective_rows']:,.0f} effective rows, fewer than {FEW}: "
                f"take more rows or a greater K{', or bound the weights by --clip' if how['propensity'] else ''}"
            )
    return found


def head(record: Record) -> str:
    """Of `fusion.toml`, as comments: which factors have no searched exponent, and what its values are estimates of."""
    return "".join(f"# {line}\n" for line in constants(record) + estimates(record))


def constants(record: Record) -> list[str]:
    """Return a sentence for each factor that moves no row, and so was not searched."""
    found = []
    for name in record["constant"]:
        at_bound = record["clipped"][name] == 1
        why = "at a bound in 100 % of the rows" if at_bound else "the same in all rows of every list"
        fix = "leave it out by --tasks, or give a regression another link by --fusion"
        if name in record["scales_needed"]:
            fix = _scale(record, name)
        elif name == LENGTH:
            fix = "leave out --length, or name another feature"
        found.append(
            f"{name}: {why} of {record['searched_on']}; such a factor moves no row, so its exponent was not searched "
            f"and is {record['exponents'][name]:g}. Fix: {fix}"
        )
    return found


def moving_factors(record: Record) -> list[str]:
    """Return the names of the factors that can move a row."""
    return [name for name in record["factors"] if name not in record["constant"]]


def notes(record: Record) -> list[str]:
    """What has to be known of the numbers, a sentence each."""
    kept = record["kept_at_top"]
    found = [
        f"of {record['settings']:,} settings, searched on {record['searched_on']}; metrics of {record['told_on']}",
        "kept at the top: " + ", ".join(f"{share:.0%} of the first {k}" for k, share in kept.items()),
    ]
    if record["not_kept"]:
        found.append(f"kept on {record['searched_on']}, not on {record['told_on']}: {', '.join(record['not_kept'])}")
    if record["searched_on"] == record["told_on"]:
        found.append("the search has seen these rows: the gain flatters; tell of another split by --told-on")
    found += constants(record) + [f"a loss: {loss}" for loss in losses(record)] + _no_gains(record) + _few_lists(record)
    found += [f"{name} = {what}" for name, what in record["values"].items()] + estimates(record)
    used = [name for name in moving_factors(record) if record["exponents"][name] != 0]
    shares = [f"{name} {share:.2%}" for name, share in record["clipped"].items() if share > 0 and name in used]
    if shares:
        found.append(f"at a bound of [1e-6, 1] (the length: at 1e-6): {', '.join(shares)} of the rows")
    found += [
        f"warning: p of {name} is above .999 in most rows of {record['searched_on']}, which it hardly tells apart. "
        f"Fix: {_scale(record, name)}"
        for name in record["scales_needed"]
        if name in moving_factors(record)
    ]
    return found


def shows_gain(record: Record) -> bool:
    """Return whether the exponents are better than those before on rows that the search has not seen.

    They are if the whole interval of a target's gain is above 0, or if the exponents before break a constraint.

    Args:
        record: Content of `fusion.json`.
    """
    gains = [record["metrics"][target]["gain_interval"] for target in record["targets"]]
    return bool(record["start_breaks"]) or any(low > 0 for low, _ in gains)


def _no_gains(record: Record) -> list[str]:
    """Return a sentence for each target whose interval of the gain holds 0."""
    start = list(record["start"].values())
    before = "exponents 1 are" if start == [1.0] * len(start) else "the exponents before are"
    found = []
    for target in record["targets"]:
        value = record["metrics"][target]
        low, high = value["gain_interval"]
        if low <= 0 <= high:
            advice = "" if record["start_breaks"] else f"; {before} as good"
            found.append(
                f"no gain of {target} is shown: the interval of {value['gain']:+.4f} holds 0 "
                f"({low:+.4f} to {high:+.4f}){advice}"
            )
    return found


def _few_lists(record: Record) -> list[str]:
    """Return the warning of intervals over few lists, one for all metrics."""
    few = {measured: value["lists"] for measured, value in record["metrics"].items() if value["lists"] < FEW_LISTS}
    told = ", ".join(f"{measured} ({lists})" for measured, lists in few.items())
    over = f"fewer than {FEW_LISTS} lists of {record['told_on']} have {told}: such intervals say little"
    return [f"warning: {over}"] if few else []


def _scale(record: Record, name: str) -> str:
    return f"pass --scale {name}={record['scales_needed'][name]:g}, the 95th percentile of its predictions"


def exponent_rows(record: Record) -> list[list[str]]:
    """Return name, exponent and exponent before of each factor that can move a row."""
    return [
        [name, f"{record['exponents'][name]:.4g}", f"{record['start'][name]:.4g}"] for name in moving_factors(record)
    ]


def _exponents(record: Record) -> str:
    return "\n".join(aligned([["factor", "exponent", "before"], *exponent_rows(record)]))


def metric_rows(record: Record) -> list[list[str]]:
    """Return name, value, gain, their intervals, lists and role of each metric."""
    return [
        [
            measured,
            metric_text(found["value"]),
            _interval(found["interval"]),
            f"{found['gain']:+.4f}",
            _interval(found["gain_interval"], signed=True),
            f"{found['lists']:,}",
            _role(record, measured),
        ]
        for measured, found in record["metrics"].items()
    ]


def _interval(interval: Sequence[float], *, signed: bool = False) -> str:
    return " to ".join(f"{end:+.4f}" if signed else f"{end:.4f}" for end in interval)


def _role(record: Record, measured: str) -> str:
    if measured in record["targets"]:
        return "target"
    return next((text for text in record["constraints"] if text.startswith(f"{measured} ")), "")


def _metrics(record: Record) -> str:
    heads = [record["told_on"], "value", f"95 % over {record['resampled']}", "gain", "95 % of the gain", "lists", ""]
    return "\n".join(aligned([heads, *metric_rows(record)], left=(0, 6)))


def _notes(record: Record) -> str:
    return "\n".join(notes(record))


def _weights(how: Mapping[str, Any]) -> str:
    if how["propensity"] is None:
        return "w = 1"
    if how["clip"] is None:
        return f"w = 1 / {how['propensity']}"
    return (
        f"w = 1 / {how['propensity']} in units of its mean, at most {how['clip']:g} "
        f"(so clipped: {how['clipped']:.2%} of the rows, which brings a bias)"
    )


def _effective(value: Mapping[str, Any]) -> str:
    return f"{value['effective_rows']:,.0f} effective of {value['weighted_rows']:,} rows"
