"""Look-up of vectors in a frozen table by the key of a row, for requests to an exported model.

In a dated table, a key has its newest vector.

Shape suffixes: N keys of one call, W numbers of a vector, R rows of the table with row 0, which is that of a missing
vector.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.data import hash_index
from ple_rec.data.arrow import FloatArray
from ple_rec.data.hash_index import Rows
from ple_rec.data.vectors import FrozenTable
from ple_rec.data.vocabulary_index import is_text, text_buffers, to_binary

KeyKind = Literal["int", "text"]


class VectorLookup:
    """Look-up in a frozen table with one key, which is read into memory.

    Args:
        table: Frozen table of a dataset or of an exported model.

    Attributes:
        kind: Kind of the keys.

    Raises:
        DataError: The table is missing or damaged.
    """

    def __init__(self, table: FrozenTable) -> None:
        assert table.feature.table is not None
        (name,) = table.feature.table.keys
        columns = table.keys()
        keys = columns[f"key_{name}"].combine_chunks()
        self.kind: KeyKind = "text" if is_text(keys.type) else "int"
        rows_R = np.arange(len(keys) + 1, dtype=np.int32)
        if table.feature.table.dated:
            rows_R = np.append(np.int32(0), _newest_rows(keys, columns["day"].combine_chunks()))
            keys = keys.take(pa.array(rows_R[1:] - 1))
        # Row of the table for each entry of the hash table, whose entry 0 is unused.
        self._rows_R, self._values_RW = rows_R, table.values_RW
        self._texts = to_binary(keys) if self.kind == "text" else None
        self._keys_R = np.append(np.int64(0), self._hash_keys(keys))
        self._slots_M = np.zeros(hash_index.slot_count(len(keys)), np.int32)
        entries_N = np.arange(1, len(keys) + 1, dtype=np.int32)
        hash_index.insert(self._slots_M, self._keys_R, entries_N, self._equal_texts(self._texts))

    def vectors(self, keys: pa.Array) -> FloatArray:
        """Return the vector of each key (N, W), with NaN for a null or unknown key.

        Args:
            keys: Integers (int64) or texts, according to `kind`.
        """
        present_N = keys.is_valid().to_numpy(zero_copy_only=False)
        filled = keys if not keys.null_count else keys.fill_null(0 if self.kind == "int" else "")
        texts = to_binary(filled) if self.kind == "text" else None
        entries_N = hash_index.find(self._slots_M, self._keys_R, self._hash_keys(filled), self._equal_texts(texts))
        return self._values_RW[self._rows_R[np.where(present_N, entries_N, 0)]]

    def _hash_keys(self, keys: pa.Array) -> NDArray[np.int64]:
        if self.kind == "int":
            return np.asarray(keys.cast(pa.int64()).to_numpy(), np.int64)
        return hash_index.text_keys(*text_buffers(to_binary(keys)))

    def _equal_texts(self, texts: pa.Array | None) -> hash_index.EqualValues | None:
        """Return the function that compares some texts with those of the table; None for integers."""
        if texts is None:
            return None

        def equal_values(positions: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
            assert self._texts is not None
            equal = pc.equal(texts.take(pa.array(positions)), self._texts.take(pa.array(rows - 1)))
            return np.asarray(equal.to_numpy(zero_copy_only=False), np.bool_)

        return equal_values


def _newest_rows(keys: pa.Array, days: pa.Array) -> Rows:
    """Return the row of the newest vector of each key, ascending; rows count from 1."""
    rows = pa.table({"key": keys, "day": days, "row": np.arange(1, len(keys) + 1, dtype=np.int32)})
    newest = rows.group_by("key").aggregate([("day", "max")])
    chosen = rows.join(newest, ["key", "day"], ["key", "day_max"], "inner")["row"]
    return np.sort(chosen.to_numpy())
