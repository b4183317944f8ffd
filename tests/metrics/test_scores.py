"""AUC of groups against the definition, pair by pair."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.metrics import scores


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-4, 4)), max_size=25))
def test_auc_of_tie_groups_is_the_share_of_ordered_pairs(rows: list[tuple[int, int]]) -> None:
    """Integer weights make both sides exact; a negative weight marks a negative, 0 a row that does not count."""
    positives = [(score, weight) for score, weight in rows if weight > 0]
    negatives = [(score, -weight) for score, weight in rows if weight < 0]
    pairs = sum(w for _, w in positives) * sum(w for _, w in negatives)
    ordered = sum(w * v * ((s > t) + (s == t) / 2) for s, w in positives for t, v in negatives)
    score_N = torch.tensor([score for score, _ in rows], dtype=torch.float32)
    weight_N = torch.tensor([weight for _, weight in rows], dtype=torch.float32)
    area = scores.auc(*scores.tie_groups(score_N, weight_N))
    assert (area and area[0]) == (ordered / pairs if pairs else None)


def test_roc_of_a_perfect_and_of_a_constant_score() -> None:
    perfect = scores.roc_points(torch.tensor([0.0, 3.0]).double(), torch.tensor([2.0, 0.0]).double())
    assert perfect == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    constant = scores.roc_points(torch.tensor([3.0]).double(), torch.tensor([2.0]).double())
    assert constant == [[0.0, 0.0], [1.0, 1.0]]


def test_calibration_bins_take_equal_weights_where_groups_allow_it() -> None:
    groups = torch.arange(40.0).double()
    bins = scores.calibration_bins(torch.ones(40).double(), groups, groups / 2)
    assert bins == [{"predicted": 2 * k + 0.5, "observed": k + 0.25, "weight": 2.0} for k in range(20)]
