"""Verdict on a candidate: refused if it is worse than the served version by more than a declared margin.

The interval decides, by its favourable end. A candidate is refused if even this end says that a metric got worse by
more than the margin, so that chance is no explanation. The other end would refuse a good model on a day with few rows,
whose intervals are wide, and the served model would grow old; a spoiled model falls by much more than such a width.
If no margin can be judged, since too few rows or positives were held out, the candidate is refused, too: nothing then
says that it is no worse. So it is if a task with a margin has no positives or no negatives at all, since its label may
be broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ple_rec.analysis.compare.resampling import FEWEST_GROUPS
from ple_rec.config.daily import GateConfig
from ple_rec.config.words import suggestion
from ple_rec.days.record import Difference
from ple_rec.days.validation import METRICS
from ple_rec.errors import UserError


def check_margins(gate: GateConfig, kinds: Mapping[str, str]) -> None:
    """Refuse a margin for a task that the dataset does not have, or for a metric that the task does not have.

    Args:
        gate: Configuration of the gate.
        kinds: Kind of each task, by name.

    Raises:
        UserError: A margin is wrong.
    """
    for task, margins in gate.margins.items():
        if task not in kinds:
            rule, fix = suggestion(task, list(kinds)), "name tasks of the dataset"
            raise UserError(f"gate.margins.{task}", "is no task", rule, fix)
        for metric in margins:
            if metric not in (known := METRICS[kinds[task]]):
                rule = f"a {kinds[task]} task has {' and '.join(known)}"
                raise UserError(f"gate.margins.{task}.{metric}", "is not computed", rule, f"name {known[0]}")


def judge(differences: Sequence[Difference], gate: GateConfig) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Return the differences with their margins, and a sentence for each reason to refuse the candidate.

    Args:
        differences: Differences of the candidate to the served version.
        gate: Margins, and the number of positives that a task needs.
    """
    with_margins = tuple(_with_margin(each, gate) for each in differences)
    undefined = [each for each in with_margins if each.margin is not None and each.gain is None]
    reasons = [
        f"{task}: the held-out rows have no {missing}, so no margin can be judged; its label may be broken"
        for task, missing in dict.fromkeys((each.task, _missing_rows(each)) for each in undefined)
    ]
    reasons += [
        f"{each.task}: {each.metric} is worse by more than {each.margin:g}; "
        f"gain {each.gain:+.4f}, 95 % from {each.interval[0]:+.4f} to {each.interval[1]:+.4f}"
        for each in with_margins
        if each.is_judged and each.margin is not None and each.interval is not None and each.interval[1] < -each.margin
    ]
    if gate.margins and not any(each.is_judged for each in with_margins):
        counts = ", ".join(dict.fromkeys(f"{each.task} {each.positives:,}" for each in with_margins))
        reasons.append(
            f"no margin can be judged: a task needs {gate.min_positives:,} positives in {FEWEST_GROUPS} or more groups "
            f"of the held-out rows; there are {counts or 'no tasks in common'}"
        )
    return with_margins, tuple(reasons)


def unjudged_notes(differences: Sequence[Difference], gate: GateConfig) -> list[str]:
    """Return a sentence for each task whose margins do not count, although its metrics are defined.

    Args:
        differences: Differences with their margins.
        gate: Number of positives that a task needs.
    """
    with_margin = [each for each in differences if each.margin is not None and each.gain is not None]
    counts = dict.fromkeys((each.task, each.positives) for each in with_margin if not each.is_judged)
    needed = f"a margin needs {gate.min_positives:,} in {FEWEST_GROUPS} or more groups"
    return [f"{task}: not judged; the held-out rows have {count:,} positives, and {needed}" for task, count in counts]


def _missing_rows(each: Difference) -> str:
    """Return which rows a task lacks if its metric is undefined: "rows", "positives" or "negatives"."""
    if each.rows == 0:
        return "rows"
    return "positives" if each.positives == 0 else "negatives"


def _with_margin(each: Difference, gate: GateConfig) -> Difference:
    margin = gate.margins.get(each.task, {}).get(each.metric)
    is_judged = margin is not None and each.interval is not None and each.positives >= gate.min_positives
    return replace(each, margin=margin, is_judged=is_judged)
