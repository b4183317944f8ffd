"""Check that an export maps raw values to the same table rows as the dataset.

Held-out rows become requests of raw values. The server's own reader and encoder read these, and the resulting table
rows are compared with those of the dataset.

Shape suffixes: N rows, V values of a feature in these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import DataError
from ple_rec.inference.feature_parsing import MAX_BAG, MAX_VALUES, FeatureIds
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.request import ModelRequest
from ple_rec.inference.request_rows import MAX_ITEMS


def check_requests(raw: RawHeldOutRows, read: Callable[[object], ModelRequest]) -> None:
    """Refuse an export that maps a raw value to another table row or number than the dataset.

    Each distinct value is checked once, and so is one number of each dense feature. Rows whose bags are too long for a
    request are left out.

    Args:
        raw: Held-out rows as raw values.
        read: Reader of the bodies of `/v1/score`.

    Raises:
        DataError: A value, a list or a number is read differently.
    """
    for rows_N in _requests(raw):
        request = read({"rows": raw.columns(rows_N)})
        for name, values in raw.sparse.items():
            _check_ids(name, values.of_rows(rows_N), raw.rows.ids[name].take(rows_N), request.ids[name])
        for name, x_N in request.dense.items():
            if not np.array_equal(raw.rows.dense[name][rows_N], x_N, equal_nan=True):
                raise _misread(name, "its numbers are read as others", "a number is read as it is")


def _requests(raw: RawHeldOutRows) -> Iterator[NDArray[np.int64]]:
    """Yield for each request its rows: those that have a value for the first time, within the limits of a request."""
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


def _check_ids(name: str, raw_V: NDArray[np.object_], expected: FeatureIds, answer: FeatureIds) -> None:
    """Compare table rows of the dataset with those that the export read; values without a raw value are skipped."""
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
