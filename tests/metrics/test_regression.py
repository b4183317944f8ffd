"""Regression metrics against scikit-learn, and their calibration curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error
from torch import Tensor

from ple_rec.errors import DivergedError
from tests.metrics.one_task import OneTask


def _fed(predictions: Tensor, labels: Tensor, weight: Tensor | None = None) -> OneTask:
    metrics = OneTask("regression")
    for rows in torch.arange(len(predictions)).split(100):
        metrics.update(predictions[rows], labels[rows], None if weight is None else weight[rows], torch.ones(len(rows)))
    return metrics


def _draw(rows: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(rows, generator=generator) * 30 + 5
    return predictions, predictions + torch.randn(rows, generator=generator), torch.rand(rows, generator=generator)


@pytest.mark.parametrize("weighted", [False, True])
def test_all_values_equal_scikit_learn(weighted: bool) -> None:
    predictions, labels, weight = _draw()
    result = _fed(predictions, labels, weight if weighted else None).compute()
    p, y = predictions.double().numpy(), labels.double().numpy()
    w = weight.double().numpy() if weighted else np.ones(1000)
    mse = mean_squared_error(y, p, sample_weight=w)
    assert result == {
        "samples": 1000,
        "mse": pytest.approx(mse, rel=1e-12),
        "rmse": pytest.approx(mse**0.5, rel=1e-12),
        "mae": pytest.approx(mean_absolute_error(y, p, sample_weight=w), rel=1e-12),
        "calibration": pytest.approx(np.average(p, weights=w) / np.average(y, weights=w), rel=1e-12),
        "mean_label": pytest.approx(np.average(y, weights=w), rel=1e-12),
        "mean_prediction": pytest.approx(np.average(p, weights=w), rel=1e-12),
    }


def test_undefined_values_are_none() -> None:
    assert set(_fed(torch.zeros(0), torch.zeros(0)).compute().values()) == {0, None}
    result = _fed(torch.tensor([1.0, 3.0]), torch.tensor([1.0, -1.0])).compute()
    assert (result["mse"], result["mean_label"], result["calibration"]) == (8.0, 0.0, None)


def test_rows_outside_the_space_count_nothing_and_nan_inside_is_an_error() -> None:
    metrics = OneTask("regression")
    predictions, labels = torch.tensor([1.0, torch.nan, 4.0]), torch.tensor([2.0, torch.inf, torch.nan])
    metrics.update(predictions, labels, None, torch.tensor([True, False, False]))
    assert metrics.compute()["mse"] == 1.0
    assert metrics.curves() == {"calibration": [{"predicted": 1.0, "observed": 2.0, "weight": 1.0}]}
    metrics.update(predictions, labels, None, torch.tensor([True, True, False]))
    with pytest.raises(DivergedError, match="metrics of task: 1 of 3 rows of its sample space hold"):
        metrics.compute()


def test_calibration_bins_are_means_over_about_equal_weights_of_any_size_and_sign() -> None:
    generator = torch.Generator().manual_seed(4)
    size = torch.randn(10_000, generator=generator) * 20  # from e-80 to e80: no range could have been guessed
    predictions = size.double().exp().float() * (torch.rand(10_000, generator=generator) - 0.5).sign()
    labels = predictions * 0.5
    bins = _fed(predictions, labels).curves()["calibration"]
    assert len(bins) == 20
    order = predictions.double().sort().values
    for k, bin in enumerate(bins):
        assert bin["weight"] == pytest.approx(500, rel=0.1)
        assert bin["observed"] == pytest.approx(bin["predicted"] / 2, rel=1e-6)
        assert order[max(0, 500 * k - 60)] <= bin["predicted"] <= order[min(9999, 500 * k + 559)]


def test_merging_states_equals_feeding_everything() -> None:
    predictions, labels, weight = _draw(400)
    whole = _fed(predictions, labels, weight)
    first, second = (
        _fed(predictions[:200], labels[:200], weight[:200]),
        _fed(predictions[200:], labels[200:], weight[200:]),
    )
    resumed = OneTask("regression").merged(first)
    assert resumed.compute() == first.compute()
    assert resumed.curves() == first.curves()
    assert resumed.merged(second).compute() == {
        key: pytest.approx(value, rel=1e-12) for key, value in whole.compute().items()
    }
    assert [bin["weight"] for bin in resumed.curves()["calibration"]] == pytest.approx(
        [bin["weight"] for bin in whole.curves()["calibration"]], rel=1e-12
    )
