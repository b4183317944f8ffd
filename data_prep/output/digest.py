"""Digest of the content of a table, which does not depend on the format or the file that it was read from."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc


def content_sha256(table: pa.Table) -> str:
    """Return the SHA-256 of a table as text: cells joined by commas, one line a row, a null as an empty cell.

    The names of the columns are left out.

    Args:
        table: Table with columns of strings or numbers.
    """
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=65_536):
        cells = [column.cast(pa.large_string()) for column in batch.columns]
        empty, comma, newline = (pa.scalar(text, pa.large_string()) for text in ("", ",", "\n"))
        lines = pc.binary_join_element_wise(*cells, comma, null_handling="replace", null_replacement="")
        lines = pc.binary_join_element_wise(lines, empty, newline)
        size = pc.sum(pc.binary_length(lines)).as_py()
        # The last buffer of a column of strings holds the characters of all rows one after another.
        digest.update(memoryview(lines.buffers()[2])[:size])
    return digest.hexdigest()
