"""The search: it finds what is known to be best, keeps constraints, gives a front, and is repeated by its seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from ple_rec.errors import UserError
from ple_rec.ranking.metrics import MetricName
from ple_rec.ranking.search import Constraint, ExponentRange, SearchResult, _best_of_fronts, _score, search

Floats = NDArray[np.float64]
TASKS = {"view": "binary", "share": "binary"}
VIEW, SHARE = MetricName("view", "ndcg", 5), MetricName("share", "ndcg", 5)
RANGES = [ExponentRange("view", -1.0, 3.0), ExponentRange("share", 0.0, 2.0), ExponentRange("length", 0.5, 0.5)]
START = np.array([0.0, 0.0, 0.5])


def bowls(exponents_WK: Floats) -> Mapping[MetricName, Floats]:
    """`view` is greatest at (1.5, 0.4), `share` at (1.5, 1.6): between them lies the front."""
    view, share, length = exponents_WK.T
    assert (length == 0.5).all()
    return {
        VIEW: 1 - (view - 1.5) ** 2 / 10 - (share - 0.4) ** 2 / 10,
        SHARE: 1 - (view - 1.5) ** 2 / 10 - (share - 1.6) ** 2 / 10,
    }


def found(
    targets: list[MetricName], *constraints: Constraint, seed: int = 0, grid: int = 64, trials: int = 96
) -> SearchResult:
    return search(bowls, RANGES, targets, constraints, start_K=START, grid=grid, trials=trials, seed=seed)


def test_one_target() -> None:
    result = found([VIEW])
    assert result.exponents_WK.shape == (1 + 64 + 96, 3)
    assert result.exponents_WK[0].tolist() == START.tolist()  # what there was is tried first
    assert result.values[VIEW][result.best] == result.values[VIEW].max() > 0.998
    assert result.front == (result.best,)
    assert result.exponents_WK[result.best] == pytest.approx([1.5, 0.4, 0.5], abs=0.15)


def test_a_start_outside_of_the_ranges_is_brought_within_them() -> None:
    ranges = [ExponentRange("view", -1.0, -1.0), ExponentRange("share", 1.0, 2.0), RANGES[2]]
    start = np.array([1.5, 0.4, 1.0])  # of `view`, the best there is
    result = search(bowls, ranges, [VIEW], start_K=start, grid=32, trials=32)
    assert result.exponents_WK[0].tolist() == [-1.0, 1.0, 0.5]
    assert (result.exponents_WK[:, [0, 2]] == [-1.0, 0.5]).all()
    assert ((result.exponents_WK[:, 1] >= 1) & (result.exponents_WK[:, 1] <= 2)).all()
    assert result.best == 0


def test_a_constraint_is_kept() -> None:
    bound = 0.93  # share at least 1.6 - .84
    result = found([VIEW], Constraint(SHARE, True, bound))
    assert result.values[SHARE][result.best] >= bound
    kept = result.values[SHARE] >= bound
    assert result.values[VIEW][result.best] == result.values[VIEW][kept].max()
    assert result.exponents_WK[result.best][1] == pytest.approx(0.77, abs=0.2)
    assert ((result.violation_W == 0) == kept).all()


def test_of_settings_that_break_a_constraint_the_nearest_is_ranked_first_whatever_the_target() -> None:
    told = _score(
        {VIEW: np.array([-5.0, 9.0, 0.1, 0.9]), SHARE: np.array([2.0, 0.2, 0.8, 0.5])},
        [VIEW],
        [Constraint(SHARE, True, 1.0)],
    )
    assert np.argsort(-told.score_WT[:, 0]).tolist() == [0, 2, 3, 1]


def test_several_targets_give_a_front() -> None:
    result = found([VIEW, SHARE])
    points = np.stack([result.values[VIEW], result.values[SHARE]], axis=1)
    front = {tuple(point) for point in points[list(result.front)]}  # NSGA-II repeats settings: one of each stands there
    assert len(front) == len(result.front)
    for i in range(len(points)):
        beaten = any((points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in range(len(points)))
        assert (tuple(points[i]) in front) == (not beaten)
    assert (np.diff(points[list(result.front), 0]) > 0).all()
    assert (np.diff(points[list(result.front), 1]) < 0).all()
    assert len(result.front) > 5


@pytest.mark.parametrize("grid", [64, 1024])
def test_the_first_batch_for_several_targets_is_around_the_front_of_the_grid(grid: int) -> None:
    away, by_chance = [], []
    for seed in range(4):
        result = found([VIEW, SHARE], grid=grid, trials=16, seed=seed)
        view, share, _ = result.exponents_WK.T
        from_best = (view - 1.5) ** 2 + np.maximum(np.abs(share - 1) - 0.6, 0) ** 2
        away += from_best[1 + grid :].tolist()
        by_chance += from_best[1 : 1 + grid].tolist()
    assert np.median(away) < np.median(by_chance) / 4  # a mutated exponent is one by chance


def test_a_grid_of_fewer_settings_than_a_generation_has() -> None:
    result = found([VIEW, SHARE], grid=1, trials=40)
    assert len(result.exponents_WK) == 1 + 1 + 40


def test_a_generation_is_the_best_front_by_front() -> None:
    score_WT = np.array([[3.0, 0.0], [0.0, 3.0], [2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.5]])
    assert _best_of_fronts(score_WT, 3) == [1, 2, 0]
    assert _best_of_fronts(score_WT, 2) == [1, 0]  # both ends
    assert _best_of_fronts(score_WT, 5) == [1, 2, 0, 5, 3]
    assert sorted(_best_of_fronts(score_WT, 16)) == list(range(6))


def test_equal_points_stand_on_the_front_once() -> None:
    flat = {VIEW: 0.5, SHARE: 0.5}
    result = search(
        lambda e: {m: np.full(len(e), value) for m, value in flat.items()},
        RANGES,
        [VIEW, SHARE],
        start_K=START,
        grid=8,
        trials=0,
    )
    assert result.front == (0,)


@pytest.mark.parametrize("targets", [[VIEW], [VIEW, SHARE]], ids=["one", "two"])
def test_the_same_seed_tries_the_same(targets: list[MetricName]) -> None:
    first, again, other = found(targets), found(targets), found(targets, seed=1)
    assert (first.exponents_WK == again.exponents_WK).all()
    assert (first.exponents_WK != other.exponents_WK).any()


def test_fixed_exponents_alone_are_evaluated_once() -> None:
    ranges = [ExponentRange("view", 1.0, 1.0), ExponentRange("share", 0.0, 0.0), RANGES[2]]
    result = search(bowls, ranges, [VIEW], start_K=START, grid=1, trials=50)
    assert len(result.exponents_WK) == 2


def test_constraints_that_no_setting_keeps_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        found([VIEW], Constraint(SHARE, True, 1.5))
    assert str(caught.value).startswith(
        "--subject-to: share.ndcg@5 >= 1.5; none of 161 settings keeps this; the nearest has share.ndcg@5 0.9"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share", r'got "share"; a range is NAME=LOW:HIGH'),
        ("share=2:1", "a range is NAME=LOW:HIGH"),
        ("share=0:inf", "a range is NAME=LOW:HIGH"),
        ("like=0:1", 'got "like"; the factors are view, share'),
    ],
)
def test_a_range_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExponentRange.parse(text, ["view", "share"])
    assert ExponentRange.parse("share=0.5", ["share"]) == ExponentRange("share", 0.5, 0.5)
    assert ExponentRange.parse("share=-1:2", ["share"]) == ExponentRange("share", -1.0, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "share.mean@5",
        "share.mean@5>0.2",
        "share.mean@5>=much",
        "share.mean@5>=nan",
        "share.mean@5<=-inf",
        "like.mean@5>=1",
    ],
)
def test_a_constraint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--subject-to"):
        Constraint.parse(text, TASKS)
    assert str(Constraint.parse("share.mean@5 >= 0.02", TASKS)) == "share.mean@5 >= 0.02"
    assert not Constraint.parse("share.mean@5<=1", TASKS).is_lower_bound
