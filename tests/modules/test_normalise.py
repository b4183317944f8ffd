"""Each normaliser against its formula in numpy and scipy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.stats import norm  # type: ignore[import-untyped]

from data_prep.stats import dense_stats
from ple_rec.modules.normalise import DenseNormaliser, DenseStatistics

NAN = float("nan")
X = np.array([-7.5, -1.0, 0.0, 0.25, 3.0, 1234.5], dtype=np.float32)


def _one(statistics: DenseStatistics, values: np.ndarray | list[float]) -> np.ndarray:
    column = torch.tensor(np.asarray(values, dtype=np.float32)).unsqueeze(1)
    out: np.ndarray = DenseNormaliser([statistics])(column).squeeze(1).numpy()
    return out


def test_none_standard_and_log() -> None:
    np.testing.assert_array_equal(_one(DenseStatistics("none", 5.0, 9.0), X), X)
    np.testing.assert_allclose(_one(DenseStatistics("standard", 2.0, 4.0), X), (X - 2.0) / 4.0, rtol=1e-6)
    expected = (np.sign(X) * np.log(1 + np.abs(X.astype(np.float64))) - 0.5) / 2.5
    np.testing.assert_allclose(_one(DenseStatistics("log", 0.5, 2.5), X), expected, rtol=1e-6)


def test_quantile_is_the_gaussian_of_the_empirical_cdf() -> None:
    quantiles = [-4.0, -1.0, 0.5, 2.0, 10.0, 11.0]
    x = np.array([-9.0, -4.0, -3.9, -1.0, 0.0, 0.5, 5.0, 10.0, 10.7, 11.0, 99.0], dtype=np.float32)
    u = np.interp(x, quantiles, np.linspace(0, 1, 6)).clip(1e-3, 1 - 1e-3)
    np.testing.assert_allclose(_one(DenseStatistics("quantile", quantiles=quantiles), x), norm.ppf(u), rtol=2e-5)


def test_a_value_of_several_quantiles_stands_at_the_middle_of_their_span() -> None:
    quantiles = [0.0, 0.0, 0.0, 1.0, 5.0, 5.0, 7.0, 9.0, 9.0, 9.0, 9.0]
    levels = {
        -1.0: 0.1,
        0.0: 0.1,
        0.5: 0.2,
        1.0: 0.3,
        5.0: 0.45,
        6.0: 0.525,
        7.0: 0.6,
        8.0: 0.725,
        9.0: 0.85,
        20.0: 0.85,
    }
    values = _one(DenseStatistics("quantile", quantiles=quantiles), list(levels))
    np.testing.assert_allclose(values, norm.ppf(list(levels.values())), rtol=1e-5, atol=1e-6)


def test_quantiles_that_differ_in_fp64_only_are_a_tie() -> None:
    step = 1e-9
    values = _one(DenseStatistics("quantile", quantiles=[0.0, 1.0, 1.0 + step, 1.0 + 2 * step, 2.0]), [0.5, 1.0, 1.5])
    np.testing.assert_allclose(values, norm.ppf([0.25, 0.5, 0.75]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "standard", "log", "quantile"])
def test_a_missing_value_becomes_zero(kind: str) -> None:
    values = _one(DenseStatistics(kind, 3.0, 2.0, quantiles=[1.0, 2.0, 5.0]), [NAN, 1.5, NAN])
    assert values[0] == values[2] == 0
    assert values[1] != 0


@pytest.mark.parametrize("value", [0.0, 7.0, -3e30])
@pytest.mark.parametrize("kind", ["standard", "log", "quantile"])
def test_a_constant_feature_becomes_zero(kind: str, value: float) -> None:
    values = _one(DenseStatistics(kind, value, 0.0, quantiles=[value] * 5), [value, value + 1, NAN, value - 1])
    np.testing.assert_array_equal(values, np.zeros(4))


@pytest.mark.parametrize("kind", ["standard", "log"])
def test_the_rounding_of_equal_values_is_no_deviation(kind: str) -> None:
    stats = dense_stats([0.10000000149011612], [3], rows=3)
    log = "log_" if kind == "log" else ""
    mean, std = stats[f"{log}mean"], stats[f"{log}std"]
    assert std == 0 or std < 1e-16
    rounded = DenseStatistics(kind, mean, std or 1e-17)
    np.testing.assert_array_equal(_one(rounded, [0.1, 0.1000001, 5.0]), np.zeros(3))


def _mixed(shift: float = 0.0) -> DenseNormaliser:
    quantiles = [0.0, 1.0 + shift, 2.0 + shift, 2.0 + shift * 2, 9.0]
    return DenseNormaliser(
        [
            DenseStatistics("quantile", quantiles=quantiles),
            DenseStatistics("log", 0.5 + shift, 2.0),
            DenseStatistics("none"),
            DenseStatistics("quantile", quantiles=[-1.0, 0.0, 3.0 + shift]),
            DenseStatistics("standard", shift, 1.0 + shift),
        ]
    )


def test_each_column_has_its_own_normaliser() -> None:
    x_BF = torch.randn(50, 5) * 4
    x_BF[::7] = NAN
    together_BF = _mixed()(x_BF)
    statistics = [
        DenseStatistics("quantile", quantiles=[0.0, 1.0, 2.0, 2.0, 9.0]),
        DenseStatistics("log", 0.5, 2.0),
        DenseStatistics("none"),
        DenseStatistics("quantile", quantiles=[-1.0, 0.0, 3.0]),
        DenseStatistics("standard", 0.0, 1.0),
    ]
    for f, one in enumerate(statistics):
        found, alone = together_BF[:, f].numpy(), _one(one, x_BF[:, f].numpy())
        # Fewer values fall elsewhere in the vector registers, whose ends torch computes by other instructions.
        np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-6)


def test_statistics_travel_in_the_state() -> None:
    """Also where ties differ, so that a checkpoint loads beside a dataset of other statistics."""
    first, second = _mixed(), _mixed(shift=0.25)
    x_BF = torch.randn(20, 5) * 4
    assert not torch.equal(first(x_BF), second(x_BF))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x_BF), second(x_BF))
    assert list(first.parameters()) == []


def test_a_module_in_fp64_takes_fp32_features() -> None:
    x_BF = torch.randn(20, 5)
    values_BF = _mixed().double()(x_BF)
    assert values_BF.dtype == torch.float64
    assert torch.equal(values_BF, _mixed().double()(x_BF.double()))
    torch.testing.assert_close(values_BF.float(), _mixed()(x_BF))


def test_no_feature_at_all() -> None:
    assert DenseNormaliser([])(torch.zeros(3, 0)).shape == (3, 0)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (DenseStatistics("minmax"), "normaliser 'minmax'; known: none, standard, log, quantile"),
        (DenseStatistics("quantile"), "a quantile normaliser needs at least 2 quantiles, got 0"),
        (DenseStatistics("quantile", quantiles=[1.0]), "a quantile normaliser needs at least 2 quantiles, got 1"),
        (DenseStatistics("quantile", quantiles=[1.0, 3.0, 2.0]), "quantiles must ascend, got 1.0, 3.0, 2.0"),
        (DenseStatistics("quantile", quantiles=[1.0, NAN]), "quantiles must ascend, got 1.0, nan"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(statistics: DenseStatistics, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DenseNormaliser([DenseStatistics("none"), statistics])
