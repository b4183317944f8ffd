"""Which metrics are better the higher is said in one place."""

from __future__ import annotations

import pytest

from ple_rec.training.better import HIGHER, LOWER, badness
from ple_rec.training.checks import SCORES
from ple_rec.training.validation import best_score


def test_every_score_has_a_direction() -> None:
    assert {name for names in SCORES.values() for name in names} == {*HIGHER, *LOWER}


@pytest.mark.parametrize("metric", [*HIGHER, *LOWER])
def test_the_best_checkpoint_and_a_comparison_agree(metric: str) -> None:
    found = [best_score(f"click.{metric}", {"click": {metric: value}}, 0.0) for value in (0.25, 0.75)]
    scores = [score for score in found if score is not None]
    bad = [badness(metric, value) for value in (0.25, 0.75)]
    assert bad == [-score for score in scores]
    assert (scores[1] > scores[0]) == (metric in ("auc", "gauc"))
