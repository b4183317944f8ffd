"""Held-out rows turned back into raw values, as requests have them.

Raw values come from the dataset's files, not from those of an export: through a vocabulary that was mixed up, values
would go and come back unharmed. Only rows of a table that unknown values share have none in the dataset; the export's
encoder makes one up.

Shape suffixes: N rows, V values of a feature in them, U different ones of these.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.encode import Encoder, RawFeature
from ple_rec.inference.feature_parsing import Ids
from ple_rec.inference.held_out import HeldOut
from ple_rec.inference.signature import Signature
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet


class RawValues:
    """Raw values of one sparse feature of held-out rows.

    Args:
        ids: Table rows of the feature.
        dataset: Directory of the dataset.
        raw: Feature, as the encoder of the export has it.
        encoder: Encoder of the export.
    """

    def __init__(self, ids: Ids, dataset: Location, raw: RawFeature, encoder: Encoder) -> None:
        rows_U, place_V = np.unique(ids.values_V, return_inverse=True)
        self._places = replace(ids, values_V=place_V.astype(np.int32))
        values = _values_of(raw, dataset, rows_U)
        shared = [u for u, row in enumerate(rows_U.tolist()) if row and values[u] is None]
        for u, value in zip(shared, encoder.values(raw.feature.name, rows_U[shared].tolist()), strict=True):
            values[u] = value
        self._raw_U = np.empty(len(rows_U), object)
        self._raw_U[:] = values

    def of_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the values of some rows, one after the other; None of row 0, and where no value is known."""
        return self._raw_U[self._places.take(rows_N).values_V]

    def column(self, rows_N: NDArray[np.int64]) -> list[Any]:
        """Return the values of some rows as a request has them."""
        flat: list[Any] = self.of_rows(rows_N).tolist()
        own = self._places.take(rows_N)
        if own.offsets_N is None:
            return flat
        spans = [slice(begin, end) for begin, end in pairwise(own.offsets_N.tolist())]
        if own.weights_V is None:
            return [flat[span] for span in spans]
        weights = own.weights_V.tolist()
        return [{"values": flat[span], "weights": weights[span]} for span in spans]

    def first_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return of some rows those that have a value which none before them has."""
        own = self._places.take(rows_N)
        _, first_V = np.unique(own.values_V, return_index=True)
        return rows_N[first_V if own.offsets_N is None else np.searchsorted(own.offsets_N, first_V, side="right") - 1]


class RawHeldOutRows:
    """Held-out rows in raw values.

    Args:
        rows: Held-out rows in table rows.
        signature: Signature of the model.
        dataset: Directory of the dataset.
        encoder: Encoder of the export.
    """

    def __init__(self, rows: HeldOut, signature: Signature, dataset: Location, encoder: Encoder) -> None:
        self.rows, self._dense = rows, [each.name for each in signature.dense]
        self.sparse = {
            each.name: RawValues(rows.ids[each.name], dataset, encoder.features[each.name], encoder)
            for each in signature.sparse
        }

    def columns(self, rows_N: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the values of some rows, feature by feature, as a request has them."""
        columns = {name: values.column(rows_N) for name, values in self.sparse.items()}
        for name in self._dense:
            columns[name] = [None if np.isnan(x) else x for x in self.rows.dense[name][rows_N].tolist()]
        return columns


def _values_of(raw: RawFeature, dataset: Location, rows_U: NDArray[np.int32]) -> list[Any]:
    """Return the raw value of each row of a table; None of row 0, and of rows that the dataset has none for."""
    file = dataset / VOCAB_DIR / f"{raw.table.name}.parquet"
    if raw.kind == "number" or not file.exists():
        return Encoder(dataset, [raw.feature]).values(raw.feature.name, rows_U.tolist())
    values: list[Any] = [None] * int(np.searchsorted(rows_U, 1))
    first = 1
    with open_parquet(file) as vocabulary:
        for batch in vocabulary.iter_batches(columns=["raw"]):
            begin, end = np.searchsorted(rows_U, [first, first + len(batch)])
            values += batch.column("raw").take(pa.array(rows_U[begin:end] - first)).to_pylist()
            first += len(batch)
    return values + [None] * (len(rows_U) - len(values))
