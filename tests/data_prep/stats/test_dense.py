from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.stats.dense import Pairs, describe, significant_bits, value_pairs
from data_prep.stats.extents import Extent, Range


def pairs_of(duck: DuckEngine, path: Path, values: list[float | None], bits: int | None) -> Pairs:
    pq.write_table(pa.table({"x": pa.array(values, pa.float32())}), path / "x.parquet")
    return value_pairs(duck, {"train": duck.read([path / "x.parquet"])}, "x", bits)["train"]


@pytest.mark.parametrize("bits", [8, 13, 16])
def test_rounding_stays_within_its_bound(duck: DuckEngine, tmp_path: Path, bits: int) -> None:
    random = np.random.default_rng(1)
    x = (random.normal(size=4000) * 10.0 ** random.uniform(-37, 38, 4000)).astype(np.float32)
    most, least = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
    x[:4] = [most, -most, least, 0.0]
    found = pairs_of(duck, tmp_path, x.tolist(), bits)
    expected: dict[float, int] = {}
    for value in x.astype(np.float64):
        mantissa, exponent = np.frexp(value)
        rounded = float(np.ldexp(np.rint(mantissa * 2.0**bits), int(exponent) - bits))
        assert abs(rounded - value) <= 2.0**-bits * abs(value)
        expected[rounded] = expected.get(rounded, 0) + 1
    assert dict(zip(found.values, found.counts, strict=True)) == expected


def test_zeros_of_both_signs_are_one_value_and_nulls_none(duck: DuckEngine, tmp_path: Path) -> None:
    found = pairs_of(duck, tmp_path, [0.0, -0.0, None, 2.5, -1.0], None)
    assert (found.values, found.counts) == ([-1.0, 0.0, 2.5], [1, 2, 1])
    assert str(found.values[1]) == "0.0"


def extents(*ranges: Range, rows: int) -> dict[str, Extent]:
    return {str(i): Extent(rows, {"x": each}, {}, {}) for i, each in enumerate(ranges)}


@pytest.mark.parametrize(
    ("between", "bits"),
    [
        (Range(1.0, 1.9, 1.0), 16),  # one power of two: 2^15 values
        (Range(0.0, 300_000.0, 1.0), 13),  # 19 powers of two
        (Range(-3.0e38, 3.0e38, 1e-45), 8),  # all 278 that there are, of two signs
        (Range(0.0, 0.0, None), 16),
        (Range(None, None, None), 16),
    ],
)
def test_bits_keep_the_values_few(between: Range, bits: int) -> None:
    assert significant_bits("x", extents(between, rows=2**20 + 1), 2**20) == bits  # type: ignore[arg-type]
    assert significant_bits("x", extents(between, rows=2**20), 2**20) is None  # type: ignore[arg-type]


def test_ends_are_exact_though_the_rest_is_rounded() -> None:
    found = describe(Pairs([1.0, 2.0], [3, 1]), 5, Range(1.001, 1.999, 1.001), 8)
    assert (found["nulls"], found["bits"]) == (1, 8)
    assert (found["min"], found["max"], found["quantiles"][0], found["quantiles"][-1]) == (1.001, 1.999, 1.001, 1.999)
    assert all(1.001 <= value <= 1.999 for value in found["quantiles"])
