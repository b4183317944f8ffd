"""Look-up of raw values in a vocabulary: rows of an embedding table as data preparation assigned them.

Shapes: N values, R rows of the vocabulary and row 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.schema import Table
from ple_rec.data import hash_index
from ple_rec.data.hash_index import Rows
from ple_rec.data.vocabulary_index import Kind, binary, buffers, is_text, open_index
from ple_rec.errors import DataError

# Stand-in values are computed for at most this many of the rows that unknown values share.
_STAND_INS = 1 << 15


class VocabularyLookup:
    """Vocabulary of one table. Its index is built on opening if there is none.

        row(x) = 0                                                  x null
                 the vocabulary's row of x                          x in it
                 capacity - hash_rows + H(x) mod hash_rows          x unknown, hash_rows > 0
                 0                                                  x unknown, hash_rows = 0

    H(x) is the first 7 hexadecimal digits of the MD5 of x, as an integer. An integer x is hashed as decimal text, and
    text as UTF-8.

    Args:
        file: Vocabulary as a Parquet file, ordered by row.
        capacity: Number of allocated rows of the table, which is required with `hash_rows`.
        hash_rows: Number of rows at the end of the table that unknown values share.
        sealed: True if nothing may be written beside the file, as in a version of a model.

    Raises:
        DataError: The vocabulary is damaged, has a value twice, or has more rows than the table.
    """

    def __init__(self, file: Path, *, capacity: int | None = None, hash_rows: int = 0, sealed: bool = False) -> None:
        self.file, self.hash_rows = file, hash_rows
        self._index = open_index(file, sealed=sealed)
        self._longest = self._index.longest_text()
        rows = len(self._index.keys_R)
        self.hash_from = (rows + hash_rows if capacity is None else capacity) - hash_rows
        if self.hash_from < rows:
            raise DataError(
                str(file),
                f"{rows - 1} values",
                f"schema.toml leaves {self.hash_from - 1} rows of its table for them",
                "put the vocabulary and the schema.toml of one dataset together",
            )

    @classmethod
    def of_table(cls, file: Path, table: Table, *, sealed: bool = False) -> VocabularyLookup:
        """Open the vocabulary of a table."""
        return cls(file, capacity=table.allocated, hash_rows=table.hash_rows, sealed=sealed)

    def read_into_memory(self) -> None:
        """Copy the index into the memory of this process, so that later changes of the files do not affect it."""
        self._index = self._index.in_memory()

    @property
    def kind(self) -> Kind:
        """Kind of the raw values."""
        return self._index.kind

    def __len__(self) -> int:
        """Return the number of values in the vocabulary."""
        return len(self._index.keys_R) - 1

    def rows(self, values: pa.Array | pa.ChunkedArray, place: str) -> pa.Array:
        """Return the row of each value.

        Args:
            values: Integers or texts like those of the vocabulary, a dictionary of them, or lists of them.
            place: File and column, for messages.

        Returns:
            int32 without nulls, or for lists a large list of rows, null if the list is null.

        Raises:
            DataError: The values are of another kind than those of the vocabulary.
        """
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        kind = array.type
        if pa.types.is_null(kind):
            return pa.array(np.zeros(len(array), np.int32))
        if pa.types.is_dictionary(kind):
            rows = self.rows(array.dictionary, place)
            return pc.fill_null(rows.take(array.indices), 0)
        if pa.types.is_nested(kind) and hasattr(array, "value_lengths"):
            lengths = array.value_lengths()
            offsets = np.zeros(len(array) + 1, np.int64)
            np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
            inner = self.rows(array.flatten(), place)
            return pa.LargeListArray.from_arrays(pa.array(offsets), inner, mask=array.is_null())
        if self._index.kind == "int" and pa.types.is_integer(kind):
            return pa.array(self._int_rows(array))
        if self._index.kind == "text" and is_text(kind):
            return pa.array(self._text_rows(binary(array)))
        expected = "integers" if self._index.kind == "int" else "text"
        raise DataError(
            place,
            f"values of type {kind}",
            f"{self.file} has {expected}",
            f"give {expected}, as the logs had them from which the dataset was prepared",
        )

    def values(self, rows: Sequence[int]) -> list[Any]:
        """Return a raw value of each row, or None for row 0 and for rows without a known value.

        The value of a row that unknown values share is an invented one, such as "unknown-3".
        """
        return [self._value(row) for row in rows]

    def _value(self, row: int) -> Any:
        texts = self._index.texts_R
        if 0 < row < len(self._index.keys_R):
            return int(self._index.keys_R[row]) if texts is None else texts[row].as_py().decode()
        return self._stand_ins.get(row) if row >= self.hash_from else None

    @cached_property
    def _stand_ins(self) -> dict[int, Any]:
        """Invented unknown values by their row. A few values are tried for each row, so some rows may have none."""
        names: list[Any] = list(range(-1, -1 - 8 * min(self.hash_rows, _STAND_INS), -1))
        if self._index.texts_R is not None:
            names = [f"unknown{name}" for name in names]
        rows = self.rows(pa.array(names), str(self.file)).to_pylist()
        return {row: name for row, name in zip(rows, names, strict=True) if row >= self.hash_from}

    def _int_rows(self, array: pa.Array) -> Rows:
        known_N = array.is_valid().to_numpy(zero_copy_only=False)
        raw_N = (array.fill_null(0) if array.null_count else array).to_numpy()
        rows_N = hash_index.find(self._index.slots_M, self._index.keys_R, raw_N.astype(np.int64, copy=False))
        if raw_N.dtype == np.uint64:
            # Conversion to int64 turns these values into others.
            rows_N[raw_N >= 1 << 63] = 0
        if array.null_count:
            rows_N[~known_N] = 0
        self._share(rows_N, known_N, lambda positions: [str(value).encode() for value in raw_N[positions].tolist()])
        return rows_N

    def _text_rows(self, array: pa.Array) -> Rows:
        vocabulary = self._index.texts_R
        known_N = array.is_valid().to_numpy(zero_copy_only=False)
        texts_N = array
        # A text longer than all of the vocabulary is unknown; a null in its place need not be hashed.
        if (long_N := np.diff(buffers(array)[0]) > self._longest).any():
            texts_N = pc.replace_with_mask(array, pa.array(long_N), pa.scalar(None, array.type))

        def equal_values(positions: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
            assert vocabulary is not None
            equal = pc.equal(texts_N.take(pa.array(positions)), vocabulary.take(pa.array(rows)))
            return equal.fill_null(False).to_numpy(zero_copy_only=False)

        keys_N = hash_index.text_keys(*buffers(texts_N))
        rows_N = hash_index.find(self._index.slots_M, self._index.keys_R, keys_N, equal_values)
        self._share(rows_N, known_N, lambda positions: array.take(pa.array(positions)).to_pylist())
        return rows_N

    def _share(
        self, rows_N: Rows, known_N: NDArray[np.bool_], texts: Callable[[NDArray[np.intp]], list[bytes]]
    ) -> None:
        """Assign unknown values, in place, to the rows that they share.

        Args:
            rows_N: Row of each value, 0 for unknown values.
            known_N: Flag of each value, True if it is not null.
            texts: Function from positions of values to the values as text.
        """
        if not self.hash_rows:
            return
        (unknown,) = ((rows_N == 0) & known_N).nonzero()
        values = texts(unknown)
        row = {text: self.hash_from + share_hash(text) % self.hash_rows for text in set(values)}
        rows_N[unknown] = [row[text] for text in values]


def share_hash(text: bytes) -> int:
    """Return H(text), which is below 2^28."""
    return int(hashlib.md5(text, usedforsecurity=False).hexdigest()[:7], 16)
