"""x of requests, against a look-up feature by feature: tables of every precision, bags, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from ple_rec.config.choices import TablePrecision
from ple_rec.inference.feature_parsing import FeatureIds
from ple_rec.inference.lookups import RequestLookups
from ple_rec.inference.request import ModelRequest, RankRequest, ScoreRequest
from ple_rec.inference.signature import OWNERS, InputFeature, Owner, Signature
from ple_rec.inference.tables import StoredTable, write_table
from ple_rec.modules.grouped import GroupedInputs, SharedColumns
from ple_rec.modules.normalise import DenseNormaliser, DenseStatistics
from tests.inference.exported import PRECISIONS

Kind = Literal["rank", "score"]
ROWS, DIM = 50, 4
SPARSE: dict[str, Owner] = {"city": "user", "video": "item", "seen": "user", "tags": "item", "kind": "item"}
BAGS = {"seen": False, "tags": True}  # and whether they have weights
DENSE: dict[str, Owner] = {"age": "user", "plays": "item", "ctr": "item"}
INPUTS = [
    *(
        InputFeature(name=name, type="int", of=of, bag=name in BAGS, weighted=BAGS.get(name, False))
        for name, of in SPARSE.items()
    ),
    *(InputFeature(name=name, type="number", of=of, dense=True) for name, of in DENSE.items()),
]
NORMALISER = DenseNormaliser(
    [
        DenseStatistics("standard", 30, 10),
        DenseStatistics("log", 2, 3),
        DenseStatistics("quantile", quantiles=[0, 0.1, 0.1, 0.5, 1]),
    ]
)


def _tables(folder: Path, precision: TablePrecision) -> dict[str, StoredTable]:
    found = {}
    for name in SPARSE:
        with (folder / name).open("wb") as stream:
            write_table(stream, torch.randn(ROWS, DIM), precision)
        found[name] = StoredTable(folder / name, ROWS, DIM, precision)
    return found


def _request(rng: np.random.Generator, items: int, *, kind: Kind) -> ModelRequest:
    ids, dense = {}, {}
    for each in INPUTS:
        n = 1 if kind == "rank" and each.of == "user" else items
        if each.dense:
            dense[each.name] = np.where(rng.random(n) < 0.2, np.nan, rng.random(n)).astype(np.float32)
            continue
        offsets_N = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))]) if each.bag else None
        values_V = rng.integers(0, ROWS, n if offsets_N is None else offsets_N[-1]).astype(np.int32)
        weights_V = rng.random(len(values_V)).astype(np.float32) if each.weighted else None
        ids[each.name] = FeatureIds(values_V, offsets_N, weights_V)
    return (RankRequest if kind == "rank" else ScoreRequest)(rows=items, ids=ids, dense=dense)


def _of_bags(table: StoredTable, ids: FeatureIds, *, mean: bool) -> Tensor:
    assert ids.offsets_N is not None
    rows_VD = table.pool(torch.from_numpy(ids.values_V))
    weights_V = torch.ones(len(rows_VD)) if ids.weights_V is None else torch.from_numpy(ids.weights_V)
    found = []
    for begin, end in zip(ids.offsets_N[:-1], ids.offsets_N[1:], strict=True):
        own = weights_V[begin:end]
        summed = (rows_VD[begin:end] * own[:, None]).sum(0)
        found.append(summed / own.sum() if mean and own.sum() else summed)
    return torch.stack(found)


def _expected(tables: dict[str, StoredTable], requests: list[ModelRequest]) -> Tensor:
    """Look up feature by feature, each request's user for every item."""
    found = []
    for each in requests:
        parts = []
        for name in SPARSE:
            if name in BAGS:
                parts.append(_of_bags(tables[name], each.ids[name], mean=name == "tags"))
            else:
                parts.append(tables[name].pool(torch.from_numpy(each.ids[name].values_V)))
        for g, name in enumerate(DENSE):
            x_N = torch.from_numpy(each.dense[name])
            parts.append(NORMALISER(x_N[:, None].repeat(1, len(DENSE)))[:, g : g + 1])
        found.append(torch.cat([part.expand(each.rows, -1) for part in parts], dim=1))
    return torch.cat(found)


def _lookups(tables: dict[str, StoredTable], inputs: Sequence[InputFeature] = INPUTS) -> RequestLookups:
    features = [(each.of == "user", 1 if each.dense else DIM) for each in inputs]
    signature = Signature(inputs=tuple(inputs), tasks=())
    normaliser = NORMALISER if any(each.dense for each in inputs) else DenseNormaliser([])
    return RequestLookups(signature, tables, normaliser, {"tags"}, SharedColumns(features))


@pytest.mark.parametrize("kind", ["rank", "score"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_those_of_the_features(tmp_path: Path, precision: TablePrecision, kind: Kind) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tables = _tables(tmp_path, precision)
    for requests in ([_request(rng, 9, kind=kind)], [_request(rng, items, kind=kind) for items in (3, 1, 6)]):
        x_BD = _lookups(tables).inputs(requests)
        assert isinstance(x_BD, GroupedInputs) is (kind == "rank")
        found_BD = x_BD.ungroup() if isinstance(x_BD, GroupedInputs) else x_BD
        torch.testing.assert_close(found_BD, _expected(tables, requests), rtol=1e-5, atol=1e-6)


def test_a_request_of_one_item_saves_no_product(tmp_path: Path) -> None:
    x_BD = _lookups(_tables(tmp_path, "fp32")).inputs([_request(np.random.default_rng(0), 1, kind="rank")] * 3)
    assert isinstance(x_BD, Tensor)
    assert x_BD.shape == (3, DIM * len(SPARSE) + len(DENSE))


@pytest.mark.parametrize("owner", OWNERS)
def test_an_owner_may_have_no_features(tmp_path: Path, owner: Owner) -> None:
    inputs = [each for each in INPUTS if each.of != owner and not each.dense]
    requests = [_request(np.random.default_rng(0), 3, kind="rank")] * 2
    x_BD = _lookups(_tables(tmp_path, "fp32"), inputs).inputs(requests)
    assert isinstance(x_BD, GroupedInputs) is (owner == "item")
    whole_BD = x_BD.ungroup() if isinstance(x_BD, GroupedInputs) else x_BD
    assert whole_BD.shape == (6, DIM * len(inputs))


def test_columns_are_kept_as_runs_so_that_their_number_takes_no_memory() -> None:
    columns = SharedColumns([(True, 10**12), (True, 1), (False, 2)])
    assert columns.runs == ((True, 10**12 + 1), (False, 2))
    assert columns.width == 10**12 + 3
