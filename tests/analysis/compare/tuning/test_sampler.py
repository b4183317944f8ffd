"""The values that trials try: a function of the space, the number and earlier batches, and better than chance."""

from __future__ import annotations

from typing import Any

import pytest

from ple_rec.analysis.compare.tuning.sampler import (
    BATCH_TRIALS,
    STARTUP_TRIALS,
    Dimension,
    TrialResult,
    batch_containing,
    propose,
)
from ple_rec.config.compare import RangeConfig

RATE = Dimension("rate", RangeConfig(low=1e-4, high=1.0, log=True))
DROPOUT = Dimension("dropout", RangeConfig(low=0.0, high=0.5))
EPOCHS = Dimension("epochs", RangeConfig(low=1, high=4), is_integer=True)
SIZES = Dimension("sizes", RangeConfig(choices=((8,), (16, 8), (4,))))
SPACE = (RATE, DROPOUT, EPOCHS, SIZES)


def score(values: dict[str, Any]) -> float:
    """Best at a dropout of 0.4 and sizes of [4]."""
    return -((values["dropout"] - 0.4) ** 2) - (values["sizes"] != [4])


def results(trials: list[dict[str, Any]]) -> list[TrialResult]:
    return [TrialResult(values, score(values)) for values in trials]


def test_batches_follow_one_another() -> None:
    numbers = [batch_containing(number) for number in range(STARTUP_TRIALS + 3 * BATCH_TRIALS)]
    assert set(numbers) == {
        range(STARTUP_TRIALS),
        *(range(n, n + BATCH_TRIALS) for n in range(STARTUP_TRIALS, STARTUP_TRIALS + 3 * BATCH_TRIALS, BATCH_TRIALS)),
    }
    assert all(number in batch for number, batch in enumerate(numbers))


def test_values_lie_in_the_space_and_are_of_its_types() -> None:
    for values in propose(SPACE, 0, 50, []):
        assert 1e-4 <= values["rate"] <= 1.0
        assert 0.0 <= values["dropout"] <= 0.5
        assert values["epochs"] in (1, 2, 3, 4)
        assert isinstance(values["epochs"], int)
        assert values["sizes"] in ([8], [16, 8], [4])


def test_the_first_of_more_are_the_same_and_batches_differ() -> None:
    earlier = propose(SPACE, 0, STARTUP_TRIALS, [])
    four = propose(SPACE, STARTUP_TRIALS, 4, results(earlier))
    assert propose(SPACE, STARTUP_TRIALS, 2, results(earlier)) == four[:2]
    assert propose(SPACE, STARTUP_TRIALS + BATCH_TRIALS, 4, results(earlier)) != four
    assert len({values["rate"] for values in four}) == 4


def test_they_come_to_where_it_is_good() -> None:
    trials = propose(SPACE, 0, STARTUP_TRIALS, [])
    for first in range(STARTUP_TRIALS, STARTUP_TRIALS + 6 * BATCH_TRIALS, BATCH_TRIALS):
        trials += propose(SPACE, first, BATCH_TRIALS, results(trials))
    late, random = trials[-2 * BATCH_TRIALS :], propose(SPACE, 0, 2 * BATCH_TRIALS, [])
    assert sum(values["sizes"] == [4] for values in late) > sum(values["sizes"] == [4] for values in random)
    assert sum(map(score, late)) > sum(map(score, random))


def test_a_failure_among_the_first_does_not_put_off_that_results_tell() -> None:
    trials = propose(SPACE, 0, STARTUP_TRIALS, [])
    few, other = (
        [
            TrialResult(values, None if n < STARTUP_TRIALS // 2 else sign * score(values))
            for n, values in enumerate(trials)
        ]
        for sign in (1, -1)
    )
    assert propose(SPACE, STARTUP_TRIALS, BATCH_TRIALS, few) != propose(SPACE, STARTUP_TRIALS, BATCH_TRIALS, other)


@pytest.mark.parametrize(
    "failed", [TrialResult({"rate": 0.1, "dropout": 0.4, "epochs": 2, "sizes": [4]}, None), TrialResult({}, 9.0)]
)
def test_a_failed_trial_and_one_outside_the_space_are_no_guide(failed: TrialResult) -> None:
    earlier = results(propose(SPACE, 0, STARTUP_TRIALS, []))
    assert propose(SPACE, STARTUP_TRIALS, BATCH_TRIALS, [*earlier, failed]) == propose(
        SPACE, STARTUP_TRIALS, BATCH_TRIALS, earlier
    )
