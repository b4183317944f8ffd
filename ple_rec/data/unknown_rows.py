"""Rows of embedding tables that are read for unknown values: row 0, or the row of the hash of the value.

Shape suffixes: R rows of a table.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.schema import VOCAB_DIR, Table
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.lookup import hash_unknown
from ple_rec.data.vocabulary_index import explain_damage
from ple_rec.storage.arrow import open_parquet

# Number of rows of a vocabulary that are read at a time.
_READ_ROWS = 1 << 20


def rows_of_unknown(dataset: DatasetDirectory, table: Table, row_R: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return for each row of a table the row that its value would have if the value were unknown.

    This is row 0, or in a table with hash rows the row that `VocabularyLookup` gives to the hash of the value.

    Args:
        dataset: Dataset with the vocabulary of the table.
        table: Table of the dataset.
        row_R: Rows of the vocabulary that have a value, ascending.

    Raises:
        DataError: The vocabulary is damaged.
    """
    unknown_R = np.zeros(len(row_R), np.int32)
    if not table.hash_rows or not len(row_R):
        return unknown_R
    first_hash_row = table.allocated_rows - table.hash_rows
    file = dataset.digests.local_copy(f"{VOCAB_DIR}/{table.name}.parquet")
    first_row = 1
    with explain_damage(file), open_parquet(file) as vocabulary:
        for batch in vocabulary.iter_batches(_READ_ROWS, columns=["raw"]):
            place_R = slice(*np.searchsorted(row_R, (first_row, first_row + len(batch))))
            values = batch.column("raw").take(pa.array(row_R[place_R] - first_row)).to_pylist()
            unknown_R[place_R] = [
                first_hash_row + hash_unknown(str(value).encode()) % table.hash_rows for value in values
            ]
            first_row += len(batch)
    return unknown_R
