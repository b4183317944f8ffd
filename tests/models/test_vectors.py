"""Vectors in the model: x written down literally, normalisers, requests, costs, and models that have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ple_rec.data.batch import Batch, Requests
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.grouped import GroupedInputs
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.modules.vectors import VectorInputs, VectorStatistics
from tests.models.samples import EVERY, dense_batch, every_variant
from tests.vectors import normalised

DIM = 5
MEAN, STD = (1.0, -2.0, 0.5, 3.0), (2.0, 0.5, 1.0, 0.0)
STATISTICS = (VectorStatistics("unit", 3), VectorStatistics("none", 2), VectorStatistics("standard", 4, MEAN, STD))
WIDTHS = (3, 2, 4)
MISSING = {0: (1, 2), 1: (2, 4), 2: (0, 2)}  # Rows without a vector, by feature.


def vectors_BW(rows: int = 6) -> Tensor:
    """Vectors of three features, with a vector of zeros for the first one in row 0."""
    x_BW = torch.randn(rows, sum(WIDTHS), generator=torch.Generator().manual_seed(1))
    x_BW[0, :3] = 0
    begin = 0
    for feature, width in enumerate(WIDTHS):
        x_BW[list(MISSING[feature]), begin : begin + width] = torch.nan
        begin += width
    return x_BW


def model(variant: str = "ple", shared: tuple[int, ...] = ()) -> MultiTaskModel:
    config = every_variant((6, 4), (3,))[variant].model_copy(update={"vector_dim": DIM})
    torch.manual_seed(3)
    dense = [DenseStatistics("none")] * 2
    return MultiTaskModel(config, ("a", "b"), None, dense, vectors=STATISTICS, request_vectors=shared)


def batch(rows: int = 6) -> Batch:
    dense_BF = torch.randn(rows, 2, generator=torch.Generator().manual_seed(2))
    return replace(dense_batch(dense_BF), vectors_BW=vectors_BW(rows))


def literal_x(of: MultiTaskModel, rows: Batch) -> NDArray[np.float64]:
    """Each row of x: the dense features, and for each vector feature P n(v) + b, number by number."""
    assert of.vectors is not None
    assert rows.vectors_BW is not None
    state = {name: value.double().numpy() for name, value in of.state_dict().items()}
    kinds = {"unit": (None, None), "none": (None, None), "standard": (MEAN, STD)}
    columns, begin = [rows.dense_BF.double().numpy()], 0
    for feature, (kind, (mean, std)) in enumerate(kinds.items()):
        vectors = rows.vectors_BW[:, begin : begin + WIDTHS[feature]].numpy()
        begin += WIDTHS[feature]
        n = normalised(vectors, kind, mean, std)
        weight, bias = (state[f"vectors.projections.{feature}.{name}"] for name in ("weight", "bias"))
        columns.append(np.array([[sum(weight[d] * v) + bias[d] for d in range(DIM)] for v in n]))
    return np.concatenate(columns, axis=1)


def test_x_is_dense_features_and_projected_vectors_side_by_side() -> None:
    found = model().inputs(batch()).detach()
    assert found.shape == (6, 2 + 3 * DIM)
    np.testing.assert_allclose(found.numpy(), literal_x(model(), batch()), rtol=2e-6, atol=1e-6)


def test_a_missing_vector_leaves_the_bias() -> None:
    m = model()
    assert m.vectors is not None
    x_BD = m.inputs(batch())
    for feature, rows in MISSING.items():
        begin = 2 + feature * DIM
        for row in rows:
            assert x_BD[row, begin : begin + DIM].equal(m.state_dict()[f"vectors.projections.{feature}.bias"])


@pytest.mark.parametrize("variant", EVERY)
def test_every_variant_reads_x_and_trains_the_projections(variant: str) -> None:
    m, rows = model(variant), batch()
    logits_BK, _ = m(rows)
    by_hand_BK, _ = m.logits(torch.from_numpy(literal_x(m, rows)).float())
    torch.testing.assert_close(logits_BK, by_hand_BK, rtol=1e-4, atol=1e-5)
    logits_BK.sum().backward()
    assert m.vectors is not None
    for projection in m.vectors.projections:
        assert projection.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("variant", EVERY)
def test_flops_and_parameters_count_the_projections(variant: str) -> None:
    m = model(variant)
    with FlopCounterMode(display=False) as counter:
        m(batch())
    assert counter.get_total_flops() == 6 * m.flops_per_sample()
    assert m.dense_parameters() == sum(p.numel() for p in m.parameters())


def test_projections_start_as_other_linear_layers_do() -> None:
    torch.manual_seed(7)
    inputs = VectorInputs([VectorStatistics("none", 400)], 300)
    weight = inputs.projections[0].weight
    assert isinstance(weight, Tensor)
    assert weight.abs().max() <= 1 / 20
    assert weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)


def test_shared_vectors_are_grouped_by_request() -> None:
    """Features 0 and 2 are those of the user, whose rows of a request are equal."""
    m = model(shared=(0, 2)).double()
    rows = batch(8)
    request_B = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    first_R = torch.tensor([0, 5])
    assert rows.vectors_BW is not None
    vectors = rows.vectors_BW.double()
    for columns in (slice(0, 3), slice(5, 9)):
        vectors[:, columns] = vectors[first_R][request_B][:, columns]
    whole = replace(rows, vectors_BW=vectors, dense_BF=rows.dense_BF.double())
    grouped = replace(whole, requests=Requests(request_B, first_R))
    x = m.grouped_inputs(grouped)
    assert isinstance(x, GroupedInputs)
    assert x.shared_RU.shape == (2, 2 * DIM)
    torch.testing.assert_close(m(grouped)[0], m(whole)[0], rtol=1e-10, atol=1e-12)


def test_a_model_without_vectors_has_the_same_keys_and_bits() -> None:
    config = every_variant((6, 4), (3,))["ple"]
    models = []
    for update in ({}, {"vector_dim": 7}):
        torch.manual_seed(3)
        models.append(MultiTaskModel(config.model_copy(update=update), ("a", "b"), None, [DenseStatistics("none")] * 2))
    states = [m.state_dict() for m in models]
    assert not [name for name in states[0] if "vector" in name]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {name.partition(".")[0] for name in states[0]} == {"normalise", "extraction", "towers"}
