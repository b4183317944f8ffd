"""x of requests: rows of tables and normalised numbers, side by side in the order of the model's features.

A request for a ranking has one user, whose features are looked up, and multiplied by the first layer, once for all
items (`ple_rec.modules.grouped`). That is exact; only the order of a sum differs.

Shape suffixes: B rows of all requests, R requests, N rows of one owner's features, D columns of a table, F dense
features, V ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ple_rec.inference.request import ModelRequest, ScoreRequest
from ple_rec.inference.signature import Input, Owner, Signature
from ple_rec.inference.tables import StoredTable
from ple_rec.models.embeddings import quotient
from ple_rec.modules.grouped import Grouped, Inputs, SharedColumns
from ple_rec.modules.normalise import DenseNormaliser


class Lookups:
    """The inputs of a model's dense layers.

    Args:
        signature: Signature of the model.
        tables: Table of each sparse feature.
        normaliser: Normaliser of the dense features.
        mean_bags: Features of which x holds the mean of a bag's rows instead of their sum.
        columns: Columns of x, of which those of a user are marked as shared.
    """

    def __init__(
        self,
        signature: Signature,
        tables: Mapping[str, StoredTable],
        normaliser: DenseNormaliser,
        mean_bags: Collection[str],
        columns: SharedColumns,
    ) -> None:
        self._signature, self._tables, self._normaliser = signature, tables, normaliser
        self._mean_bags, self._columns = mean_bags, columns

    def inputs(self, requests: Sequence[ModelRequest]) -> Inputs:
        """Return x of the rows of requests, one request after the other.

        Args:
            requests: Requests of one class.
        """
        if isinstance(requests[0], ScoreRequest):
            return self._columns.join(self._of("user", requests), self._of("item", requests))
        counts_R = torch.tensor([request.rows for request in requests])
        of_B = torch.arange(len(requests)).repeat_interleave(counts_R)
        first_R = counts_R.cumsum(0) - counts_R
        x_BD = Grouped(self._of("user", requests), self._of("item", requests), of_B, first_R, self._columns)
        return x_BD if x_BD.saves_products() else x_BD.whole()

    def _of(self, owner: Owner, requests: Sequence[ModelRequest]) -> Tensor:
        """Return the columns of one owner's features, in their order in x."""
        parts = [self._pooled_ND(feature, requests) for feature in self._signature.sparse if feature.of == owner]
        dense = self._signature.dense
        own = [place for place, feature in enumerate(dense) if feature.of == owner]
        once = owner == "user" and not isinstance(requests[0], ScoreRequest)
        rows = len(requests) if once else sum(each.rows for each in requests)
        raw_NF = torch.full((rows, len(dense)), torch.nan)
        for place in own:
            numbers_N = np.concatenate([request.dense[dense[place].name] for request in requests])
            raw_NF[:, place] = torch.from_numpy(numbers_N)
        return torch.cat([*parts, self._normaliser(raw_NF)[:, own]], dim=1)

    def _pooled_ND(self, feature: Input, requests: Sequence[ModelRequest]) -> Tensor:
        """Return the rows of a feature of single values, or the pooled rows of a bag."""
        ids = [request.ids[feature.name] for request in requests]
        table, values_V = self._tables[feature.name], torch.from_numpy(np.concatenate([each.values_V for each in ids]))
        if not feature.bag:
            return table.pooled(values_V)
        lengths = [np.diff(each.offsets_N) for each in ids if each.offsets_N is not None]
        lengths_N = torch.from_numpy(np.concatenate(lengths))
        offsets = torch.zeros(len(lengths_N) + 1, dtype=torch.int32)
        torch.cumsum(lengths_N, 0, out=offsets[1:])
        weights_V = None
        if feature.weighted:
            weights_V = torch.from_numpy(np.concatenate([each.weights_V for each in ids if each.weights_V is not None]))
        summed_ND = table.pooled(values_V, offsets, weights_V)
        if feature.name not in self._mean_bags:
            return summed_ND
        totals_N = lengths_N.float()
        if weights_V is not None:
            totals_N = torch.segment_reduce(weights_V, "sum", lengths=lengths_N, unsafe=True)
        return quotient(summed_ND, totals_N[:, None])
