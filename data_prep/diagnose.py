"""Where in the raw files an engine came to grief: it says what, and not in which row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import Engine
from data_prep.engines.failures import EngineError, shortened
from data_prep.expressions import overflowed
from data_prep.resolve import Resolved
from data_prep.sources.files import RawFile
from data_prep.sources.table import opened, shown_value
from data_prep.words import names_of
from ple_rec.errors import DataError, PleRecError

_AGAIN = "copy or write the file again"


def diagnosed(
    failure: EngineError, engine: Engine, resolved: Resolved, rows_of: Callable[[int, int], ir.Table]
) -> DataError:
    """A better error than an engine's own, where one can be found; slow, for it reads the files again.

    Args:
        failure: What the engine said.
        engine: The engine.
        resolved: The configuration, with its files.
        rows_of: The joined rows whose positions lie in a range.
    """
    for table, columns in (
        (t, resolved.log_columns if n == "log" else resolved.side_columns[n]) for n, t in resolved.tables.items()
    ):
        for file in table.files:
            if (found := damage(file, columns)) is not None:
                return found
    if failure.__cause__ is not None and overflowed(failure.__cause__):
        try:
            return _overflow(engine, resolved, rows_of) or failure
        except PleRecError:
            return failure
    return failure


def damage(file: RawFile, columns: tuple[str, ...]) -> DataError | None:
    """What is wrong with the pages of a file, by row group and column."""
    kept = [column for column in columns if column not in file.partitions]
    where = file.shown
    try:
        with pq.ParquetFile(opened(file), page_checksum_verification=True) as parquet:
            for group, rows in enumerate(file.row_groups):
                for column in kept:
                    where = f"{file.shown}, row group {group}, column {column!r}"
                    read = parquet.read_row_group(group, [column], use_threads=False)
                    if read.num_rows != rows:
                        return DataError(where, f"{read.num_rows:,} rows", f"the footer counts {rows:,}", _AGAIN)
                    if (bad := _not_utf8(read[column])) is not None:
                        row, text = bad
                        fix = "write the column as UTF-8, or as an integer"
                        return DataError(f"{where}, row {row}", f"got {text}", "text is UTF-8", fix)
    except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError) as error:
        return DataError(where, f"the page is damaged ({shortened(error)})", "every page can be read", _AGAIN)
    return None


def _not_utf8(column: pa.ChunkedArray) -> tuple[int, str] | None:
    """The first row whose text is no UTF-8, and its bytes."""
    start = 0
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)
        except pa.ArrowInvalid:
            for i in range(len(chunk)):
                try:
                    chunk.slice(i, 1).validate(full=True)
                except pa.ArrowInvalid:
                    one = chunk[i]
                    return start + i, shown_value(
                        one.as_buffer().to_pybytes() if hasattr(one, "as_buffer") else "a list"
                    )
            raise
        start += len(chunk)
    return None


def _overflow(engine: Engine, resolved: Resolved, rows_of: Callable[[int, int], ir.Table]) -> DataError | None:
    """The first row, of the first expression, that exceeds int64."""
    raw = resolved.tables["log"]
    for key, expression in resolved.parsed.items():
        if key == "log.where" or (key.startswith("sides.") and key.endswith(".day")):
            continue

        def breaks(first: int, last: int, key: str = key) -> bool:
            rows = rows_of(first, last)
            try:
                value = resolved.build(key, names_of(rows, resolved))
                value = value.length() if isinstance(value, ir.ArrayValue) else value
                made = rows.select(value=value.cast("string"))
                engine.fetch(made.aggregate(most=made["value"].max()))
            except EngineError:
                return True
            except PleRecError:
                return False  # it reads what is not there yet
            return False

        first, last = 0, raw.rows
        if not breaks(first, last):
            continue
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if breaks(first, middle) else (middle, last)
        rows = rows_of(first, last)
        read = [name for name in expression.columns if name in rows.columns]
        values: Mapping[str, object] = engine.fetch(
            rows.select(**{f"c{i}": rows[c] for i, c in enumerate(read)})
        ).to_pylist()[0]
        shown = ", ".join(f"{name} = {shown_value(values[f'c{i}'])}" for i, name in enumerate(read))
        return DataError(
            raw.locate(first),
            f"{key} `{expression.text}` exceeds int64 where {shown}",
            "integers are computed in int64, from -2^63 to 2^63 - 1",
            "correct the value, or compute in floats: cast(x as double)",
        )
    return None
