"""A warning where one task is nearly the whole loss."""

from __future__ import annotations

from ple_rec.train.dominance import dominance_warning


def record(**parts: tuple[float, float]) -> dict[str, object]:
    return {"tasks": {name: {"loss": loss, "weight": weight} for name, (loss, weight) in parts.items()}}


def test_a_label_in_seconds_is_named_with_its_share() -> None:
    assert dominance_warning(record(click=(0.67, 1.0), watch=(14592.2, 1.0))) == (
        "warning: watch is 100.00% of the loss; the other tasks hardly learn. Fix: prepare its label in a larger unit, "
        "so that its size is near 1, or train it with a smaller weight (tasks.weight)"
    )


def test_a_weight_a_small_share_and_a_single_task_are_no_fault() -> None:
    assert dominance_warning(record(click=(0.67, 1.0), watch=(14592.2, 1e-4))) is None
    assert dominance_warning(record(click=(0.67, 1.0), watch=(9.0, 1.0))) is None
    assert dominance_warning(record(watch=(14592.2, 1.0))) is None
    assert dominance_warning(record(a=(0.0, 1.0), b=(0.0, 1.0))) is None
