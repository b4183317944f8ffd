"""Changes of a vocabulary since an older version of it, and the look-up of the values that they concern.

Shape suffixes: E changed rows, N values of one call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ple_rec.data.hash_index import Keys, Rows
from ple_rec.data.vocabulary_index import index_in_memory, is_text


@dataclass(frozen=True)
class VocabularyChanges:
    """Rows of a vocabulary whose values differ from those of an older version.

    Args:
        rows_E: Rows, ascending.
        raw_E: Value of each row, integer or text; null if the row is free now.
        previous_E: Value of each row in the older version; null if the row was free.

    Raises:
        ValueError: The rows do not ascend from 1 on, or the columns do not fit each other.
    """

    rows_E: Rows
    raw_E: pa.Array
    previous_E: pa.Array

    def __post_init__(self) -> None:
        # Neighbours are compared, since their difference may be beyond int32.
        if len(self.rows_E) and (self.rows_E[0] < 1 or (self.rows_E[1:] <= self.rows_E[:-1]).any()):
            raise ValueError("the rows do not ascend from 1 on")
        for name in ("raw_E", "previous_E"):
            column = getattr(self, name)
            if len(column) != len(self.rows_E) or not (is_text(column.type) or pa.types.is_integer(column.type)):
                raise ValueError(f"{len(column)} values of type {column.type} for {len(self.rows_E)} rows")
            # Changes are merged and compared, so their types have to be the same.
            object.__setattr__(self, name, column.cast(pa.large_string() if is_text(column.type) else pa.int64()))
        if self.raw_E.type != self.previous_E.type:
            raise ValueError(f"raw is {self.raw_E.type}, and previous is {self.previous_E.type}")

    def after(self, older: VocabularyChanges) -> VocabularyChanges:
        """Return the changes since the version to which older changes apply; these changes come after them."""
        rows = np.concatenate([self.rows_E, older.rows_E])
        # NumPy returns the first place of each row. The newer change of a row comes first and has its value. In reverse
        # order, the older change comes first and has its previous value.
        rows_E, newer_E = np.unique(rows, return_index=True)
        _, older_E = np.unique(rows[::-1], return_index=True)
        raw = pa.concat_arrays([self.raw_E, older.raw_E])
        previous = pa.concat_arrays([self.previous_E, older.previous_E])
        return VocabularyChanges(rows_E, raw.take(pa.array(newer_E)), previous.take(pa.array(len(rows) - 1 - older_E)))


class VocabularyOverlay:
    """Look-up of the values that have gained, changed or lost their row.

    Args:
        changes: Changes since the version that the look-up of all other values has.

    Attributes:
        max_text_bytes: Number of bytes of the longest value; 0 for integers.

    Raises:
        ValueError: Two rows have the same value.
    """

    def __init__(self, changes: VocabularyChanges) -> None:
        self.changes = changes
        has_value_E = changes.raw_E.is_valid()
        without_row = changes.previous_E.filter(
            pc.and_not(changes.previous_E.is_valid(), pc.is_in(changes.previous_E, changes.raw_E))
        )
        self._index = index_in_memory(pa.concat_arrays([changes.raw_E.filter(has_value_E), without_row]))
        # Row of each entry of the index; its entry 0 is unused, and a value that has lost its row has row 0.
        rows = changes.rows_E[has_value_E.to_numpy(zero_copy_only=False)]
        self._rows = np.concatenate([np.zeros(1, np.int32), rows, np.zeros(len(without_row), np.int32)])
        self.max_text_bytes = self._index.max_text_bytes()

    @property
    def nbytes(self) -> int:
        """Number of bytes of the changes and their index."""
        columns = (self.changes.raw_E, self.changes.previous_E)
        arrays = (self.changes.rows_E, self._rows)
        return self._index.nbytes + sum(column.nbytes for column in columns) + sum(each.nbytes for each in arrays)

    @property
    def last_row(self) -> int:
        """Last changed row; 0 without changes."""
        return int(self.changes.rows_E[-1]) if len(self.changes.rows_E) else 0

    def replace_rows(self, rows_N: Rows, keys_N: Keys, texts_N: pa.Array | None) -> None:
        """Replace the rows of values that the changes concern, in place; 0 for one that has lost its row.

        Args:
            rows_N: Row of each value in the older version.
            keys_N: Keys of the values (`VocabularyIndex.find`).
            texts_N: Texts of the values; None for integers.
        """
        entries_N = self._index.find(keys_N, texts_N)
        (concerned,) = entries_N.nonzero()
        rows_N[concerned] = self._rows[entries_N[concerned]]

    def replace_values(self, values_N: pa.Array, rows_N: Rows) -> pa.Array:
        """Return values in which those of changed rows are replaced; null for a row that is free now.

        Args:
            values_N: Value of each row in the older version, of the type of the changes.
            rows_N: Row of each value.
        """
        is_changed_N = np.isin(rows_N, self.changes.rows_E)
        places = np.searchsorted(self.changes.rows_E, rows_N[is_changed_N])
        return pc.replace_with_mask(values_N, pa.array(is_changed_N), self.changes.raw_E.take(pa.array(places)))
