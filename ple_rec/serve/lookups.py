"""Columns of x of one owner's features: rows of tables and normalised numbers, side by side.

They are made by one operation of TorchScript, so that threads of the model do it for their own blocks without the
interpreter and its lock; what it was given is given back for the reason that `ple_rec.models.stages` has.

Shape suffixes: N rows, of users or of items; F sparse features of one value each; G dense features; W columns of x.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ple_rec.models.pooling import quotient
from ple_rec.modules.normalise import DenseNormaliser, normalised
from ple_rec.modules.script import scripted
from ple_rec.serve.asked import Asked
from ple_rec.serve.signature import Input, Owner, Signature
from ple_rec.serve.tables import StoredTable, rows_of
from ple_rec.serve.values import Ids


class Found(NamedTuple):
    """What requests say of one owner's features, one request after the other.

    Args:
        ids_FN: int32 rows of the tables of features of one value.
        pooled: (N, D) of each bag.
        numbers_NG: Raw.
    """

    ids_FN: Tensor
    pooled: list[Tensor]
    numbers_NG: Tensor

    @property
    def rows(self) -> int:
        """N."""
        return len(self.numbers_NG)


class Lookups:
    """Makes the columns.

    Args:
        owner: Of the features.
        signature: Of the model.
        tables: By sparse feature.
        normaliser: Of the dense features of both owners.
        mean_bags: Features of which x holds the mean of a bag's rows instead of their sum.
    """

    def __init__(
        self,
        owner: Owner,
        signature: Signature,
        tables: Mapping[str, StoredTable],
        normaliser: DenseNormaliser,
        mean_bags: Collection[str],
    ) -> None:
        self._owner, self._tables, self._mean_bags = owner, tables, mean_bags
        sparse = [each for each in signature.sparse if each.of == owner]
        self._single = [each.name for each in sparse if not each.bag]
        self._bags = [each for each in sparse if each.bag]
        places = [g for g, each in enumerate(signature.dense) if each.of == owner]
        self._dense = [signature.dense[g].name for g in places]
        read = [None if each.bag else tables[each.name] for each in sparse]
        self._columns = scripted(_Columns(read, normaliser.statistics_of(places)))

    def found(self, asked: Sequence[Asked]) -> Found:
        """What requests of one kind say.

        Args:
            asked: Of "rank" a user's features have one row, all else has one for every item.
        """
        counts = [1 if self._owner == "user" and each.kind == "rank" else each.rows for each in asked]
        ids_FN = np.empty((len(self._single), sum(counts)), np.int32)
        numbers_NG = np.empty((sum(counts), len(self._dense)), np.float32)
        for f, name in enumerate(self._single):
            np.concatenate([each.ids[name].values_V for each in asked], out=ids_FN[f])
        for g, name in enumerate(self._dense):
            np.concatenate([each.dense[name] for each in asked], out=numbers_NG[:, g])
        pooled = [self._pooled(bag, [each.ids[bag.name] for each in asked]) for bag in self._bags]
        return Found(torch.from_numpy(ids_FN), pooled, torch.from_numpy(numbers_NG))

    def columns(self, found: Found, rows: slice | None = None) -> Tensor:
        """x_NW.

        Args:
            found: That is looked up.
            rows: Of it; None: all.
        """
        rows = slice(0, found.rows) if rows is None else rows
        x_NW: Tensor = self._columns(*found, rows.start, rows.stop)[0]
        return x_NW

    def _pooled(self, each: Input, parts: Sequence[Ids]) -> Tensor:
        """The pooled rows of a bag, of all requests one after the other."""
        values_V = torch.from_numpy(np.concatenate([part.values_V for part in parts]))
        lengths = torch.from_numpy(
            np.concatenate([np.diff(part.offsets_N) for part in parts if part.offsets_N is not None])
        )
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(lengths, 0, out=offsets[1:])
        weights_V = None
        if each.weighted:
            weights_V = torch.from_numpy(
                np.concatenate([part.weights_V for part in parts if part.weights_V is not None])
            )
        summed = self._tables[each.name].pooled(values_V, offsets, weights_V)
        if each.name not in self._mean_bags:
            return summed
        totals = lengths.float()
        if weights_V is not None:
            totals = torch.segment_reduce(weights_V, "sum", lengths=lengths, unsafe=True)
        return quotient(summed, totals[:, None])


class _Columns(nn.Module):
    """A script.

    Args:
        tables: Of the sparse features, in their order in x; None: of one whose bags are pooled before.
        statistics: Of the dense ones.
    """

    def __init__(self, tables: Sequence[StoredTable | None], statistics: list[Tensor]) -> None:
        super().__init__()
        self.stored: Any = torch.jit.Attribute([table.stored for table in tables if table is not None], list[Tensor])
        self.bits: Any = torch.jit.Attribute([0 if table is None else table.bits for table in tables], list[int])
        self.statistics: Any = torch.jit.Attribute(statistics, list[Tensor])

    def forward(
        self, ids_FN: Tensor, pooled: list[Tensor], numbers_NG: Tensor, begin: int, end: int
    ) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        parts: list[Tensor] = []
        bags = 0
        for bits in self.bits:
            if bits == 0:
                parts.append(pooled[bags][begin:end])
                bags += 1
            else:
                f = len(parts) - bags
                parts.append(rows_of(self.stored[f], bits, ids_FN[f, begin:end]))
        parts.append(normalised(numbers_NG[begin:end], self.statistics))
        return torch.cat(parts, dim=1), ids_FN, pooled, numbers_NG
