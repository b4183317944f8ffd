"""Check that an export reads raw values as the dataset does: held-out rows become requests of raw values.

The server's own reader and encoder read them, and have to find the rows of the tables that the dataset holds.

Shape suffixes: N rows, V values of a feature in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import DataError
from ple_rec.inference.feature_parsing import MAX_BAG, MAX_VALUES, Ids
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.request import ModelRequest
from ple_rec.inference.request_rows import MAX_ITEMS


def check_requests(raw: RawHeldOutRows, read: Callable[[object], ModelRequest]) -> None:
    """Refuse an export that reads a raw value as another row of a table, or as another number, than the dataset has.

    Rows that bring no value which a row before had not are left out, as are rows whose bags are longer than those of a
    request may be. Of a dense feature one number is enough.

    Args:
        raw: Held-out rows.
        read: Reader of the bodies of `/v1/score`.

    Raises:
        DataError: It does.
    """
    for rows_N in _requests(raw):
        request = read({"rows": raw.columns(rows_N)})
        for name, values in raw.sparse.items():
            _check_ids(name, values.of_rows(rows_N), raw.rows.ids[name].take(rows_N), request.ids[name])
        for name, x_N in request.dense.items():
            if not np.array_equal(raw.rows.dense[name][rows_N], x_N, equal_nan=True):
                raise _misread(name, "its numbers are read as others", "a number is read as it is")


def _requests(raw: RawHeldOutRows) -> Iterator[NDArray[np.int64]]:
    """Yield the rows that one request can hold, and that bring something new: one request after the other."""
    total_N, longest_N = np.zeros(len(raw.rows), np.int64), np.zeros(len(raw.rows), np.int64)
    for ids in raw.rows.ids.values():
        if ids.offsets_N is not None:
            length_N = np.diff(ids.offsets_N)
            total_N, longest_N = total_N + length_N, np.maximum(longest_N, length_N)
    fit_N = np.flatnonzero((longest_N <= MAX_BAG) & (total_N <= MAX_VALUES))
    new = [values.first_rows(fit_N) for values in raw.sparse.values()]
    new += [fit_N[~np.isnan(x_N[fit_N])][:1] for x_N in raw.rows.dense.values()]
    rows_N = np.unique(np.concatenate([fit_N[:1], *new]))
    begin, values = 0, 0
    for i, count in enumerate(total_N[rows_N].tolist()):
        if i - begin == MAX_ITEMS or values + count > MAX_VALUES:
            yield rows_N[begin:i]
            begin, values = i, 0
        values += count
    if begin < len(rows_N):
        yield rows_N[begin:]


def _check_ids(name: str, raw_V: NDArray[np.object_], expected: Ids, answer: Ids) -> None:
    """Compare rows of a table with what was read of their raw values; a value that is not known was read as missing."""
    for own, other in ((expected.offsets_N, answer.offsets_N), (expected.weights_V, answer.weights_V)):
        if own is not None and (other is None or not np.array_equal(own, other)):
            raise _misread(name, "its lists are read as others", "a list is read as it is")
    known_V = (expected.values_V == 0) | np.array([raw is not None for raw in raw_V], np.bool_)
    if (wrong_V := (expected.values_V != answer.values_V) & known_V).any():
        v = int(wrong_V.argmax())
        value = f"the raw value {raw_V[v]!r} is read as row {answer.values_V[v]} of its table"
        raise _misread(name, value, f"the dataset has it in row {expected.values_V[v]}")


def _misread(name: str, value: str, rule: str) -> DataError:
    return DataError(f"export, feature {name}", value, rule, "export again; where it comes again, it is a bug")
