"""Index of the keys of a side table, which finds the row of each key of a request.

The rows of the table are sorted by a hash of their keys. A bucket has the rows whose hashes have the same highest bits,
so it is a range of rows. The index stores only the first row of each bucket, which takes 1 to 2 bytes for each row of
the table. A look-up compares a key with all keys of its bucket, 2 to 4 on average.

Shape suffixes: R rows of the table, B buckets, N keys of one look-up, C pairs of a key and a row in its bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.data.hash_index import Hashes, Keys, mix_bits, text_keys
from ple_rec.data.vocabulary_index import is_text, text_buffers, to_binary

NULL_KEY, UNKNOWN = -2, -1  # Values in place of a row: part of the key is null; no row has the key.
_READ_ROWS = 1 << 20  # Number of keys that are hashed at a time.


def hash_keys(columns: Sequence[pa.Array]) -> Hashes:
    """Return the hash of each key.

    Args:
        columns: Key columns without nulls, each int64 or text.
    """
    count = len(columns[0])
    hashes = np.zeros(count, np.uint64)
    for begin in range(0, count, _READ_ROWS):
        rows = slice(begin, begin + _READ_ROWS)
        for column in columns:
            hashes[rows] = mix_bits(hashes[rows] ^ _column_hashes(column[rows]))
    return hashes


def _column_hashes(column: pa.Array) -> Hashes:
    if is_text(column.type):
        return text_keys(*text_buffers(to_binary(column))).view(np.uint64)
    integers: Keys = column.to_numpy()
    return integers.view(np.uint64)


def sort_by_hash(columns: Mapping[str, pa.Array], key_columns: Sequence[str]) -> dict[str, pa.Array]:
    """Return columns with their rows sorted by the hashes of their keys, as `KeyIndex` needs them.

    Args:
        columns: Columns of a table by name; those of its keys have no nulls.
        key_columns: Names of the key columns.
    """
    hashes_R = hash_keys([columns[name] for name in key_columns])
    if (hashes_R[:-1] <= hashes_R[1:]).all():
        return dict(columns)
    order_R = pa.array(np.argsort(hashes_R, kind="stable"))
    return {name: column.take(order_R) for name, column in columns.items()}


class KeyIndex:
    """Index of keys; several threads may use it.

    Args:
        columns: Key columns of the table without nulls, each int64 or text, with the rows sorted by `sort_by_hash`.
    """

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self._columns = tuple(columns)
        hashes_R = hash_keys(columns)
        bits = max(len(hashes_R).bit_length() - 2, 0)
        self._shift = np.uint64(64 - bits)
        # In NumPy, a shift by 64 bits gives 0, so a small table has a single bucket.
        sizes_B = np.bincount((hashes_R >> self._shift).astype(np.int64), minlength=1 << bits)
        self._starts_B = np.zeros(len(sizes_B) + 1, np.uint32)
        np.cumsum(sizes_B, out=self._starts_B[1:])
        self._max_bytes = [_longest(column) if is_text(column.type) else None for column in columns]

    @property
    def nbytes(self) -> int:
        """Number of bytes of the index, without the key columns."""
        return self._starts_B.nbytes

    def find(self, keys: Sequence[pa.Array]) -> NDArray[np.int64]:
        """Return the row of each key, or `UNKNOWN` or `NULL_KEY`.

        Args:
            keys: Values of each key column, of the type of that column.
        """
        rows_N = np.full(len(keys[0]), UNKNOWN, np.int64)
        may_exist_N = np.ones(len(rows_N), np.bool_)
        for column, max_bytes in zip(keys, self._max_bytes, strict=True):
            valid_N = column.is_valid().to_numpy(zero_copy_only=False)
            rows_N[~valid_N] = NULL_KEY
            may_exist_N &= valid_N
            # A longer text than all of the table is unknown. It is not hashed, since that could take long.
            if max_bytes is not None:
                may_exist_N &= np.diff(text_buffers(to_binary(column))[0]) <= max_bytes
        (candidates_N,) = may_exist_N.nonzero()
        keys = [column.take(pa.array(candidates_N)) for column in keys]
        buckets_N = (hash_keys(keys) >> self._shift).astype(np.int64)
        first_N, last_N = self._starts_B[buckets_N].astype(np.int64), self._starts_B[buckets_N + 1].astype(np.int64)
        sizes_N = last_N - first_N
        key_C = np.repeat(np.arange(len(candidates_N)), sizes_N)
        row_C = np.arange(len(key_C)) + np.repeat(first_N - (np.cumsum(sizes_N) - sizes_N), sizes_N)
        equal_C = np.ones(len(key_C), np.bool_)
        for column, stored in zip(keys, self._columns, strict=True):
            if is_text(stored.type):
                equal = pc.equal(column.take(pa.array(key_C)).cast(stored.type), stored.take(pa.array(row_C)))
                equal_C &= equal.to_numpy(zero_copy_only=False)
            else:
                equal_C &= column.to_numpy()[key_C] == stored.to_numpy()[row_C]
        rows_N[candidates_N[key_C[equal_C]]] = row_C[equal_C]
        return rows_N


def _longest(texts: pa.Array) -> int:
    """Return the number of bytes of the longest text; 0 without texts."""
    return pc.max(pc.binary_length(texts)).as_py() or 0
