from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.stats import dense
from data_prep.stats.dense import ColumnCounts, describe, value_counts
from data_prep.stats.extents import Range
from data_prep.stats.together import Parts


def pairs_of(
    duck: DuckEngine, path: Path, values: list[float | None], *, exact: bool
) -> tuple[ColumnCounts, int | None]:
    pq.write_table(pa.table({"x": pa.array(values, pa.float32())}), path / "x.parquet")
    ((_, pairs, bits),) = value_counts(Parts(duck, {"train": [path / "x.parquet"]}), ["x"], len(values), exact=exact)
    return pairs["train"], bits


def to_bits(value: float, bits: int) -> float:
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.rint(mantissa * 2.0**bits), int(exponent) - bits))


@pytest.mark.parametrize(("most", "bits"), [(1, 8), (500, 13), (2**17, 16)])
def test_rounding_stays_within_its_bound(
    duck: DuckEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, bits: int
) -> None:
    monkeypatch.setattr(dense, "MAX_VALUES", most)
    random = np.random.default_rng(1)
    x = (random.normal(size=4000) * 10.0 ** random.uniform(-37, 38, 4000)).astype(np.float32)
    far, least = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
    x[:4] = [far, -far, least, 0.0]
    found, taken = pairs_of(duck, tmp_path, x.tolist(), exact=False)
    assert taken == bits
    expected: dict[float, int] = {}
    for value in x.astype(np.float64):
        rounded = to_bits(to_bits(value, 16), bits)
        assert abs(rounded - value) <= (2.0**-bits + (bits < 16) * 2.0**-16) * abs(value)
        expected[rounded] = expected.get(rounded, 0) + 1
    assert dict(zip(found.values, found.counts, strict=True)) == expected


def test_zeros_of_both_signs_are_one_value_and_nulls_none(duck: DuckEngine, tmp_path: Path) -> None:
    found, _ = pairs_of(duck, tmp_path, [0.0, -0.0, None, 2.5, -1.0], exact=True)
    assert (found.values.tolist(), found.counts.tolist()) == ([-1.0, 0.0, 2.5], [1, 2, 1])
    assert str(found.values[1]) == "0.0"


@pytest.mark.parametrize("values", [[1.0, 1.5, 1.9], [None, None], [0.0]])
def test_few_values_keep_their_bits(duck: DuckEngine, tmp_path: Path, values: list[float | None]) -> None:
    found, bits = pairs_of(duck, tmp_path, values, exact=False)
    assert bits == 16
    assert sum(found.counts) == len([value for value in values if value is not None])


def test_bits_keep_the_values_few(duck: DuckEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "MAX_VALUES", 1000)
    found, bits = pairs_of(duck, tmp_path, [1 + i / 2**15 for i in range(2**15)], exact=False)
    assert bits == 10  # 2^9 values of one power of two
    assert len(found.values) == 2**9 + 1


def test_ends_are_exact_though_the_rest_is_rounded() -> None:
    found = describe(ColumnCounts(np.array([1.0, 2.0]), np.array([3, 1])), 5, Range(1.001, 1.999), 8)
    assert (found["nulls"], found["bits"]) == (1, 8)
    assert (found["min"], found["max"], found["quantiles"][0], found["quantiles"][-1]) == (1.001, 1.999, 1.001, 1.999)
    assert all(1.001 <= value <= 1.999 for value in found["quantiles"])
