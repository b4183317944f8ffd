"""What the race showed, as a table and as lines that a program reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.race import Result

Raced = Mapping[int, Sequence[Result]]  # by number of users


def short(users: int) -> str:
    """100000 -> 100k, 5000000 -> 5m, 46926000 -> 46.9m."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if users >= size:
            return f"{users / size:.1f}".removesuffix(".0") + letter
    return str(users)


def ratios(raced: Raced) -> dict[str, float]:
    """Ours over the best of the others, medians, by the name of its line.

    `ratio_<users>` is over all of them, `ratio_<users>_libraries` over the libraries alone; one that lacks a side is
    left out.
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
                values[f"ratio_{short(users)}{name}"] = ours / max(peers)
    return values


def table(raced: Raced) -> str:
    """A line a way of a contender, the columns of each number of users side by side."""
    head = ["", *(f"{short(users)} users, samples/s (min - max)" for users in raced), "peak GiB"]
    names: dict[tuple[str, str], None] = {}
    cells: dict[tuple[int, str, str], str] = {}
    peaks: dict[str, list[str]] = {}
    for users, results in raced.items():
        for result in results:
            title = result.contender.title
            peaks.setdefault(title, []).append(f"{result.peak_bytes / 2**30:.1f}" if result.series else "-")
            for series in result.series:
                label = f"{title}, {series.mode}" if len(result.series) > 1 else title
                names[title, label] = None
                low, high = min(series.rates), max(series.rates)
                cells[users, title, label] = f"{series.median:,.0f} ({low:,.0f} - {high:,.0f})"
            if not result.series:
                names.setdefault((title, title), None)
    lines = [head]
    for title, label in names:
        if label == title and any(known == title != name for known, name in names):
            continue  # left out at one number of users, and named by its ways at another
        values = [cells.get((users, title, label), "-") for users in raced]
        lines.append([label, *values, " / ".join(peaks[title])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def reasons(raced: Raced) -> list[str]:
    """Who was not measured, and why."""
    return [
        f"{short(users)} users, {result.contender.title}: not measured, {result.reason}"
        for users, results in raced.items()
        for result in results
        if result.reason
    ]


def last_lines(values: Mapping[str, float]) -> str:
    """`name=value`, of the numbers of users one after the other."""
    return "\n".join(f"{name}={value:.2f}" for name, value in values.items())


def record(raced: Raced, values: Mapping[str, float], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON."""
    users = {str(users): {r.contender.name: r.record() for r in results} for users, results in raced.items()}
    return {"conditions": dict(conditions), "users": users, "values": dict(values)}
