"""value@K against worlds whose truth is known: what the log's policy favoured does not count, what was shown does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.synthetic.entities import Policy
from data_prep.synthetic.feed import Block, Feed
from data_prep.synthetic.outcomes import outcomes
from data_prep.synthetic.world import DAYS, World
from ple_rec.ranking.counterfactual import propensity_weights
from ple_rec.ranking.evaluation import Evaluation, MetricValue
from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.metrics import MetricName, build_metric

Floats = NDArray[np.float64]
K = 3
VALUE, MEAN = MetricName("vtr", "value", K), MetricName("vtr", "mean", K)
WORLDS = range(6)


class Known:
    """The last day of a world, and a policy that puts videos with a high probability of a click first."""

    def __init__(self, seed: int) -> None:
        self.world = World(200_000, seed)
        self.feed = Feed(self.world)
        self.random = np.random.default_rng(seed)
        self.log: Block = self.feed.day_of_users(range(self.world.rows), DAYS - 1)
        self.score_N = self._scores(self.log.outcomes.truth["truth_ctr"])
        self.label_N = self.log.outcomes.valid_view().astype(np.float64)
        self.lists = CandidateLists.from_groups(self.log.user)

    def estimated(self, propensity_N: Floats) -> MetricValue:
        """By the log alone."""
        lists = self.lists
        weight_N = propensity_weights(propensity_N[lists.row_N]).weight_N
        metric = build_metric(VALUE, lists, self.label_N[lists.row_N], weight_N)
        factors = Factors(("ctr",), self.score_N[:, None], {})
        return Evaluation(lists, factors, {VALUE: metric}).values(np.ones(1))[VALUE]

    def truth(self, draws: int = 4) -> float:
        """By the generator: each row's video gives way to one drawn evenly, shown if it comes before the Kth."""
        score_N = self.score_N[self.lists.row_N]
        bar_N = self._bar(score_N)
        brought = shown = 0.0
        for _ in range(draws):
            videos = self.feed.features.videos(self.random.integers(0, self.world.videos, len(self.label_N)))
            truth = outcomes(self.world, self.log.impression, self.log.users, videos, self.log.contexts).truth
            before_N = self._scores(truth["truth_ctr"])[self.lists.row_N] > bar_N
            brought += float(truth["truth_vtr"][self.lists.row_N][before_N].sum())
            shown += float(before_N.sum())
        return brought / shown

    def _bar(self, score_N: Floats) -> Floats:
        """The Kth best score among the others of a row's list."""
        lists = self.lists
        ordered_N = lists.order_rows(score_N[None]).row_WN[0]
        bar_N = np.full(len(score_N), -np.inf)
        for start, size in zip(lists.start_L.tolist(), lists.size_L.tolist(), strict=True):
            own = ordered_N[start : start + size]
            if size > K:
                bar_N[own[:K]], bar_N[own[K:]] = score_N[own[K]], score_N[own[K - 1]]
        return bar_N

    def _scores(self, ctr_N: NDArray[np.float32]) -> Floats:
        return ctr_N + 1e-3 * self.random.random(len(ctr_N))  # ties are broken by chance


@pytest.fixture(scope="module")
def worlds() -> list[Known]:
    return [Known(seed) for seed in WORLDS]


def test_values_are_the_truth_within_their_intervals_where_plain_means_are_not(worlds: list[Known]) -> None:
    errors, widths, held = [], [], 0
    for known in worlds:
        truth = known.truth()
        found = known.estimated(known.log.propensity.astype(np.float64))
        plain = known.estimated(np.ones(len(known.label_N)))
        held += found.interval[0] <= truth <= found.interval[1]
        assert plain.interval[0] > truth + 0.02  # the old policy shows what is liked
        errors.append(found.value - truth)
        widths.append(found.interval[1] - found.interval[0])
    assert held >= len(WORLDS) - 1  # of intervals that miss one time in twenty
    deviation = np.mean(widths) / (2 * 1.96)
    assert abs(np.mean(errors)) < 2 * deviation / np.sqrt(len(WORLDS))
    assert np.std(errors) < 2 * deviation


def test_lists_that_are_exposed_at_random_need_no_propensity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "EXPLORED", 1.0)
    errors, widths = [], []
    for seed in WORLDS:
        known = Known(seed)
        assert known.log.explored.all()
        found = known.estimated(np.ones(len(known.label_N)))
        assert found.effective_rows == found.weighted_rows
        errors.append(found.value - known.truth())
        widths.append(found.interval[1] - found.interval[0])
    deviation = np.mean(widths) / (2 * 1.96)
    assert abs(np.mean(errors)) < 2 * deviation / np.sqrt(len(WORLDS))
    assert np.std(errors) < 2 * deviation


def test_the_logged_propensities_undo_what_the_old_policy_favours(worlds: list[Known]) -> None:
    """The few rows that were exposed at random have the mean that the weights give all of them."""
    labels = np.concatenate([known.label_N[known.log.explored] for known in worlds])
    truths = np.concatenate([known.log.outcomes.truth["truth_vtr"][known.log.explored] for known in worlds])
    everything = np.concatenate([known.label_N for known in worlds])
    rest = np.concatenate([1 / known.log.propensity.astype(np.float64) for known in worlds])
    even = float(rest @ everything / rest.sum())
    assert truths.mean() == pytest.approx(even, abs=0.02)
    assert labels.mean() == pytest.approx(even, abs=3 * 0.5 / np.sqrt(len(labels)))
    for known in worlds:
        propensity_N = known.log.propensity[known.log.explored]
        assert np.unique(propensity_N).size == 1
        assert propensity_weights(propensity_N.astype(np.float64)).weight_N == pytest.approx(1.0)


def test_equal_propensities_give_the_plain_mean() -> None:
    random = np.random.default_rng(0)
    lists = CandidateLists.from_groups(np.repeat(np.arange(500), 8))
    label_N, scores_WN = random.random(4_000), random.normal(size=(5, 4_000))
    ordered = lists.order_rows(scores_WN)
    weights = propensity_weights(np.full(4_000, 0.003))
    found = build_metric(VALUE, lists, label_N, weights.weight_N)
    assert found.mean(ordered) == pytest.approx(build_metric(MEAN, lists, label_N).mean(ordered), abs=1e-12)
    assert found.weighted_rows == 500 * K
    effective_W = found.effective_rows(ordered)
    assert effective_W == pytest.approx(500 * K)


def test_clipped_weights() -> None:
    propensity_N = np.array([0.5, 0.5, 0.5, 0.02])  # weights 2, 2, 2, 50 of a mean of 14
    assert propensity_weights(propensity_N).weight_N == pytest.approx(np.array([2, 2, 2, 50]) / 14)
    clipped = propensity_weights(propensity_N, clip=2.0)
    assert clipped.weight_N == pytest.approx(np.array([2 / 14, 2 / 14, 2 / 14, 2.0]))
    assert clipped.clipped == 0.25
