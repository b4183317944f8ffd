"""Rows of embedding tables that were assigned to other values after an earlier dataset of the lineage.

A dataset of an appended day keeps the rows of its parent's values, but a value that has expired loses its row, and a
new value may get it. The column `day` of DIR/vocab/<table>.parquet has the day on which a row was assigned to its
value. It is null for a freed row, and for a row that was assigned by a dataset without such days.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.schema import VOCAB_DAY, VOCAB_DIR
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.vocabulary_index import explain_damage
from ple_rec.storage.arrow import open_parquet

_EPOCH = np.datetime64("1970-01-01")


def rows_assigned_after(dataset: DatasetDirectory, fingerprint: str) -> dict[str, NDArray[np.int32]]:
    """Return the rows whose values got them after an earlier dataset of the lineage, in ascending order.

    The day of the earlier dataset is not known if an older version of ple_rec prepared it. Then every day that a
    vocabulary has is later, so all rows with a day are returned.

    Args:
        dataset: Dataset whose vocabularies are read.
        fingerprint: Fingerprint of this dataset, or of an ancestor.

    Returns:
        Rows by table; tables without such rows are left out. The result is empty for the fingerprint of the dataset
        itself.

    Raises:
        DataError: A vocabulary is damaged.
        ValueError: The fingerprint is not that of this dataset or of an ancestor.
    """
    schema = dataset.schema
    if fingerprint not in schema.lineage():
        raise ValueError(f"{fingerprint!r} is neither the fingerprint of {dataset.path} nor of an ancestor")
    if fingerprint == schema.fingerprint:
        return {}
    day = schema.lineage_days().get(fingerprint)
    after = None if day is None else int((np.datetime64(day) - _EPOCH).astype(np.int64))
    rows = {table.name: _rows_of_table(dataset, table.name, after) for table in schema.tables}
    return {table: rows_N for table, rows_N in rows.items() if len(rows_N)}


def _rows_of_table(dataset: DatasetDirectory, table: str, after: int | None) -> NDArray[np.int32]:
    """Return the rows of a vocabulary with a day of assignment, or with one after the day `after`."""
    name = f"{VOCAB_DIR}/{table}.parquet"
    pieces = [np.zeros(0, np.int32)]
    if name in dataset.digests.files or (dataset.path / name).is_file():
        file = dataset.digests.local_copy(name)
        with explain_damage(file), open_parquet(file) as vocabulary:
            if VOCAB_DAY in vocabulary.schema_arrow.names:
                for batch in vocabulary.iter_batches(columns=["row", VOCAB_DAY]):
                    days = batch.column(VOCAB_DAY)
                    chosen = days.is_valid() if after is None else pc.greater(days, after)
                    pieces.append(batch.column("row").filter(chosen).to_numpy())
    return np.concatenate(pieces)
