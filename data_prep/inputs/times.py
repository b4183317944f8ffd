"""Read time columns of a log from its files, with the files' type, zone and text, since engines return times in UTC.

Id columns, which a prediction copies from the log to its output, have to look there as they do in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from data_prep.failures import shorten_message
from data_prep.inputs.columns import log_column
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.table import RawFile, RawTable
from ple_rec.config.prep import LogConfig, PrepConfig
from ple_rec.errors import DataError, Option

_NO_CHANGES_RULE = "raw files stay as they are while they are read"


@dataclass(frozen=True)
class RawTimeColumn:
    """Time column of a log, which is read from the files without an engine.

    Args:
        table: Files of the log. Text files are converted to Parquet in such a way that this column stays text.
        name: Name of the column.
    """

    table: RawTable
    name: str

    def read_rows(self, first: int, last: int) -> pa.ChunkedArray:
        """Read the rows whose positions lie in [first, last), in the type that the column has in the first file.

        Raises:
            DataError: A file cannot be read.
        """
        kind = self._read(self.table.files[0], []).type
        chunks: list[pa.Array] = []
        for file, start in zip(self.table.files, self.table.starts, strict=True):
            begin, end = max(first - start, 0), min(last - start, file.rows)
            if begin < end:
                groups, before = _row_groups_of(file.row_groups, begin, end)
                chunks += self._read(file, groups).slice(begin - before, end - begin).cast(kind).chunks
        return pa.chunked_array(chunks, kind)

    def _read(self, file: RawFile, groups: Sequence[int]) -> pa.ChunkedArray:
        try:
            with open_raw_parquet(file.path, page_checksum_verification=True) as parquet:
                return parquet.read_row_groups(groups, [self.name], use_threads=False)[self.name]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            place, value = f"{file.display_name}, column {self.name!r}", f"cannot be read ({shorten_message(error)})"
            raise DataError(place, value, "every page can be read", "copy or write the file again") from error


def _row_groups_of(sizes: Sequence[int], begin: int, end: int) -> tuple[list[int], int]:
    """Return the row groups that contain the rows [begin, end) of a file, and the number of rows before them."""
    groups, before, group_start = [], 0, 0
    for i, size in enumerate(sizes):
        if group_start < end and group_start + size > begin:
            groups.append(i)
        elif not groups:
            before += size
        group_start += size
    return groups, before


def find_raw_times(
    config: PrepConfig, ids: Mapping[str, str], raw: RawTable, find: Callable[[LogConfig], RawTable]
) -> dict[str, RawTimeColumn]:
    """Return those id columns that are time columns of the log, by name.

    Args:
        config: Configuration of the preparation, with the log that is read.
        ids: Expressions of the id columns, by name.
        raw: Files of the log; text files are converted to Parquet with times in UTC.
        find: Function that finds the files of a log, and converts text files to Parquet. It is called if the log has
            text files, with a configuration by which the time columns stay text.

    Raises:
        DataError: A text file has changed since it was converted for `raw`.
    """
    columns = {name: log_column(config, text, raw) for name, text in ids.items()}
    times = {name: c for name, c in columns.items() if c is not None and pt.is_timestamp(raw.schema.field(c).type)}
    table = raw
    if times and raw.files[0].converted:
        csv = config.log.csv
        types = {**csv.types, **dict.fromkeys(times.values(), "string")}
        table = find(config.log.model_copy(update={"csv": csv.model_copy(update={"types": types})}))
        for before, file in zip(raw.files, table.files, strict=True):
            if before.identity != file.identity:
                raise DataError(
                    file.display_name,
                    "it has changed while it was read",
                    _NO_CHANGES_RULE,
                    f"run again with {Option.OVERWRITE}",
                )
    return {name: RawTimeColumn(table, column) for name, column in times.items()}
