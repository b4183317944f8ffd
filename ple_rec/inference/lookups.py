"""Lookups of the features of requests in the tables of an export: the input x of the dense layers.

x has the pooled rows of all sparse features, the normalised dense features, the projected vectors, and the outputs of
attention over histories, side by side.

A request for a ranking has one user. The user's features are looked up only once for all items. If that saves work,
they are also multiplied by the first layer only once (`ple_rec.modules.grouped`); compared with one product for each
item, only the order of a sum changes.

Shape suffixes: B rows of all requests, R requests, N rows of one owner's features, V ids, F dense features, D columns
of x or of a table, L events of a history, E columns of an event, Q columns of a target. The features of the user in a
ranking have a row for each request (N = R). All other features have a row for each of the B rows (N = B).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ple_rec.config.schema import HistoryFeature
from ple_rec.inference.feature_parsing import FeatureIds
from ple_rec.inference.request import ModelRequest, ScoreRequest
from ple_rec.inference.signature import Owner, Signature, TableColumn
from ple_rec.inference.tables import StoredTable
from ple_rec.models.embeddings import quotient
from ple_rec.modules.grouped import GroupedInputs, Inputs, SharedColumns
from ple_rec.modules.history import HistoryAttention
from ple_rec.modules.normalise import DenseNormaliser
from ple_rec.modules.vectors import VectorInputs

# Largest number of pairs of an event and an item that attention is computed for at a time, to bound its memory.
_ATTENDED_EVENTS = 1 << 15


class RequestLookups:
    """Lookups of the features of requests, which compute the input x of the dense layers.

    Args:
        signature: Signature of the model.
        tables: Table of each sparse feature, and of each column of a history.
        normaliser: Normaliser of the dense features.
        mean_bags: Names of the features and columns whose bags are pooled by their mean instead of their sum.
        columns: Columns of x, with flags of those that belong to the user.
        vectors: Normaliser and projections of the vectors; None without vectors.
        pooled: Names of the features and of the columns of histories whose pooled rows x has, in the order of x; None
            for all of them in the order of the signature.
        attentions: Histories over which the model has attention, in the order of x, with the modules.
    """

    def __init__(
        self,
        signature: Signature,
        tables: Mapping[str, StoredTable],
        normaliser: DenseNormaliser,
        mean_bags: Collection[str],
        columns: SharedColumns,
        vectors: VectorInputs | None = None,
        pooled: Sequence[str] | None = None,
        attentions: Sequence[tuple[HistoryFeature, HistoryAttention]] = (),
    ) -> None:
        self._vectors, self._attentions = vectors, attentions
        table_columns = signature.table_columns
        self._pooled = [table_columns[name] for name in (table_columns if pooled is None else pooled)]
        self._signature, self._tables, self._normaliser = signature, tables, normaliser
        self._mean_bags, self._columns = mean_bags, columns

    def inputs(self, requests: Sequence[ModelRequest]) -> Inputs:
        """Return x for the rows of all requests, in their order.

        Args:
            requests: Requests that are all `ScoreRequest` or all `RankRequest`.

        Returns:
            Tensor (B, D); for rankings, `GroupedInputs` if these save products of the first layer.
        """
        pooled = {column.name: self._pool_column(column, requests) for column in self._pooled}
        counts_R = torch.tensor([request.rows for request in requests])
        request_B = torch.arange(len(requests)).repeat_interleave(counts_R)
        of_user = self._owner_columns("user", requests, pooled)
        of_items = self._owner_columns("item", requests, pooled)
        if self._attentions:
            # The output of attention depends on the item, so it is never one of the user's columns.
            outputs = [self._attend(*each, requests, pooled, request_B) for each in self._attentions]
            of_items = torch.cat([of_items, *outputs], dim=1)
        if isinstance(requests[0], ScoreRequest):
            return self._columns.join(of_user, of_items)
        x_BD = GroupedInputs(of_user, of_items, request_B, counts_R.cumsum(0) - counts_R, self._columns)
        return x_BD if x_BD.saves_products() else x_BD.ungroup()

    def _owner_columns(self, owner: Owner, requests: Sequence[ModelRequest], pooled: Mapping[str, Tensor]) -> Tensor:
        """Return the columns of the features of the user or of the items, (N, columns), in their order in x.

        Args:
            owner: Owner of the features.
            requests: Requests of one class.
            pooled: Pooled rows of each column of the tables, by its name.
        """
        parts = [pooled[column.name] for column in self._pooled if column.of == owner]
        dense = self._signature.dense
        indices = [i for i, feature in enumerate(dense) if feature.of == owner]
        # In a request for a ranking, the features of the user have one row.
        has_one_row = owner == "user" and not isinstance(requests[0], ScoreRequest)
        rows = len(requests) if has_one_row else sum(each.rows for each in requests)
        # The normaliser needs a column for each dense feature of the model. Those of the other owner are filled with
        # NaN, and only the columns in `indices` of its result are used.
        raw_NF = torch.full((rows, len(dense)), torch.nan)
        for i in indices:
            numbers_N = np.concatenate([request.dense[dense[i].name] for request in requests])
            raw_NF[:, i] = torch.from_numpy(numbers_N)
        parts.append(self._normaliser(raw_NF)[:, indices])
        for i, feature in enumerate(self._signature.vectors):
            if feature.of == owner and self._vectors is not None:
                vectors_NW = np.concatenate([request.dense[feature.name] for request in requests])
                parts.append(self._vectors.project(i, torch.from_numpy(vectors_NW)))
        return torch.cat(parts, dim=1)

    def _pool_column(self, column: TableColumn, requests: Sequence[ModelRequest]) -> Tensor:
        """Return the table rows of a column in all requests, (N, D): one for each value, or pooled for each bag."""
        ids = [request.ids[column.name] for request in requests]
        if not column.bag:
            return self._rows(column.name, ids)
        table, values_V = self._tables[column.name], torch.from_numpy(np.concatenate([each.values_V for each in ids]))
        lengths_N = _lengths(ids)
        offsets = torch.zeros(len(lengths_N) + 1, dtype=torch.int32)
        torch.cumsum(lengths_N, 0, out=offsets[1:])
        weights_V = None
        if column.weighted:
            weights_V = torch.from_numpy(np.concatenate([each.weights_V for each in ids if each.weights_V is not None]))
        summed_ND = table.pool(values_V, offsets, weights_V)
        if column.name not in self._mean_bags:
            return summed_ND
        totals_N = lengths_N.float()
        if weights_V is not None:
            totals_N = torch.segment_reduce(weights_V, "sum", lengths=lengths_N, unsafe=True)
        return quotient(summed_ND, totals_N[:, None])

    def _rows(self, name: str, ids: Sequence[FeatureIds]) -> Tensor:
        """Return the table rows of all values of a column, (V, D)."""
        return self._tables[name].pool(torch.from_numpy(np.concatenate([each.values_V for each in ids])))

    def _attend(
        self,
        history: HistoryFeature,
        attention: HistoryAttention,
        requests: Sequence[ModelRequest],
        pooled: Mapping[str, Tensor],
        request_B: Tensor,
    ) -> Tensor:
        """Return the output of attention over a history for the rows of all requests, (B, E).

        In a ranking, the events of the user are looked up, and their own products computed, once for all items.

        Args:
            history: History of the model.
            attention: Attention over the history.
            requests: Requests of one class.
            pooled: Pooled rows of each column of the tables, by its name.
            request_B: Index of the request of each row.
        """
        names = [column.name for column in history.columns()]
        ids = {name: [request.ids[name] for request in requests] for name in names}
        events_VE = torch.cat([self._rows(name, ids[name]) for name in names], dim=1)
        lengths_N = _lengths(ids[names[0]])
        rows = len(request_B)
        items = (pooled[item.feature] for item in history.items)
        target_BQ = torch.cat([x if len(x) == rows else x.index_select(0, request_B) for x in items], dim=1)
        # Only in rankings are there fewer lists than rows: all items of a request share a history of the user.
        if len(lengths_N) < rows:
            blocks = zip(events_VE.split(lengths_N.tolist()), target_BQ.split([r.rows for r in requests]), strict=True)
            return torch.cat([_attend_to_one(attention, events, target) for events, target in blocks])
        step = max(_ATTENDED_EVENTS // max(int(lengths_N.max()), 1), 1)
        pieces = zip(lengths_N.split(step), target_BQ.split(step), strict=True)
        begin, outputs = 0, []
        for lengths, target in pieces:
            events = list(events_VE[begin : begin + int(lengths.sum())].split(lengths.tolist()))
            outputs.append(attention(pad_sequence(events, batch_first=True), target).float())
            begin += int(lengths.sum())
        return torch.cat(outputs)


def _attend_to_one(attention: HistoryAttention, events_LE: Tensor, target_BQ: Tensor) -> Tensor:
    """Return the output of attention over one history for several targets, (B, E)."""
    step = max(_ATTENDED_EVENTS // max(len(events_LE), 1), 1)
    return torch.cat([attention.of_one_history(events_LE, each).float() for each in target_BQ.split(step)])


def _lengths(ids: Sequence[FeatureIds]) -> Tensor:
    """Return the length of each list of a column of lists."""
    return torch.from_numpy(np.concatenate([np.diff(each.offsets_N) for each in ids if each.offsets_N is not None]))
