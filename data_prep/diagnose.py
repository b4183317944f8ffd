"""Search for the file and the row that made an engine fail, since an engine does not name them."""

from __future__ import annotations

from collections.abc import Callable

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.expressions import overflowed
from data_prep.failures import EngineError, shortened
from data_prep.sources.files import RawFile
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.table import shown_value
from data_prep.transforms.expression_scope import names_of
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import DataError, PleRecError

_AGAIN = "copy or write the file again"


def diagnosed(
    failure: EngineError, engine: Engine, resolved: Resolved, rows_of: Callable[[int, int], ir.Table]
) -> DataError:
    """Return an error that names the file and the row at fault, or else `failure`.

    The search is slow, since it reads the files again.

    Args:
        failure: Error of the engine.
        engine: Engine that failed.
        resolved: Configuration with its expressions and files.
        rows_of: Function that returns the joined rows whose positions lie in [first, last).
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    for name, table in resolved.tables.items():
        for file in table.files:
            if (error := damage(file, columns[name])) is not None:
                return error
    if failure.__cause__ is not None and overflowed(failure.__cause__):
        try:
            return _overflow(engine, resolved, rows_of) or failure
        except PleRecError:
            return failure
    return failure


def damage(file: RawFile, columns: tuple[str, ...]) -> DataError | None:
    """Return the error of the first damaged page of a file, with row group and column; None if all can be read."""
    stored = [column for column in columns if column not in file.partitions]
    where = file.shown
    try:
        with open_raw_parquet(file.path, page_checksum_verification=True) as parquet:
            for group, rows in enumerate(file.row_groups):
                for column in stored:
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
    """Return the first row whose text is no UTF-8, and its bytes; None if there is none."""
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


def _overflow(engine: Engine, resolved: Resolved, rows_of: Callable[[int, int], ir.Table]) -> DataError | None:
    """Return the error of the first expression that exceeds int64, at its first such row; None if there is none."""
    raw = resolved.tables["log"]
    for key, expression in resolved.parsed.items():
        if key == "log.where" or (key.startswith("sides.") and key.endswith(".day")):
            continue
        first, last = 0, raw.rows
        if not _overflows(engine, resolved, key, rows_of(first, last)):
            continue
        while last - first > 1:
            middle = (first + last) // 2
            half = _overflows(engine, resolved, key, rows_of(first, middle))
            first, last = (first, middle) if half else (middle, last)
        rows = rows_of(first, last)
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
        value = resolved.build(key, names_of(rows, resolved))
        value = value.length() if isinstance(value, ir.ArrayValue) else value
        # The maximum makes the engine compute every row.
        texts = rows.select(value=value.cast("string"))
        engine.fetch(texts.aggregate(most=texts["value"].max()))
    except EngineError:
        return True
    except PleRecError:
        return False  # The expression reads a threshold that is not known yet.
    return False
