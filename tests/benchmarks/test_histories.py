"""benchmarks/histories.py: what a model reads, and what its intervals say."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.histories import MODELS, STUDIES, Scores, closed_lines, gain_lines, overrides_of, verdict
from data_prep.run import read_recipe
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_reads_its_features_alone(name: str, model: str) -> None:
    study = STUDIES[name]
    prep, _, _ = read_recipe(study.prep)
    kind, reads_rates = MODELS[model]
    rates = {name for rate in prep.rates for name in rate.columns}
    args = argparse.Namespace(data=None, set=[])
    for setting in study.settings:
        config = load_config(RunConfig, study.train, overrides_of(study, args, model, setting))
        dropped = {*config.data.drop}
        assert config.model.history == kind
        assert (study.history in dropped) == (kind is None)
        assert dropped & rates == (set() if reads_rates else rates)
        assert config.evaluation.test is False
        assert Path(config.data.path) == Path(study.data)
    assert [history.name for history in prep.histories] == [study.history]


@pytest.mark.parametrize(
    ("intervals", "text"),
    [
        ([(0.1, 0.2), (0.3, 0.4)], "better"),
        ([(0.1, 0.2), (-0.1, 0.4)], "noise"),
        ([(-0.2, -0.1), (-0.4, -0.3)], "worse"),
        ([(0.1, 0.2), (-0.4, -0.3)], "noise"),
        ([(0.1, 0.2), None], "not judged"),
    ],
)
def test_a_gain_is_better_only_if_no_interval_holds_zero(
    intervals: list[tuple[float, float] | None], text: str
) -> None:
    assert verdict(intervals) == text


def _scores(auc: float) -> Scores:
    """Metrics of three seeds that differ a little, and resamples that differ less than a gain of 0.1."""
    noise = np.random.default_rng(0).normal(0, 0.001, (3, 2))
    return noise + np.array([auc, 1 - auc]), noise[:, :, None] + np.array([auc, 1 - auc])[:, None] + np.zeros(200)


def test_gains_are_differences_of_the_same_seed_and_a_lower_loss_is_a_gain() -> None:
    drift = STUDIES["drift"]
    lines = gain_lines(drift, {"without": _scores(0.6), "rates": _scores(0.7)}, [50, 50])
    assert [" ".join(line.split()) for line in lines[1:]] == [
        f"click {metric} rates - without +0.1000 +0.1000 to +0.1000 +0.1000 to +0.1000 better"
        for metric in ("auc", "ne")
    ]


def test_the_gap_goes_from_the_model_without_both_to_the_best_that_is_reachable() -> None:
    reachable = {"p_history": {"auc": 0.8}}
    values = {"without": _scores(0.6), "din": _scores(0.75)}
    lines = closed_lines(reachable, values)
    assert lines[1:] == [
        f"{model}: {share} of the gap from `without` to p_history"
        for model, share in (("without", "0%"), ("din", "75%"))
    ]
