"""Raw values -> rows of an embedding table, as data preparation gave them; for prediction and serving.

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

_STAND_INS = 1 << 15  # shared rows that values are sought for


class VocabularyLookup:
    """The vocabulary of one table. Opening it builds its index where there is none.

        row(x) = 0                                                  x null
                 the vocabulary's row of x                          x in it
                 capacity - hash_rows + H(x) mod hash_rows          x unknown, hash_rows > 0
                 0                                                  x unknown, hash_rows = 0

    H(x) is the integer that the first 7 hexadecimal digits of MD5 of x spell, x as decimal or as UTF-8 text.

    Args:
        file: Parquet, ordered by row.
        capacity: Allocated rows of the table; needed with `hash_rows`.
        hash_rows: Its last rows, which unknown values share.
        sealed: Flag that nothing may be written beside the file, as in a version of a model.

    Raises:
        DataError: the vocabulary is damaged, names a value twice, or has more rows than the table.
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
        """Copy the index into the memory of this process, which files that change later cannot harm."""
        self._index = self._index.in_memory()

    @property
    def kind(self) -> Kind:
        """Of the values."""
        return self._index.kind

    def __len__(self) -> int:
        """Values in the vocabulary."""
        return len(self._index.keys_R) - 1

    def rows(self, values: pa.Array | pa.ChunkedArray, place: str) -> pa.Array:
        """The row of each value.

        Args:
            values: Integers or texts as the vocabulary has them, a dictionary of these, or lists of these.
            place: File and column, for messages.

        Returns:
            int32 without nulls; of lists a large list of these, null where the list is null.

        Raises:
            DataError: values of another kind.
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
        wanted = "integers" if self._index.kind == "int" else "text"
        raise DataError(
            place,
            f"values of type {kind}",
            f"{self.file} has {wanted}",
            f"give {wanted}, as the logs had them from which the dataset was prepared",
        )

    def values(self, rows: Sequence[int]) -> list[Any]:
        """A value that has each row; None of row 0, and of rows that no value was found for.

        Of a row that unknown values share it is one of them, made up.
        """
        return [self._value(row) for row in rows]

    def _value(self, row: int) -> Any:
        texts = self._index.texts_R
        if 0 < row < len(self._index.keys_R):
            return int(self._index.keys_R[row]) if texts is None else texts[row].as_py().decode()
        return self._stand_ins.get(row) if row >= self.hash_from else None

    @cached_property
    def _stand_ins(self) -> dict[int, Any]:
        """Unknown values by the row that they share, as far as they are found in a few tries for each."""
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
            rows_N[raw_N >= 1 << 63] = 0  # as int64 they would be others
        if array.null_count:
            rows_N[~known_N] = 0
        self._share(rows_N, known_N, lambda at: [str(value).encode() for value in raw_N[at].tolist()])
        return rows_N

    def _text_rows(self, array: pa.Array) -> Rows:
        vocabulary = self._index.texts_R
        known_N = array.is_valid().to_numpy(zero_copy_only=False)
        sought = array
        if (long_N := np.diff(buffers(array)[0]) > self._longest).any():  # unknown, however much more there is of them
            sought = pc.replace_with_mask(array, pa.array(long_N), pa.scalar(None, array.type))

        def same(at: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
            assert vocabulary is not None
            equal = pc.equal(sought.take(pa.array(at)), vocabulary.take(pa.array(rows)))
            return equal.fill_null(False).to_numpy(zero_copy_only=False)

        keys_N = hash_index.text_keys(*buffers(sought))
        rows_N = hash_index.find(self._index.slots_M, self._index.keys_R, keys_N, same)
        self._share(rows_N, known_N, lambda at: array.take(pa.array(at)).to_pylist())
        return rows_N

    def _share(
        self, rows_N: Rows, known_N: NDArray[np.bool_], texts: Callable[[NDArray[np.intp]], list[bytes]]
    ) -> None:
        """Give unknown values the rows that they share."""
        if not self.hash_rows:
            return
        (at,) = ((rows_N == 0) & known_N).nonzero()
        found = texts(at)
        row = {text: self.hash_from + hashed(text) % self.hash_rows for text in set(found)}
        rows_N[at] = [row[text] for text in found]


def hashed(text: bytes) -> int:
    """H: below 2^28."""
    return int(hashlib.md5(text, usedforsecurity=False).hexdigest()[:7], 16)
