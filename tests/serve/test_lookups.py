"""x of requests, against a look-up feature by feature: tables of every precision, bags, numbers; any rows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from ple_rec.modules.normalise import DenseNormaliser, DenseStatistics
from ple_rec.serve.asked import Asked
from ple_rec.serve.lookups import Lookups
from ple_rec.serve.signature import OWNERS, Input, Owner, Signature
from ple_rec.serve.tables import PRECISIONS, StoredTable, TablePrecision, write_table
from ple_rec.serve.values import Ids

Kind = Literal["rank", "score"]
ROWS, DIM = 50, 4
SPARSE: dict[str, Owner] = {"city": "user", "video": "item", "seen": "user", "tags": "item", "kind": "item"}
BAGS = {"seen": False, "tags": True}  # and whether they have weights
DENSE: dict[str, Owner] = {"age": "user", "plays": "item", "ctr": "item"}
INPUTS = [
    *(
        Input(name=name, type="int", of=of, bag=name in BAGS, weighted=BAGS.get(name, False))
        for name, of in SPARSE.items()
    ),
    *(Input(name=name, type="number", of=of, dense=True) for name, of in DENSE.items()),
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


def _asked(rng: np.random.Generator, items: int, *, kind: Kind) -> Asked:
    ids, dense = {}, {}
    for each in INPUTS:
        n = 1 if kind == "rank" and each.of == "user" else items
        if each.dense:
            dense[each.name] = np.where(rng.random(n) < 0.2, np.nan, rng.random(n)).astype(np.float32)
            continue
        offsets_N = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))]) if each.bag else None
        values_V = rng.integers(0, ROWS, n if offsets_N is None else offsets_N[-1]).astype(np.int32)
        weights_V = rng.random(len(values_V)).astype(np.float32) if each.weighted else None
        ids[each.name] = Ids(values_V, offsets_N, weights_V)
    return Asked(kind, items, ids, dense, {}, None, False)


def _of_bags(table: StoredTable, ids: Ids, *, mean: bool) -> Tensor:
    assert ids.offsets_N is not None
    rows_VD = table.pooled(torch.from_numpy(ids.values_V))
    weights_V = torch.ones(len(rows_VD)) if ids.weights_V is None else torch.from_numpy(ids.weights_V)
    found = []
    for begin, end in zip(ids.offsets_N[:-1], ids.offsets_N[1:], strict=True):
        own = weights_V[begin:end]
        summed = (rows_VD[begin:end] * own[:, None]).sum(0)
        found.append(summed / own.sum() if mean and own.sum() else summed)
    return torch.stack(found)


def _expected(owner: Owner, tables: dict[str, StoredTable], asked: list[Asked]) -> Tensor:
    parts = []
    for name in (name for name, of in SPARSE.items() if of == owner):
        if name in BAGS:
            own = [_of_bags(tables[name], each.ids[name], mean=name == "tags") for each in asked]
        else:
            own = [tables[name].pooled(torch.from_numpy(each.ids[name].values_V)) for each in asked]
        parts.append(torch.cat(own))
    for g, name in enumerate(DENSE):
        if DENSE[name] == owner:
            x_N = torch.cat([torch.from_numpy(each.dense[name]) for each in asked])
            parts.append(NORMALISER(x_N[:, None].repeat(1, len(DENSE)))[:, g : g + 1])
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("kind", ["rank", "score"])
@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_rows_are_those_of_the_features(
    tmp_path: Path, precision: TablePrecision, owner: Owner, kind: Kind
) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tables = _tables(tmp_path, precision)
    lookups = Lookups(owner, Signature(inputs=tuple(INPUTS), tasks=()), tables, NORMALISER, {"tags"})
    for asked in ([_asked(rng, 9, kind=kind)], [_asked(rng, items, kind=kind) for items in (3, 1, 6)]):
        found, expected = lookups.found(asked), _expected(owner, tables, asked)
        assert found.rows == len(expected)
        torch.testing.assert_close(lookups.columns(found), expected, rtol=1e-5, atol=1e-6)
        for rows in (slice(0, 1), slice(1, 3), slice(found.rows - 1, found.rows)):
            torch.testing.assert_close(lookups.columns(found, rows), expected[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("owner", OWNERS)
def test_what_it_was_given_is_given_back(tmp_path: Path, owner: Owner) -> None:
    lookups = Lookups(owner, Signature(inputs=tuple(INPUTS), tasks=()), _tables(tmp_path, "fp32"), NORMALISER, ())
    found = lookups.found([_asked(np.random.default_rng(0), 3, kind="rank")])
    _, ids_FN, pooled, numbers_NG = lookups._columns(*found, 0, 1)
    assert (ids_FN is found.ids_FN, pooled[0] is found.pooled[0], numbers_NG is found.numbers_NG) == (True,) * 3


def test_an_owner_may_have_no_features(tmp_path: Path) -> None:
    signature = Signature(inputs=tuple(each for each in INPUTS if each.of == "item"), tasks=())
    lookups = Lookups("user", signature, _tables(tmp_path, "fp32"), NORMALISER, ())
    found = lookups.found([_asked(np.random.default_rng(0), 3, kind="rank")] * 2)
    assert lookups.columns(found).shape == (2, 0)
