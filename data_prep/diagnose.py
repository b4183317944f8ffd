"""Search for the file, and if possible the row, that made an engine fail, since DuckDB and Spark do not name them.

The pipeline and `data_prep.inputs.read` call `find_cause` after a failure, and show its result in place of the engine's
error.
"""

from __future__ import annotations

from collections.abc import Callable

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.expressions import is_overflow
from data_prep.failures import EngineError, shorten_message
from data_prep.sources.files import RawFile
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.table import shown_value
from data_prep.transforms.expression_scope import readable_values
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import DataError, PleRecError

_REWRITE_FILE = "copy or write the file again"


def find_cause(
    failure: EngineError, engine: Engine, resolved: Resolved, read_rows: Callable[[int, int], ir.Table]
) -> DataError:
    """Return an error that names what made an engine fail; `failure` itself if the search finds nothing.

    That is a damaged column of a row group, or a row whose integers exceed int64. The search reads all files again.

    Args:
        failure: Error of the engine.
        engine: Engine that failed.
        resolved: Configuration with its expressions and files.
        read_rows: Function that returns the rows of the log, joined to the side tables, whose positions lie in [first,
            last).
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    for name, table in resolved.tables.items():
        for file in table.files:
            if (error := find_damage(file, columns[name])) is not None:
                return error
    if failure.__cause__ is not None and is_overflow(failure.__cause__):
        try:
            return _find_overflow(engine, resolved, read_rows) or failure
        except PleRecError:
            return failure
    return failure


def find_damage(file: RawFile, columns: tuple[str, ...]) -> DataError | None:
    """Return the error of the first damage in a file, with row group and column; None if there is none.

    Damage is a page that cannot be read, another number of rows than in the footer, or a text that is not UTF-8.
    """
    stored = [column for column in columns if column not in file.partitions]
    where = file.display_name
    try:
        with open_raw_parquet(file.path, page_checksum_verification=True) as parquet:
            for group, rows in enumerate(file.row_groups):
                for column in stored:
                    where = f"{file.display_name}, row group {group}, column {column!r}"
                    read = parquet.read_row_group(group, [column], use_threads=False)
                    if read.num_rows != rows:
                        return DataError(where, f"{read.num_rows:,} rows", f"the footer counts {rows:,}", _REWRITE_FILE)
                    if (bad := _find_invalid_text(read[column])) is not None:
                        row, text = bad
                        fix = "write the column as UTF-8, or as an integer"
                        return DataError(f"{where}, row {row}", f"got {text}", "text is UTF-8", fix)
    except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError) as error:
        return DataError(
            where, f"the page is damaged ({shorten_message(error)})", "every page can be read", _REWRITE_FILE
        )
    return None


def _find_invalid_text(column: pa.ChunkedArray) -> tuple[int, str] | None:
    """Return number and value of the first row of a row group whose text is not UTF-8; None if all texts are valid."""
    start = 0
    for chunk in column.chunks:
        if not _is_valid(chunk):
            for i, value in enumerate(chunk):
                if not _is_valid(chunk.slice(i, 1)):
                    lists = pa.types.is_nested(chunk.type)
                    return start + i, "a list" if lists else shown_value(value.as_buffer().to_pybytes())
        start += len(chunk)
    return None


def _is_valid(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _find_overflow(engine: Engine, resolved: Resolved, read_rows: Callable[[int, int], ir.Table]) -> DataError | None:
    """Return the error of the first expression that exceeds int64, at its first such row; None if none does.

    The row is found by bisection, since an engine does not say which row failed.
    """
    raw = resolved.tables["log"]
    for key, expression in resolved.parsed.items():
        # `read_rows` has computed `log.where` already, and the day of a side table is computed from that table alone.
        if key == "log.where" or (key.startswith("sides.") and key.endswith(".day")):
            continue
        first, last = 0, raw.rows
        if not _overflows(engine, resolved, key, read_rows(first, last)):
            continue
        while last - first > 1:
            middle = (first + last) // 2
            is_in_first_half = _overflows(engine, resolved, key, read_rows(first, middle))
            first, last = (first, middle) if is_in_first_half else (middle, last)
        rows = read_rows(first, last)
        read = [name for name in expression.columns if name in rows.columns]
        (values,) = engine.fetch(rows.select(*read)).to_pylist()
        inputs = ", ".join(f"{name} = {shown_value(values[name])}" for name in read)
        return DataError(
            raw.locate(first),
            f"{key} `{expression.text}` exceeds int64 where {inputs}",
            "integers are computed in int64, from -2^63 to 2^63 - 1",
            "correct the value, or compute in floats: cast(x as double)",
        )
    return None


def _overflows(engine: Engine, resolved: Resolved, key: str, rows: ir.Table) -> bool:
    """Return whether an expression exceeds int64 in any of the rows."""
    try:
        value = resolved.build(key, readable_values(rows, resolved))
        value = value.length() if isinstance(value, ir.ArrayValue) else value
        # The engine must compute the value of every row for this maximum.
        texts = rows.select(value=value.cast("string"))
        engine.fetch(texts.aggregate(most=texts["value"].max()))
    except EngineError:
        return True
    except PleRecError:
        return False  # The expression reads a threshold that is not known yet.
    return False
