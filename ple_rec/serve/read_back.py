"""Check that an export reads raw values as the dataset does: held-out rows, turned back to raw ones, become requests.

The server's own reader and encoder read them, and have to find the rows of the tables that the dataset holds. Raw
values come from the dataset's files, not from those of the export: through a vocabulary that was mixed up, values would
go and come back unharmed.

Shape suffixes: N rows, V values of a feature in them, U different ones of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.encode import Encoder, RawFeature
from ple_rec.errors import DataError
from ple_rec.serve.feature_parsing import MAX_BAG, MAX_VALUES, Ids
from ple_rec.serve.held_out import HeldOut
from ple_rec.serve.request import ModelRequest
from ple_rec.serve.request_rows import MAX_ITEMS
from ple_rec.serve.signature import Input, Signature


def check_requests(
    rows: HeldOut,
    signature: Signature,
    dataset: Path,
    raw: Mapping[str, RawFeature],
    read: Callable[[object], ModelRequest],
) -> None:
    """Refuse an export that reads a raw value as another row of a table, or as another number, than the dataset has.

    Rows that bring no value which a row before had not are left out, as are rows whose bags are longer than those of a
    request may be, and values of which the dataset knows no raw one: those that share a row with others.

    Args:
        rows: Held-out rows.
        signature: Signature of the model.
        dataset: Directory of the dataset.
        raw: Sparse features by name.
        read: Reader of the bodies of `/v1/score`.

    Raises:
        DataError: it does.
    """
    found = {
        each.name: _RawValues(dataset, raw[each.name], [part.ids[each.name] for part in rows.requests])
        for each in signature.sparse
    }
    for part in rows.requests:
        for places_N in _requests(part, found):
            ids = {each.name: part.ids[each.name].take(places_N) for each in signature.sparse}
            dense = {each.name: part.dense[each.name][places_N] for each in signature.dense}
            columns = {each.name: found[each.name].column(each, ids[each.name]) for each in signature.sparse}
            columns |= {name: [None if np.isnan(x) else x for x in x_N.tolist()] for name, x_N in dense.items()}
            answer = read({"rows": columns})
            for each in signature.sparse:
                found[each.name].check(each, ids[each.name], answer.ids[each.name])
            for name, x_N in dense.items():
                if not np.array_equal(x_N, answer.dense[name], equal_nan=True):
                    raise _other(name, "its numbers are read as others", "a number is read as it is")


def _requests(part: ModelRequest, found: Mapping[str, _RawValues]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of rows that one request can hold, and that bring something new: one request after the other."""
    total_N, longest_N = np.zeros(part.rows, np.int64), np.zeros(part.rows, np.int64)
    for ids in part.ids.values():
        if ids.offsets_N is not None:
            length_N = np.diff(ids.offsets_N)
            total_N, longest_N = total_N + length_N, np.maximum(longest_N, length_N)
    fit_N = np.flatnonzero((longest_N <= MAX_BAG) & (total_N <= MAX_VALUES))
    new = [values.first_rows(part.ids[name].take(fit_N)) for name, values in found.items()]
    places_N = fit_N[np.unique(np.concatenate([np.arange(min(1, len(fit_N))), *new]))]
    begin, held = 0, 0
    for i, count in enumerate(total_N[places_N].tolist()):
        if i - begin == MAX_ITEMS or held + count > MAX_VALUES:
            yield places_N[begin:i]
            begin, held = i, 0
        held += count
    if begin < len(places_N):
        yield places_N[begin:]


class _RawValues:
    """Raw values of the rows of a table that a feature has.

    Args:
        dataset: Directory of the dataset.
        raw: Feature.
        parts: Table rows that it has.
    """

    def __init__(self, dataset: Path, raw: RawFeature, parts: Sequence[Ids]) -> None:
        self._rows_U = np.unique(np.concatenate([part.values_V for part in parts]))
        self._raw_U = np.full(len(self._rows_U), None, object)  # None of row 0, and where the dataset knows none
        self._new_U = np.ones(len(self._rows_U), np.bool_)
        file = dataset / VOCAB_DIR / f"{raw.table.name}.parquet"
        if raw.kind == "number" or not file.exists():
            self._raw_U[:] = Encoder(dataset, [raw.feature]).values(raw.feature.name, self._rows_U.tolist())
            return
        first = 1
        with pq.ParquetFile(file) as vocabulary:
            for batch in vocabulary.iter_batches(columns=["raw"]):
                begin, end = np.searchsorted(self._rows_U, [first, first + len(batch)])
                places = pa.array(self._rows_U[begin:end] - first)
                self._raw_U[begin:end] = batch.column("raw").take(places).to_pylist()
                first += len(batch)

    def first_rows(self, ids: Ids) -> NDArray[np.int64]:
        """Return the rows that bring a value which none had before, here or in an earlier call."""
        at_U, first_U = np.unique(self._at(ids), return_index=True)
        first_V = first_U[self._new_U[at_U]]
        self._new_U[at_U] = False
        return first_V if ids.offsets_N is None else np.searchsorted(ids.offsets_N, first_V, side="right") - 1

    def column(self, each: Input, ids: Ids) -> list[Any]:
        """Return raw values as a request has them."""
        flat: list[Any] = self._raw_U[self._at(ids)].tolist()
        if ids.offsets_N is None:
            return flat
        spans = [slice(begin, end) for begin, end in pairwise(ids.offsets_N.tolist())]
        if not each.weighted:
            return [flat[span] for span in spans]
        assert ids.weights_V is not None
        weights = ids.weights_V.tolist()
        return [{"values": flat[span], "weights": weights[span]} for span in spans]

    def check(self, each: Input, ids: Ids, answer: Ids) -> None:
        """Compare rows of the table with what was read of their raw values.

        Raises:
            DataError: they differ.
        """
        for own, other in ((ids.offsets_N, answer.offsets_N), (ids.weights_V, answer.weights_V)):
            if own is not None and (other is None or not np.array_equal(own, other)):
                raise _other(each.name, "its lists are read as others", "a list is read as it is")
        raw_V = self._raw_U[self._at(ids)]
        known_V = (ids.values_V == 0) | np.array([raw is not None for raw in raw_V], np.bool_)
        if (wrong_V := (ids.values_V != answer.values_V) & known_V).any():
            v = int(wrong_V.argmax())
            value = f"the raw value {raw_V[v]!r} is read as row {answer.values_V[v]} of its table"
            raise _other(each.name, value, f"the dataset has it in row {ids.values_V[v]}")

    def _at(self, ids: Ids) -> NDArray[np.int64]:
        return np.searchsorted(self._rows_U, ids.values_V)


def _other(name: str, value: str, rule: str) -> DataError:
    return DataError(f"export, feature {name}", value, rule, "export again; where it comes again, it is a bug")
