"""Eq. 1 in logarithms: its value, what does not change an order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.load import dump_toml, fingerprint
from ple_rec.errors import UserError
from ple_rec.ranking.fusion import (
    FULL_FACTOR,
    LEAST_FACTOR,
    check_fusion,
    compute_factors,
    exponent_array,
    with_exponents,
)

KINDS: dict[str, TaskKind] = {"vtr": "binary", "vcr": "regression", "hide": "binary"}
LENGTHS = {
    "identity": ({"kind": "identity"}, lambda x: x),
    "log": ({"kind": "log", "unit": 10.0}, lambda x: np.log(1 + x / 10)),
    "sigmoid": ({"kind": "sigmoid", "center": 30.0, "width": 5.0}, lambda x: 1 / (1 + np.exp(-(x - 30) / 5))),
    "power": ({"kind": "power", "power": 0.5, "low": 5.0, "high": 60.0}, lambda x: np.sqrt(np.clip(x, 5, 60))),
    "quantiles": (
        {"kind": "quantiles", "edges": [10.0, 30.0], "values": [0.5, 1.0, 2.0]},
        lambda x: np.array([0.5, 1.0, 2.0])[(x >= 10).astype(int) + (x >= 30)],
    ),
}
Floats = NDArray[np.float64]


def fusion_of(**changes: Any) -> FusionConfig:
    raw = {"tasks": {"vtr": {"exponent": 1.0}, "vcr": {"exponent": 0.5}, "hide": {"exponent": -2.0}}} | changes
    return FusionConfig.model_validate(raw, strict=False)


def predictions(n: int = 50) -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    return {"vtr": rng.uniform(0.1, 0.9, n), "vcr": rng.uniform(0.05, 1.0, n), "hide": rng.uniform(0.001, 0.1, n)}


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_score_is_the_product_of_the_paper(kind: str) -> None:
    transform, f = LENGTHS[kind]
    length = {"feature": "seconds", "transform": transform, "exponent": 0.7, "missing": 12.0}
    fusion, found, seconds = fusion_of(length=length), predictions(), np.linspace(0.5, 90, 50)
    factors = compute_factors(fusion, KINDS, found, np.where(np.arange(50) == 7, np.nan, seconds))
    assert factors.names == ("vtr", "vcr", "hide", "length")
    seconds[7] = 12.0
    product = found["vtr"] * found["vcr"] ** 0.5 * found["hide"] ** -2.0 * f(seconds) ** 0.7
    assert np.exp(factors.scores(exponent_array(fusion)[None]))[0] == pytest.approx(product, rel=1e-9)
    assert set(factors.clipped.values()) == {0.0}


@given(st.floats(1e-3, 1.0), st.floats(-3, 3))
def test_to_scale_a_tasks_probabilities_changes_no_order(scale: float, exponent: float) -> None:
    fusion, found = fusion_of(tasks={"vtr": {"exponent": exponent}, "hide": {"exponent": -1.0}}), predictions()
    scaled = found | {"vtr": found["vtr"] * scale}
    before, after = (
        compute_factors(fusion, KINDS, p, None).scores(exponent_array(fusion)[None])[0] for p in (found, scaled)
    )
    assert after - before == pytest.approx(np.full(50, exponent * np.log(scale)), abs=1e-9)


def test_a_weighted_sum_would_not_have_that() -> None:
    found = predictions()
    orders = [np.argsort(scale * found["vtr"] + found["hide"]).tolist() for scale in (1.0, 0.01)]
    assert orders[0] != orders[1]


def test_what_is_out_of_bounds_is_brought_back_and_counted() -> None:
    fusion = fusion_of(tasks={"vcr": {"exponent": 1.0}})
    factors = compute_factors(fusion, KINDS, {"vcr": np.array([-0.2, 0.5, 1.3, 1.0])}, None)
    assert np.exp(factors.log_NK[:, 0]) == pytest.approx([LEAST_FACTOR, 0.5, 1.0, 1.0])
    assert factors.clipped == {"vcr": 0.75}
    linked = fusion_of(tasks={"vcr": {"exponent": 1.0, "link": "sigmoid"}})
    assert np.exp(compute_factors(linked, KINDS, {"vcr": np.array([0.0])}, None).log_NK) == pytest.approx(0.5)


SECONDS = np.random.default_rng(1).lognormal(3.0, 1.2, 1_000)  # mean 40, nearly all above 1


@pytest.mark.parametrize(
    ("link", "f"), [(None, lambda x: np.minimum(x, 1)), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)))]
)
def test_a_link_sees_a_regression_in_units_of_its_scale(link: str | None, f: Callable[[Floats], Floats]) -> None:
    task = {"exponent": 1.0, "link": link, "scale": 150.0}
    factors = compute_factors(fusion_of(tasks={"vcr": task}), KINDS, {"vcr": SECONDS}, None)
    assert np.exp(factors.log_NK[:, 0]) == pytest.approx(f(SECONDS / 150), rel=1e-12)
    assert factors.clipped["vcr"] == np.mean(f(SECONDS / 150) >= FULL_FACTOR) < 0.1


@pytest.mark.parametrize("link", [None, "clip", "sigmoid"])
def test_without_a_scale_the_bits_are_those_of_scale_1(link: str | None) -> None:
    def logs(**scale: float) -> bytes:
        fusion = fusion_of(tasks={"vcr": {"exponent": 1.0, "link": link, **scale}})
        return compute_factors(fusion, KINDS, {"vcr": SECONDS - 20}, None).log_NK.tobytes()

    assert logs() == logs(scale=1.0) != logs(scale=2.0)


def test_a_file_without_scales_stays_the_same_fusion() -> None:
    fusion = fusion_of()
    assert "scale" not in dump_toml(fusion)
    assert fingerprint(fusion) == "78ce8593c1bb8009"  # of a version that had no scales


@pytest.mark.parametrize("link", ["clip", "sigmoid"])
def test_a_factor_that_takes_one_value_in_most_rows_is_counted_whatever_its_link(link: str) -> None:
    fusion = fusion_of(tasks={"vcr": {"exponent": 1.0, "link": link}})
    assert compute_factors(fusion, KINDS, {"vcr": SECONDS}, None).clipped["vcr"] > 0.8
    low = compute_factors(fusion, KINDS, {"vcr": np.array([-20.0, -15.0, 0.5, 0.6])}, None)
    assert low.clipped["vcr"] == 0.5
    rare = compute_factors(fusion_of(tasks={"hide": {}}), KINDS, {"hide": np.geomspace(1e-5, 1e-3, 9)}, None)
    assert rare.clipped["hide"] == 0.0  # near 0, but logarithms of small p differ


def test_a_negative_exponent_prefers_less() -> None:
    factors = compute_factors(
        fusion_of(tasks={"hide": {"exponent": -1.0}}), KINDS, {"hide": np.array([0.1, 0.01])}, None
    )
    low, high = factors.scores(np.array([[-1.0]]))[0]
    assert high > low


def test_exponents_go_in_and_out() -> None:
    length = {"feature": "seconds", "transform": {"kind": "identity"}, "missing": 1.0}
    fusion = fusion_of(length=length)
    assert exponent_array(fusion).tolist() == [1.0, 0.5, -2.0, 1.0]
    assert exponent_array(with_exponents(fusion, np.array([0.1, 0.2, 0.3, 0.4]))).tolist() == [0.1, 0.2, 0.3, 0.4]
    assert with_exponents(fusion_of(), np.array([0.1, 0.2, 0.3])).length is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": {"like": {"exponent": 1.0}}},
            "tasks.like: no task of the model; it has vtr, vcr, hide",
        ),
        ({"tasks": {"vtr": {"exponent": 1.0, "link": "clip"}}}, "tasks.vtr.link: .* links are for regressions"),
        (
            {"tasks": {"vtr": {"exponent": 1.0, "scale": 600.0}}},
            "fusion.toml: tasks.vtr.scale: 600 on a binary task; .* scales are for regressions. Fix: leave it out",
        ),
        (
            {"tasks": {"vcr": {"exponent": 1.0, "calibration": {"kind": "negative_sampling", "kept": 0.1}}}},
            "tasks.vcr.calibration: negative_sampling on a regression",
        ),
        (
            {"length": {"feature": "size", "transform": {"kind": "identity"}, "missing": 1.0}},
            'length.feature: got "size"; the dense features of the dataset are seconds',
        ),
    ],
)
def test_a_fusion_that_the_model_cannot_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_fusion(fusion_of(**changes), KINDS, {"seconds": None}, "fusion.toml")


def test_a_task_of_the_name_of_the_length_is_refused_beside_one() -> None:
    tasks = {"length": {"exponent": 1.0}}
    length = {"feature": "seconds", "transform": {"kind": "log"}, "missing": 1.0}
    with pytest.raises(UserError, match=r'fusion.toml: fuses a task "length" and a length; the factor of the video'):
        check_fusion(fusion_of(tasks=tasks, length=length), {"length": "binary"}, {"seconds": None}, "fusion.toml")
    check_fusion(fusion_of(tasks=tasks), {"length": "binary"}, {}, "fusion.toml")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"kind": "power", "power": 1.0, "low": 3.0, "high": 2.0}, "low = 3.0 is not below high = 2.0"),
        ({"kind": "quantiles", "edges": [2.0, 1.0], "values": [1.0, 1.0, 1.0]}, "do not ascend"),
        ({"kind": "quantiles", "edges": [2.0], "values": [1.0, 1.0, 1.0]}, "3 values for 1 edges; give 2"),
    ],
)
def test_a_length_that_says_nothing_is_refused(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        fusion_of(length={"feature": "seconds", "transform": transform, "missing": 1.0})


@pytest.mark.parametrize("scale", [0.0, -600.0, float("inf")])
def test_a_scale_is_a_number_above_0(scale: float) -> None:
    with pytest.raises(ValidationError, match="scale"):
        fusion_of(tasks={"vcr": {"scale": scale}})


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    found = predictions() | {"vcr": np.full(50, np.nan)}
    with pytest.raises(UserError, match="prediction of vcr, row 0: nan; a score needs finite predictions"):
        compute_factors(fusion_of(), KINDS, found, None)
