"""Look-up of raw values in a vocabulary, which gives the row of an embedding table that data preparation gave them.

A vocabulary lists the raw values that have a row of their own. A row that was freed, since its value expired, has no
value until an appended day assigns it to another one; no value is looked up as this row. Row 0 of every table is for
missing values, and for unknown ones unless the table has `hash_rows`: rows at its end that unknown values share by a
hash.

Shape suffixes: N values of one call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.schema import Table
from ple_rec.data import hash_index
from ple_rec.data.hash_index import Keys, Rows
from ple_rec.data.vocabulary_changes import VocabularyChanges, VocabularyOverlay
from ple_rec.data.vocabulary_index import Kind, is_text, open_index, text_buffers, to_binary
from ple_rec.errors import DataError

# Eight example values are invented for each hash row of a table, but for at most this number of rows.
_MAX_EXAMPLE_ROWS = 1 << 15


class VocabularyLookup:
    """Look-up in the vocabulary of one table. Its index on disk is built first if it is missing.

        row(x) = 0                                                  x null
                 the vocabulary's row of x                          x in the vocabulary
                 capacity - hash_rows + H(x) mod hash_rows          x unknown, hash_rows > 0
                 0                                                  x unknown, hash_rows = 0

    H(x) is the first 7 hexadecimal digits of the MD5 of x, as an integer. An integer x is hashed as decimal text, and
    text as UTF-8.

    Args:
        file: Vocabulary as a Parquet file, ordered by row; freed rows have null in place of a value.
        capacity: Number of allocated rows of the table; None if it has just row 0, the rows of the vocabulary
            and the hash rows.
        hash_rows: Number of rows at the end of the table that unknown values share.
        sealed: True if nothing may be written beside the file, as in a version of a model. A missing index is then
            built in the cache.

    Raises:
        DataError: The vocabulary is damaged, has a value twice, or has more values than the table has rows for them.
        UserError: The index cannot be written.
    """

    def __init__(self, file: Path, *, capacity: int | None = None, hash_rows: int = 0, sealed: bool = False) -> None:
        self.file, self.hash_rows = file, hash_rows
        self._index = open_index(file, sealed=sealed)
        self._overlay: VocabularyOverlay | None = None
        self._max_text_bytes = self._index.max_text_bytes()
        rows = len(self._index.keys_R)
        self.first_hash_row = (rows + hash_rows if capacity is None else capacity) - hash_rows
        if self.first_hash_row < rows:
            raise DataError(
                str(file),
                f"{rows - 1} values",
                f"schema.toml has {self.first_hash_row - 1} rows for them in the table",
                "use the vocabulary and the schema.toml of the same dataset",
            )

    @classmethod
    def of_table(cls, file: Path, table: Table, *, sealed: bool = False) -> VocabularyLookup:
        """Open the vocabulary of a table."""
        return cls(file, capacity=table.allocated_rows, hash_rows=table.hash_rows, sealed=sealed)

    def with_changes(self, changes: VocabularyChanges) -> VocabularyLookup:
        """Return the look-up in a newer version of the vocabulary, which shares the index with this one.

        Args:
            changes: Changes since this version.

        Raises:
            ValueError: The values are of another kind, a value has two rows, a row is beyond those for values, or the
                changes were made from another vocabulary than this one.
        """
        kind = "text" if is_text(changes.raw_E.type) else "int"
        if kind != self.kind:
            raise ValueError(f"values of type {kind} replace values of type {self.kind}")
        if len(changes.rows_E) and changes.rows_E[-1] >= self.first_hash_row:
            raise ValueError(f"row {changes.rows_E[-1]} is beyond the {self.first_hash_row} rows for values")
        self._check_changes(changes)
        newer = copy(self)
        newer._overlay = VocabularyOverlay(changes if self._overlay is None else changes.after(self._overlay.changes))
        newer._max_text_bytes = max(self._max_text_bytes, newer._overlay.max_text_bytes)
        # The invented values depend on the vocabulary.
        vars(newer).pop("_unknown_examples", None)
        return newer

    def _check_changes(self, changes: VocabularyChanges) -> None:
        """Refuse changes that were made from another vocabulary than this one."""
        new_E = changes.rows_E[changes.rows_E > len(self)]
        if len(new_E) and new_E[-1] != len(self) + len(new_E):
            raise ValueError(f"the {len(new_E)} new rows do not follow row {len(self)} one by one")
        before_E = self._values_of_rows(changes.rows_E)
        if not before_E.equals(changes.previous_E):
            pairs = zip(before_E.to_pylist(), changes.previous_E.to_pylist(), strict=True)
            i, (before, previous) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ValueError(f"row {changes.rows_E[i]} had {previous!r} before the changes, but here it has {before!r}")
        values = changes.raw_E.drop_null()
        rows_N = self._find_rows(values)
        left_N = (rows_N > 0) & ~np.isin(rows_N, changes.rows_E)
        if left_N.any():
            i = int(left_N.argmax())
            raise ValueError(f"{values[i].as_py()!r} gets another row, but still has row {rows_N[i]}")

    @property
    def whole_bytes(self) -> int:
        """Number of bytes of the vocabulary of the whole version, without changes."""
        return self._index.nbytes

    @property
    def overlay_bytes(self) -> int:
        """Number of bytes of the changes since a whole version; 0 without changes."""
        return 0 if self._overlay is None else self._overlay.nbytes

    def read_into_memory(self) -> None:
        """Copy the index into the memory of this process, so that later changes of the files do not affect it."""
        self._index = self._index.in_memory()

    @property
    def kind(self) -> Kind:
        """Kind of the raw values."""
        return self._index.kind

    def __len__(self) -> int:
        """Return the number of rows of the vocabulary, freed rows included."""
        rows = len(self._index.keys_R) - 1
        return rows if self._overlay is None else max(rows, self._overlay.last_row)

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
        arrow_type = array.type
        if pa.types.is_null(arrow_type):
            return pa.array(np.zeros(len(array), np.int32))
        if pa.types.is_dictionary(arrow_type):
            rows = self.rows(array.dictionary, place)
            return pc.fill_null(rows.take(array.indices), 0)
        if pa.types.is_nested(arrow_type) and hasattr(array, "value_lengths"):
            lengths = array.value_lengths()
            offsets = np.zeros(len(array) + 1, np.int64)
            np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
            inner = self.rows(array.flatten(), place)
            return pa.LargeListArray.from_arrays(pa.array(offsets), inner, mask=array.is_null())
        if self._index.kind == "int" and pa.types.is_integer(arrow_type):
            return pa.array(self._int_rows(array))
        if self._index.kind == "text" and is_text(arrow_type):
            return pa.array(self._text_rows(to_binary(array)))
        expected = "integers" if self._index.kind == "int" else "text"
        raise DataError(
            place,
            f"values of type {arrow_type}",
            f"{self.file} has {expected}",
            f"give {expected}, as in the logs from which the dataset was prepared",
        )

    def values(self, rows: Sequence[int]) -> list[Any]:
        """Return a raw value of each row, or None for row 0, freed rows and other rows of which no value is known.

        A row that unknown values share gets an example that has this row by its hash, such as "unknown-3".
        """
        values = self._values_of_rows(np.array(rows, np.int32)).to_pylist()
        return [
            self._unknown_examples.get(row) if row >= self.first_hash_row else value
            for row, value in zip(rows, values, strict=True)
        ]

    def _values_of_rows(self, rows_N: Rows) -> pa.Array:
        """Return the value of each row, large texts or int64; null for row 0, freed rows and those of no vocabulary."""
        entries_N = np.where(rows_N < len(self._index.keys_R), rows_N, 0)
        texts = self._index.texts_R
        values = pa.array(self._index.keys_R[entries_N])
        if texts is not None:
            values = texts.take(pa.array(entries_N)).cast(pa.large_string())
        if self._overlay is not None:
            values = self._overlay.replace_values(values, rows_N)
        # The index does not mark freed rows, but only the value of a row that is in use is looked up as this row.
        is_used = (self._find_rows(values) == rows_N) & (rows_N > 0)
        return pc.if_else(pa.array(is_used), values, pa.scalar(None, values.type))

    def _find_rows(self, values: pa.Array) -> Rows:
        """Return the row of each value, 0 for null and for a value that the vocabulary does not have.

        Args:
            values: Large texts or int64, as those of `VocabularyChanges`.
        """
        if self.kind == "text":
            texts = to_binary(values)
            return self._find(hash_index.text_keys(*text_buffers(texts)), texts)
        rows_N = self._find(values.fill_null(0).to_numpy())
        rows_N[values.is_null().to_numpy(zero_copy_only=False)] = 0
        return rows_N

    @cached_property
    def _unknown_examples(self) -> dict[int, Any]:
        """Invented values by the hash row that each has.

        There are eight times as many values as rows, but limited by `_MAX_EXAMPLE_ROWS`, so some rows may have none.
        """
        values: list[Any] = list(range(-1, -1 - 8 * min(self.hash_rows, _MAX_EXAMPLE_ROWS), -1))
        if self._index.texts_R is not None:
            values = [f"unknown{value}" for value in values]
        rows = self.rows(pa.array(values), str(self.file)).to_pylist()
        return {row: value for row, value in zip(rows, values, strict=True) if row >= self.first_hash_row}

    def _int_rows(self, array: pa.Array) -> Rows:
        valid_N = array.is_valid().to_numpy(zero_copy_only=False)
        raw_N = (array.fill_null(0) if array.null_count else array).to_numpy()
        rows_N = self._find(raw_N.astype(np.int64, copy=False))
        if raw_N.dtype == np.uint64:
            # These values exceed int64, so they are in no vocabulary; their cast above has made other values of them.
            rows_N[raw_N >= 1 << 63] = 0
        if array.null_count:
            rows_N[~valid_N] = 0
        self._assign_hash_rows(
            rows_N, valid_N, lambda positions: [str(value).encode() for value in raw_N[positions].tolist()]
        )
        return rows_N

    def _text_rows(self, array: pa.Array) -> Rows:
        valid_N = array.is_valid().to_numpy(zero_copy_only=False)
        texts_N = array
        # A text that is longer than all texts of the vocabulary is unknown. It is replaced by null, so that
        # it is not hashed.
        if (long_N := np.diff(text_buffers(array)[0]) > self._max_text_bytes).any():
            texts_N = pc.replace_with_mask(array, pa.array(long_N), pa.scalar(None, array.type))

        rows_N = self._find(hash_index.text_keys(*text_buffers(texts_N)), texts_N)
        self._assign_hash_rows(rows_N, valid_N, lambda positions: array.take(pa.array(positions)).to_pylist())
        return rows_N

    def _find(self, keys_N: Keys, texts_N: pa.Array | None = None) -> Rows:
        """Return the row of each value, 0 for values that are not in the vocabulary."""
        rows_N = self._index.find(keys_N, texts_N)
        if self._overlay is not None:
            self._overlay.replace_rows(rows_N, keys_N, texts_N)
        return rows_N

    def _assign_hash_rows(
        self, rows_N: Rows, valid_N: NDArray[np.bool_], get_texts: Callable[[NDArray[np.intp]], list[bytes]]
    ) -> None:
        """Replace row 0 of unknown values, in place, by the rows that they share, if the table has such rows.

        Args:
            rows_N: Row of each value, 0 for unknown and null values.
            valid_N: Flag of each value, True if it is not null.
            get_texts: Function from positions of values to the values as text.
        """
        if not self.hash_rows:
            return
        (unknown,) = ((rows_N == 0) & valid_N).nonzero()
        values = get_texts(unknown)
        row_by_text = {text: self.first_hash_row + hash_unknown(text) % self.hash_rows for text in set(values)}
        rows_N[unknown] = [row_by_text[text] for text in values]


def hash_unknown(text: bytes) -> int:
    """Return the hash H (see `VocabularyLookup`) of an unknown value as text. It is below 2^28."""
    return int(hashlib.md5(text, usedforsecurity=False).hexdigest()[:7], 16)
