"""Many settings are what each is alone; intervals cover; the top of the lists is compared."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ple_rec.ranking.evaluation import Evaluation
from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.metrics import MetricName, build_metric

Floats = NDArray[np.float64]
GAUC, NDCG, MEAN = MetricName("click", "gauc", 0), MetricName("click", "ndcg", 3), MetricName("watch", "mean", 2)
NAMES = ("view", "watch", "none")


def evaluation(rows: int = 6_000, lists: int = 400, threads: int = 1, seed: int = 0) -> Evaluation:
    """The first factor tells of the clicks, the second of how long is watched, the third of nothing."""
    rng = np.random.default_rng(seed)
    log_NK = rng.normal(size=(rows, 3))
    click = (rng.random(rows) < 1 / (1 + np.exp(-2 * log_NK[:, 0]))).astype(float)
    watch = np.exp(log_NK[:, 1] + rng.normal(size=rows))
    found = CandidateLists.from_groups(rng.integers(0, lists, rows))
    labels = {"click": click, "watch": watch}
    metrics = {m: build_metric(m, found, labels[m.task][found.row_N]) for m in (GAUC, NDCG, MEAN)}
    return Evaluation(found, Factors(NAMES, log_NK, {}), metrics, threads)


def test_settings_together_are_each_of_them_alone() -> None:
    found, settings = evaluation(rows=100_000, threads=2), np.random.default_rng(1).normal(size=(20, 3))
    together = found(settings)  # more than one chunk
    for i in (0, 7, 19):
        alone = found(settings[i : i + 1])
        for measured, values in together.items():
            assert values[i] == pytest.approx(alone[measured][0], abs=1e-12)


def test_a_factor_is_constant_where_it_is_the_same_in_each_list() -> None:
    group_N = np.random.default_rng(0).integers(0, 9, 60)
    two_N = np.where(np.arange(60) == 7, 2.0, 1.0)
    log_NK = np.stack([np.full(60, -13.8), group_N.astype(float), two_N], axis=1)
    found = CandidateLists.from_groups(group_N)
    assert Evaluation(found, Factors(NAMES, log_NK, {}), {}).constant_K().tolist() == [True, True, False]


def test_the_factor_that_tells_of_a_task_orders_it_best() -> None:
    found = evaluation()(np.eye(3))
    assert found[GAUC].argmax() == found[NDCG].argmax() == 0
    assert found[MEAN].argmax() == 1
    assert found[GAUC][2] == pytest.approx(0.5, abs=0.04)  # sd .009 over worlds


def test_intervals_hold_what_other_logs_of_the_world_give() -> None:
    setting, before = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    values = evaluation(seed=0).values(setting, before)[GAUC]
    others = [evaluation(seed=seed)(np.stack([setting, before]))[GAUC] for seed in range(1, 31)]
    low, high = values.interval
    assert sum(low <= other[0] <= high for other in others) >= 18  # of 30: the interval of one log around its own value
    assert high - low == pytest.approx(2 * 1.96 * np.std([other[0] for other in others]), rel=0.4)
    assert values.gain is not None
    assert values.gain_interval is not None
    assert values.gain_interval[0] < values.gain < values.gain_interval[1]
    assert values.gain_interval[0] > 0.2
    assert values.value - values.gain == pytest.approx(evaluation(seed=0)(before[None])[GAUC][0])


def requests(seed: int) -> tuple[Evaluation, Evaluation]:
    """200 users with 6 requests of 5 rows each, where the users differ; resampled by user, and list by list."""
    rng = np.random.default_rng(seed)
    user_L = np.repeat(np.arange(200), 6)
    happy_L = rng.normal(size=200)[user_L]
    lists = CandidateLists.from_groups(np.repeat(np.arange(1_200), 5))
    watch = np.repeat(happy_L, 5) + rng.normal(size=6_000)
    metrics = {MEAN: build_metric(MEAN, lists, watch)}
    factors = Factors(("view",), rng.normal(size=(6_000, 1)), {})
    return Evaluation(lists, factors, metrics, user_L=user_L), Evaluation(lists, factors, metrics)


def test_intervals_over_users_cover_where_those_over_their_lists_are_too_narrow() -> None:
    setting = np.ones(1)
    held = np.zeros(2)
    for seed in range(20):  # the mean of a world is 0
        for side, found in enumerate(requests(seed)):
            low, high = found.values(setting)[MEAN].interval
            held[side] += low <= 0 <= high
    assert held[0] >= 17
    assert held[1] <= held[0] - 4
    by_user, by_list = (found.values(setting)[MEAN] for found in requests(0))
    assert (by_user.lists, by_user.users, by_list.users) == (1_200, 200, 1_200)
    assert by_user.value == by_list.value


def test_where_each_list_is_a_users_nothing_changes() -> None:
    plain, setting = evaluation(), np.array([1.0, 0.5, 0.0])
    user_L = np.random.default_rng(3).permutation(len(plain.lists.size_L))
    log_NK = np.empty((6_000, 3))
    log_NK[plain.lists.row_N] = plain._log_KN.T
    named = Evaluation(plain.lists, Factors(NAMES, log_NK, {}), plain.metrics, user_L=user_L)
    assert named.values(setting, np.eye(3)[2]) == plain.values(setting, np.eye(3)[2])


def test_nothing_is_gained_over_the_same() -> None:
    found, setting = evaluation(), np.array([1.0, 0.5, 0.0])
    for value in found.values(setting, setting).values():
        assert (value.gain, value.gain_interval) == (0.0, (0.0, 0.0))
    assert all(value.gain is None for value in found.values(setting).values())


def test_what_stays_at_the_top() -> None:
    found, setting = evaluation(), np.array([1.0, 0.0, 0.0])
    assert found.kept_at_top(setting, 2 * setting, 3) == 1.0
    assert found.kept_at_top(setting, np.array([0.0, 0.0, 1.0]), 3) == pytest.approx(3 / 15, abs=0.05)  # by chance
    assert found.kept_at_top(setting, np.array([0.0, 0.0, 1.0]), 100) == 1.0  # no list is as long


def test_one_exponent_at_a_time() -> None:
    found, setting = evaluation(), np.array([1.0, 0.0, 0.3])
    over = found.sensitivity(setting, 2, np.array([0.0, 0.3, 3.0]))[GAUC]
    assert over[0] > over[1] > over[2]
    assert over[1] == pytest.approx(found(setting[None])[GAUC][0], abs=1e-12)
