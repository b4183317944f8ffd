"""The verdict: the favourable end of the interval decides, tasks with few positives do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ple_rec.config.daily import GateConfig, GateMetric
from ple_rec.days.gate import check_margins, judge, unjudged_notes
from ple_rec.days.record import Difference
from ple_rec.errors import UserError

GATE = GateConfig(margins={"click": {"auc": 0.01, "ne": 0.02}, "watch": {"mse": 0.1}}, min_positives=50)


def difference(
    gain: float | None, low: float | None, high: float | None, *, metric: GateMetric = "auc", positives: int = 50
) -> Difference:
    task = "watch" if metric == "mse" else "click"
    interval = None if low is None or high is None else (low, high)
    return Difference(task, metric, 0.7, 0.7 + (gain or 0), gain, interval, 1000, positives)


@pytest.mark.parametrize(
    ("each", "refused"),
    [
        (difference(0.02, 0.01, 0.03), False),
        (difference(-0.02, -0.03, -0.011), True),
        (difference(-0.02, -0.03, -0.01), False),
        # Worse by more than the margin, but chance may explain it.
        (difference(-0.05, -0.2, 0.1), False),
        (difference(-0.02, -0.03, -0.011, metric="ne"), False),
        (difference(-0.05, -0.07, -0.03, metric="ne"), True),
        (difference(-0.3, -0.4, -0.2, metric="mse"), True),
    ],
)
def test_the_favourable_end_decides(each: Difference, refused: bool) -> None:
    (judged,), reasons = judge([each], GATE)
    assert judged.is_judged
    assert bool(reasons) == refused
    if refused:
        assert reasons[0].startswith(f"{each.task}: {each.metric} is worse by more than {judged.margin:g}; gain -")


@pytest.mark.parametrize(
    "each",
    [difference(-0.3, -0.4, -0.2, positives=49), difference(-0.3, None, None)],
)
def test_a_task_with_few_positives_does_not_count(each: Difference) -> None:
    judged, reasons = judge([each, difference(0.0, -0.1, 0.1, metric="mse")], GATE)
    assert [difference.is_judged for difference in judged] == [False, True]
    assert reasons == ()
    (note,) = unjudged_notes(judged, GATE)
    assert note == (
        f"click: not judged; the held-out rows have {each.positives} positives, "
        "and a margin needs 50 in 10 or more groups"
    )


@pytest.mark.parametrize(("positives", "missing"), [(0, "positives"), (1000, "negatives")])
def test_a_task_without_a_class_is_refused(positives: int, missing: str) -> None:
    """A broken label must not pass beside a healthy task."""
    undefined = difference(None, None, None, positives=positives)
    healthy = difference(0.0, -0.1, 0.1, metric="mse")
    judged, reasons = judge([undefined, replace(undefined, metric="ne"), healthy], GATE)
    assert reasons == (
        f"click: the held-out rows have no {missing}, so no margin can be judged; its label may be broken",
    )
    assert unjudged_notes(judged, GATE) == []
    only_watch = GateConfig(margins={"watch": {"mse": 0.1}}, min_positives=50)
    assert judge([undefined, healthy], only_watch)[1] == ()


def test_a_candidate_that_cannot_be_judged_is_refused() -> None:
    few = difference(0.3, 0.2, 0.4, positives=49)
    _, (reason,) = judge([few], GATE)
    assert reason.startswith("no margin can be judged: a task needs 50 positives")
    assert reason.endswith("there are click 49")
    assert judge([few], GateConfig()) == ((few,), ())


def test_margins_name_tasks_and_their_metrics() -> None:
    kinds = {"click": "binary", "watch": "regression"}
    check_margins(GATE, kinds)
    with pytest.raises(UserError, match=r"gate.margins.watch.auc: is not computed; a regression task has mse"):
        check_margins(GateConfig(margins={"watch": {"auc": 0.1}}), kinds)
    with pytest.raises(UserError, match=r"gate.margins.clicks: is no task"):
        check_margins(GateConfig(margins={"clicks": {"auc": 0.1}}), kinds)
