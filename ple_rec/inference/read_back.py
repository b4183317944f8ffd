"""Check that an export reads raw values as the dataset has them: as the same table rows and numbers.

`export` calls `check_requests` before it publishes a version. Held-out rows become requests of raw values, as clients
send them. The server's reader and encoder read these requests, and the resulting table rows (indices of embeddings) and
numbers are compared with those of the dataset.

Shape suffixes: N rows, V values of a feature in these rows. `offsets_N` has N + 1 entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import DataError
from ple_rec.inference.feature_parsing import MAX_BAG, MAX_VALUES, MAX_VECTOR_NUMBERS, FeatureIds
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.request import ModelRequest
from ple_rec.inference.request_rows import MAX_ITEMS


def check_requests(raw: RawHeldOutRows, read_score_request: Callable[[object], ModelRequest]) -> None:
    """Refuse an export that maps a raw value to another table row or number than the dataset.

    Each distinct value of a sparse feature or of a column of a history in the held-out rows is checked, and at least
    one number of each dense feature that has one. Rows whose bags are too long for a request are left out.

    Args:
        raw: Held-out rows as raw values.
        read_score_request: Function that reads the body of a request to `/v1/score`.

    Raises:
        DataError: A value, a list or a number is read differently.
    """
    for rows_N in split_into_requests(raw, _rows_with_every_value(raw, requestable_rows(raw))):
        request = read_score_request({"rows": raw.columns(rows_N)})
        for name, values in raw.values.items():
            _check_ids(name, values.flat_values(rows_N), raw.rows.ids[name].take(rows_N), request.ids[name])
        for name, x_N in request.dense.items():
            if not np.array_equal(raw.rows.dense[name][rows_N], x_N, equal_nan=True):
                raise _misread(name, "its numbers are read as other numbers", "a number is read as it was sent")


def requestable_rows(raw: RawHeldOutRows) -> NDArray[np.int64]:
    """Return the indices of the rows whose bags are short enough for a request."""
    total_N, longest_N = _bag_sizes(raw)
    return np.flatnonzero((longest_N <= MAX_BAG) & (total_N <= MAX_VALUES))


def _bag_sizes(raw: RawHeldOutRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of values in all bags of each row, and that in its longest bag."""
    total_N, longest_N = np.zeros(len(raw.rows), np.int64), np.zeros(len(raw.rows), np.int64)
    for ids in raw.rows.ids.values():
        if ids.offsets_N is not None:
            length_N = np.diff(ids.offsets_N)
            total_N, longest_N = total_N + length_N, np.maximum(longest_N, length_N)
    return total_N, longest_N


def _rows_with_every_value(raw: RawHeldOutRows, fit_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of rows that together have every value which the given rows have.

    They have every distinct value of each sparse feature and column of a history, and a number of each dense feature.
    They also have every key of a frozen table, and a vector of each vector feature.
    """
    first_rows = [values.first_rows(fit_N) for values in raw.values.values()]
    for name, x_N in raw.rows.dense.items():
        numbers_N = x_N[fit_N] if x_N.ndim == 1 else x_N[fit_N, 0]
        first_rows.append(fit_N[~np.isnan(numbers_N)][:1])
        if name in raw.keyed:
            first_rows.append(fit_N[np.unique(raw.rows.frozen_rows[name][fit_N], return_index=True)[1]])
    return np.unique(np.concatenate([fit_N[:1], *first_rows]))


def split_into_requests(raw: RawHeldOutRows, rows_N: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of the rows of each request, in order.

    Each request is within the limits of items, of values in bags, and of numbers in vectors.

    Args:
        raw: Held-out rows as raw values.
        rows_N: Indices of rows that `requestable_rows` has returned.
    """
    total_N, _ = _bag_sizes(raw)
    numbers = sum(x_N.shape[1] for x_N in raw.rows.dense.values() if x_N.ndim > 1)
    max_items = min(MAX_ITEMS, MAX_VECTOR_NUMBERS // max(1, numbers))
    begin, values_in_bags = 0, 0
    for i, count in enumerate(total_N[rows_N].tolist()):
        if i - begin == max_items or values_in_bags + count > MAX_VALUES:
            yield rows_N[begin:i]
            begin, values_in_bags = i, 0
        values_in_bags += count
    if begin < len(rows_N):
        yield rows_N[begin:]


def _check_ids(name: str, raw_V: NDArray[np.object_], expected: FeatureIds, actual: FeatureIds) -> None:
    """Compare the table rows of the dataset (`expected`) with those that the export reads (`actual`).

    Null is read as table row 0. If the dataset has another row, but its raw value is not known, null was sent in its
    place, so the row is not compared.
    """
    for expected_x, actual_x in ((expected.offsets_N, actual.offsets_N), (expected.weights_V, actual.weights_V)):
        if expected_x is not None and (actual_x is None or not np.array_equal(expected_x, actual_x)):
            raise _misread(name, "its lists are read with other lengths or weights", "a list is read as it was sent")
    is_compared_V = (expected.values_V == 0) | np.array([raw is not None for raw in raw_V], np.bool_)
    if (wrong_V := (expected.values_V != actual.values_V) & is_compared_V).any():
        v = int(wrong_V.argmax())
        value = f"the raw value {raw_V[v]!r} is read as row {actual.values_V[v]} of its table"
        raise _misread(name, value, f"the dataset has it in row {expected.values_V[v]}")


def _misread(name: str, value: str, rule: str) -> DataError:
    return DataError(f"export, feature {name}", value, rule, "export again; if the error repeats, report it as a bug")
