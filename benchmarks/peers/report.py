"""Results of the race of our trainer against its peers: a table for people, and `ratio_...=...` lines and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.race import ContenderResult

# Results of all contenders by number of users.
ResultsByUsers = Mapping[int, Sequence[ContenderResult]]


def short_number(users: int) -> str:
    """Abbreviate a number of users: 100000 -> 100k, 5000000 -> 5m, 46926000 -> 46.9m."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if users >= size:
            return f"{users / size:.1f}".removesuffix(".0") + letter
    return str(users)


def ratios(raced: ResultsByUsers) -> dict[str, float]:
    """Return the ratios of the median rate of our best mode to the best such rate of the others.

    `ratio_<users>` compares with all others, `ratio_<users>_libraries` with the libraries alone. A ratio is left out if
    one of its sides was not measured.
    """
    values = {}
    for users, results in sorted(raced.items()):
        medians = [(result.contender, result.best.median) for result in results if result.best is not None]
        ours = next((median for contender, median in medians if contender.ours), None)
        if ours is None:
            continue
        sides = {"": [median for contender, median in medians if not contender.ours]}
        sides["_libraries"] = [median for contender, median in medians if contender.library]
        for name, peers in sides.items():
            if peers:
                values[f"ratio_{short_number(users)}{name}"] = ours / max(peers)
    return values


def table(raced: ResultsByUsers) -> str:
    """Return a table with a line for each mode of a contender and a column for each number of users.

    The last column is the peak memory of the contender at each number of users.
    """
    header = ["", *(f"{short_number(users)} users, samples/s (min - max)" for users in raced), "peak GiB"]
    labels: dict[tuple[str, str], None] = {}
    cells: dict[tuple[int, str, str], str] = {}
    peaks: dict[str, list[str]] = {}
    for users, results in raced.items():
        for result in results:
            title = result.contender.title
            peaks.setdefault(title, []).append(f"{result.peak_bytes / 2**30:.1f}" if result.series else "-")
            for series in result.series:
                label = f"{title}, {series.mode}" if len(result.series) > 1 else title
                labels[title, label] = None
                low, high = min(series.rates), max(series.rates)
                cells[users, title, label] = f"{series.median:,.0f} ({low:,.0f} - {high:,.0f})"
            if not result.series:
                labels.setdefault((title, title), None)
    lines = [header]
    for title, label in labels:
        if label == title and any(other_title == title != other_label for other_title, other_label in labels):
            # This line without a mode stands for a number of users at which the contender was not measured. The lines
            # of its modes, which come from other numbers of users, have "-" there.
            continue
        values = [cells.get((users, title, label), "-") for users in raced]
        lines.append([label, *values, " / ".join(peaks[title])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def not_measured_lines(raced: ResultsByUsers) -> list[str]:
    """Return a line for each number of users at which a contender was not measured, with the reason."""
    return [
        f"{short_number(users)} users, {result.contender.title}: not measured, {result.reason}"
        for users, results in raced.items()
        for result in results
        if result.reason
    ]


def ratio_lines(values: Mapping[str, float]) -> str:
    """Return a line `name=value` for each ratio."""
    return "\n".join(f"{name}={value:.2f}" for name, value in values.items())


def result_record(raced: ResultsByUsers, values: Mapping[str, float], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results as JSON values."""
    users = {str(users): {r.contender.name: r.record() for r in results} for users, results in raced.items()}
    return {"conditions": dict(conditions), "users": users, "values": dict(values)}
