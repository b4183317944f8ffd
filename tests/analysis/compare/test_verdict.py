"""Verdicts of planted gains."""

from __future__ import annotations

from typing import Any

import pytest

from ple_rec.analysis.compare.verdict import verdict

UP, DOWN, NOISE = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.02)
Interval = tuple[float, float] | None


def gain(seeds: Interval, rows: Interval) -> dict[str, Any]:
    return {"values": {}, "mean": 0.01, "sd": 0.01, "seed_interval": seeds, "row_interval": rows}


def results(**variants: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Of two binary tasks; a gain for each."""
    return {
        "baseline": "single",
        "seeds": [0, 1],
        "tasks": {"a": {"kind": "binary"}, "b": {"kind": "binary"}},
        "variants": {
            "single": {"model": "single_task", "tasks": {}},
            **{
                name: {"model": name, "tasks": {t: {"gain": g, "values": {}} for t, g in zip("ab", found, strict=True)}}
                for name, found in variants.items()
            },
        },
    }


@pytest.mark.parametrize(
    ("of_a", "of_b", "expected"),
    [
        (gain(UP, UP), gain(UP, None), "gains everywhere"),
        (gain(UP, None), gain(DOWN, DOWN), "seesaw"),
        (gain(NOISE, None), gain(DOWN, None), "negative transfer"),
        (gain(UP, UP), gain(UP, NOISE), "gains somewhere"),
        (gain(UP, NOISE), gain(NOISE, UP), "within the noise"),
        (gain(UP, DOWN), gain(NOISE, None), "within the noise"),
        (gain(None, None), None, "undecided"),
        (gain(None, UP), gain(None, UP), "gains everywhere"),
    ],
)
def test_each_case(of_a: dict[str, Any], of_b: dict[str, Any] | None, expected: str) -> None:
    found = verdict(results(ple=[of_a, of_b]))
    assert found["variants"]["ple"]["verdict"] == expected
    assert found["sentences"][0].startswith("ple ")


def test_pairs_are_compared_seed_by_seed() -> None:
    planted = results(ple=[gain(UP, UP), None], mmoe=[gain(UP, UP), None])
    planted["variants"]["ple"]["tasks"]["a"]["values"] = {"0": 0.8, "1": 0.9, "2": 0.85}
    planted["variants"]["mmoe"]["tasks"]["a"]["values"] = {"0": 0.7, "1": 0.81, "3": 0.1}
    (pair,) = verdict(planted)["pairs"]
    assert (pair["first"], pair["second"], pair["task"]) == ("ple", "mmoe", "a")
    assert pair["mean"] == pytest.approx(0.095)
    assert pair["seed_interval"] == pytest.approx((0.095 - 12.7062 * 0.005, 0.095 + 12.7062 * 0.005), abs=1e-5)
    assert "ple over mmoe on a: +0.09500 (+0.03147 to +0.15853 over seeds)." in verdict(planted)["sentences"]


def test_a_single_seed_is_said() -> None:
    planted = results(ple=[gain(None, UP), gain(None, UP)]) | {"seeds": [0]}
    assert any(sentence.startswith("One seed: ") for sentence in verdict(planted)["sentences"])
