"""The process of KDD 2018, section 3.2, against a transcription; its one number moves the correlation of the labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from data_prep.synthetic.mmoe import Mmoe
from ple_rec.errors import UserError


def blocks_of(design: Mmoe) -> list[pa.Table]:
    """Every row group."""
    return [table for tables in design.tables(design.parts()) for _, table in tables]


def test_the_paper() -> None:
    design = Mmoe()
    assert design.rows == 1_400_000
    assert design.split_rows() == {"train": 1_120_000, "valid": 140_000, "test": 140_000}
    assert len(design.schema_fields()["dense"]) == 512
    assert design.schema_fields()["dense"][511].name == "x511"


@pytest.mark.parametrize("p", [-0.5, 0.0, 0.8, 1.0])
def test_the_weights(p: float) -> None:
    u1, u2 = (np.array(u) for u in Mmoe(correlation=p).directions)
    w1, w2 = (np.array(w) for w in Mmoe(correlation=p).weights)
    assert [u1 @ u1, u2 @ u2, u1 @ u2] == pytest.approx([1, 1, 0], abs=1e-12)
    assert [w1 @ w1, w2 @ w2, w1 @ w2] == pytest.approx([1, 1, p], abs=1e-12)


def test_a_transcription() -> None:
    design = Mmoe(rows=4000, correlation=0.6, seed=2)
    table = design.table(3, 2000)
    x = np.stack([table[name].to_numpy().astype(float) for name in design.features], axis=1)
    assert x.shape == (2000, 512)
    assert x.mean() == pytest.approx(0, abs=0.004)
    assert x.var() == pytest.approx(1, abs=0.006)
    u1, u2 = (np.array(u) for u in design.directions)
    alpha, beta = design.waves
    assert len(alpha) == len(beta) == 10
    for k, w in ((1, u1), (2, 0.6 * u1 + np.sqrt(1 - 0.6**2) * u2)):
        z = x @ w
        clean = z + sum(np.sin(a * z + b) for a, b in zip(alpha, beta, strict=True))
        np.testing.assert_allclose(table[f"truth_task{k}"].to_numpy(), clean, atol=1e-5)
        noise = table[f"y{k}"].to_numpy() - clean
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.var() == pytest.approx(0.01, rel=0.12)


def test_the_correlation_of_the_labels_rises() -> None:
    found = []
    for p in (0.0, 0.25, 0.5, 0.75, 1.0):
        table = Mmoe(correlation=p, dim=32).table(0, 8192)
        found.append(float(np.corrcoef(table["y1"].to_numpy(), table["y2"].to_numpy())[0, 1]))
    assert found == sorted(found)
    assert found[0] == pytest.approx(0, abs=0.05)
    assert found[-1] > 0.95  # all but the noise


def test_at_the_ends_the_labels_are_the_same_or_unrelated() -> None:
    same = Mmoe(correlation=1, dim=8).table(0, 500)
    assert same["truth_task1"].equals(same["truth_task2"])
    assert not same["y1"].equals(same["y2"])
    w1, w2 = Mmoe(correlation=-1, dim=8).weights
    assert w2 == [-value for value in w1]
    apart = Mmoe(correlation=0, dim=8, seed=3).table(0, 8192)
    clean = [apart[f"truth_task{k}"].to_numpy() for k in (1, 2)]
    assert np.corrcoef(*clean)[0, 1] == pytest.approx(0, abs=0.04)


def test_the_variance_of_the_labels_is_that_of_the_equation() -> None:
    """w.x is a standard normal, whatever d and p are: one integral."""
    design = Mmoe(correlation=0.3, dim=16, seed=5)
    z, weight = np.polynomial.hermite_e.hermegauss(120)
    wave = z + sum(np.sin(a * z + b) for a, b in zip(*design.waves, strict=True))
    mean = weight @ wave / weight.sum()
    variance = weight @ (wave - mean) ** 2 / weight.sum() + 0.01
    table = design.table(0, 8192)
    for label in ("y1", "y2"):
        assert table[label].to_numpy().mean() == pytest.approx(mean, abs=0.1 * variance**0.5)
        assert table[label].to_numpy().var() == pytest.approx(variance, rel=0.1)


def test_only_the_second_label_knows_the_correlation() -> None:
    """Row by row in a whole dataset, in all splits, the inputs, the first label and both noises are the same."""
    one, other = (Mmoe(2000, p, seed=1, dim=4) for p in (0.0, 0.9))
    for a, b in zip(blocks_of(one), blocks_of(other), strict=True):
        for name in ("x000", "x001", "x002", "x003", "y1", "truth_task1"):
            assert a[name].equals(b[name])
        noise = [each["y2"].to_numpy() - each["truth_task2"].to_numpy() for each in (a, b)]
        np.testing.assert_allclose(noise[0], noise[1], atol=2e-6)


def test_blocks_are_functions_of_seed_and_number() -> None:
    one, other = Mmoe(correlation=0.2, dim=8), Mmoe(correlation=0.7, dim=8)
    assert one.table(5, 100).equals(Mmoe(correlation=0.2, dim=8).table(5, 100))
    assert one.table(5, 100)["x003"].equals(other.table(5, 100)["x003"])
    assert one.table(5, 100)["y1"].equals(other.table(5, 100)["y1"])
    assert not one.table(5, 100)["y2"].equals(other.table(5, 100)["y2"])
    assert not one.table(5, 100)["x003"].equals(one.table(6, 100)["x003"])
    assert not one.table(5, 100)["x003"].equals(Mmoe(correlation=0.2, seed=1, dim=8).table(5, 100)["x003"])


def test_parts_cover_every_split() -> None:
    design = Mmoe(rows=10_007, dim=4)
    rows = {"train": 0, "valid": 0, "test": 0}
    numbers = []
    parts = design.parts()
    for part, tables in zip(parts, design.tables(parts), strict=True):
        numbers += [number for number, _ in part.blocks]
        for split, table in tables:
            rows[split] += len(table)
            assert table.schema == pa.schema([(f"x00{i}", pa.float32()) for i in range(4)]).append(
                pa.field("y1", pa.float32())
            ).append(pa.field("y2", pa.float32())).append(pa.field("truth_task1", pa.float32())).append(
                pa.field("truth_task2", pa.float32())
            )
    assert rows == design.split_rows() == {"train": 8007, "valid": 1000, "test": 1000}
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rows": 999},
            "rows: got 999; valid and test have a tenth of the rows each, and need at least 100. "
            "Fix: set 1000 or more; the paper has 1400000",
        ),
        (
            {"dim": 1},
            "dim: got 1; two orthogonal weights need at least 2 inputs. Fix: set 2 or more; the paper has 512",
        ),
        (
            {"correlation": 1.5},
            "correlation: got 1.5; it is a cosine of two weights. Fix: set a number in [-1, 1]",
        ),
        (
            {"correlation": float("nan")},
            "correlation: got nan; it is a cosine of two weights. Fix: set a number in [-1, 1]",
        ),
    ],
)
def test_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Mmoe(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message
