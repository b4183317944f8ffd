"""Random bits of an index, permutations without a table, and laws in arithmetic that is the same everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.synthetic.hashing import Bijection, random_bits, stream_key, uniform16, uniform32, uniform64
from data_prep.synthetic.laws import PowerLaw, algebraic_sigmoid, approximate_exp, round_mantissa

MASK = (1 << 64) - 1


def splitmix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_bits_are_splitmix64_at_a_counter() -> None:
    key = stream_key("a", 1)
    index = np.array([0, 1, 2, 10**9, 2**62])
    expected = [splitmix64((int(i) * 0x9E3779B97F4A7C15 + key) & MASK) for i in index]
    assert random_bits(key, index).tolist() == expected
    assert random_bits(key, index[3:4]).tolist() == expected[3:4]  # alone as among others
    assert index.tolist() == [0, 1, 2, 10**9, 2**62]


def test_keys_differ_by_every_word() -> None:
    assert (
        len({stream_key("a", 1), stream_key("a", 2), stream_key("b", 1), stream_key("a1"), stream_key("a", 1, "")}) == 5
    )
    assert stream_key("tencent", 0, "order") == 12724269535822842342


def test_uniforms_are_uniform_and_independent() -> None:
    words = random_bits(stream_key("u"), np.arange(200_000))
    first, second = uniform32(words)
    samples: list[NDArray[Any]] = [uniform64(words), first, second, *(uniform16(words, lane) for lane in range(4))]
    for sample in samples:
        assert 0 <= sample.min() < 1e-4
        assert 1 - 1e-4 < sample.max() < 1
        counts = np.histogram(sample, 64, (0, 1))[0]
        assert ((counts - 3125) ** 2 / 3125).sum() < 120  # chi-square of 63 degrees of freedom: 3e-5
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000, 1024, 1025, 12_345])
def test_a_bijection_permutes_and_turns_back(size: int) -> None:
    order = Bijection(size, stream_key("order", size))
    x = np.arange(size)
    there = order.forward(x)
    assert sorted(there.tolist()) == x.tolist()
    assert (order.inverse(there) == x).all()


def test_a_bijection_mixes() -> None:
    size = 1_000_000
    there = Bijection(size, 7).forward(np.arange(100_000))
    assert abs(np.corrcoef(there[:-1], there[1:])[0, 1]) < 0.01
    gaps = np.diff(np.sort(there))  # of random places: geometric, with a deviation of sqrt(1 - 1/10) of the mean
    assert gaps.std() / gaps.mean() == pytest.approx(math.sqrt(0.9), rel=0.03)
    assert not (there == Bijection(size, 8).forward(np.arange(100_000))).all()


@pytest.mark.parametrize("steep", [False, True])
def test_a_power_law(steep: bool) -> None:
    law = PowerLaw(5000, 20.0, steep)
    ends = law.cdf(np.arange(5001.0))
    shares = np.diff(ends)
    assert ends[[0, -1]].tolist() == [0.0, 1.0]
    assert (shares > 0).all()
    assert (np.diff(shares) < 0).all()
    middle = (ends[1:] + ends[:-1]) / 2
    assert (law.inverse_cdf(middle) == np.arange(5000)).all()
    ranks = np.arange(200, 5000)
    slope = np.polyfit(np.log(ranks + 20.5), np.log(shares[ranks]), 1)[0]
    assert slope == pytest.approx(-9 / 8 if steep else -7 / 8, abs=1e-3)
    assert law.pdf(ranks) == pytest.approx(shares[ranks], rel=5e-3)


def test_links() -> None:
    z = np.linspace(-6, 6, 101, dtype=np.float32)
    assert algebraic_sigmoid(z) == pytest.approx(0.5 + z / (2 * np.sqrt(4 + z.astype(float) ** 2)), rel=1e-6)
    assert algebraic_sigmoid(np.zeros(1, np.float32))[0] == 0.5
    assert approximate_exp(z) == pytest.approx((1 + z.astype(float) / 8) ** 8, rel=1e-5)
    assert approximate_exp(np.array([-9.0], np.float32))[0] == 0
    assert z.tolist() == np.linspace(-6, 6, 101, dtype=np.float32).tolist()


def test_coarse_rounds_to_the_nearest() -> None:
    x = np.array([1.0, 1.06, 1.07, 3.3, 1000.4, 1e-5, 0.0], np.float32)
    rounded = round_mantissa(x, 3)
    assert rounded.tolist()[:5] == [1.0, 1.0, 1.125, 3.25, 1024.0]
    assert (abs(rounded - x) <= x / 16).all()
    assert rounded[-1] == 0
