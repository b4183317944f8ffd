"""Conversion of rows in memory, such as a DataFrame, to a Parquet file that `Run.predict` reads like raw logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.api.predictions import load_preparation
from ple_rec.errors import UserError
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_FIX = "give it one name, and values of one type that Arrow knows, such as all text or all numbers"


@dataclass(frozen=True)
class ColumnSelection:
    """Choice of the log columns that a prediction reads.

    Args:
        ids: Columns to copy to the output.
        without: Features that the run does not read.
        all_rows: True if the prediction ignores `log.where`.
    """

    ids: Sequence[str] = ()
    without: Collection[str] = ()
    all_rows: bool = False


def write_rows(data: object, file: Path, dataset: Location, selection: ColumnSelection) -> None:
    """Write rows to a Parquet file.

    A column that Parquet cannot hold is left out with a warning if the prediction does not read it. A column without
    any value has no type of its own, so it gets the type of the feature that reads it.

    Args:
        data: Rows as a `pyarrow.Table`, a DataFrame, a dict of columns, a list of dicts, or anything else that
            `pyarrow.table` takes.
        file: File to write.
        dataset: Directory of the dataset that the model was trained on.
        selection: Columns that the prediction reads.

    Raises:
        UserError: The data has none of these forms, or Parquet cannot hold a column that the prediction reads.
    """
    import pyarrow.parquet as pq

    if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        keys = dict.fromkeys(key for row in data for key in row)
        data = {key: [row.get(key) for row in data] for key in keys}
    table, problem = _try_table(data)
    if table is None:
        names, pick = columns_and_selector(data)
        columns_read = _columns_read(dataset, selection)
        problems = {name: reason for name in names if (reason := _try_table(pick([name]))[1])}
        rest = [name for name in names if name not in problems]
        if problems and rest:
            table, problem = _try_table(pick(rest))
        if table is None:
            forms = "a pyarrow.Table, a DataFrame, a dict of columns or a list of dicts"
            rule = f"it is a Dataset, a path, or rows as {forms}"
            raise UserError("data", f"got a {type(data).__name__} ({problem})", rule, "give one of these")
        for name, reason in problems.items():
            if name in columns_read:
                rule = f"it is read, and Parquet cannot hold it ({reason})"
                raise UserError("data", f"column {name!r} of a {type(data).__name__}", rule, _FIX)
        with print_messages("stderr"):
            for name, reason in problems.items():
                logger.warning("warning: the column %r is left out, since Parquet cannot hold it (%s)", name, reason)
    pq.write_table(_with_types(table, dataset), file)


def _try_table(data: Any) -> tuple[pa.Table | None, str]:
    """Return (table, "") if Arrow and Parquet can hold the data, else (None, reason)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.table(data)
        pq.ParquetWriter(pa.BufferOutputStream(), table.schema).close()
    # An integer beyond 64 bits raises OverflowError, and a duplicate column name KeyError.
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, pa.ArrowException) as error:
        return None, " ".join(str(error).split())
    return table, ""


def columns_and_selector(data: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the names of the columns, and a function that selects columns by name.

    For data that is neither a table, nor a mapping, nor a DataFrame, there are no names, and the function returns the
    data as it is.
    """
    # A pyarrow.Table has `column_names`.
    if hasattr(data, "column_names"):
        return list(data.column_names), data.select
    if isinstance(data, Mapping):
        return list(data), lambda names: {name: data[name] for name in names}
    # A DataFrame has `columns`.
    if hasattr(data, "columns"):
        return list(data.columns), lambda names: data[list(names)]
    return [], lambda _: data


def _with_types(table: pa.Table, dataset: Location) -> pa.Table:
    """Return a table in which a column without any value has the type of the feature that reads it.

    If no feature reads it directly, a column of Arrow's type null becomes text, unless an expression reads it.

    Args:
        table: Rows to predict.
        dataset: Directory of the dataset that the model was trained on.
    """
    import pyarrow as pa

    empty = [i for i, column in enumerate(table.columns) if column.null_count == len(column) > 0]
    types, others = _feature_types(dataset) if empty else ({}, set())
    for i in empty:
        name = table.column_names[i]
        new_type = types.get(name)
        if new_type is None and pa.types.is_null(table.column(i).type) and name not in others:
            # The model does not read the column, so its type does not matter.
            new_type = pa.string()
        if new_type is not None:
            table = table.set_column(i, name, pa.nulls(table.num_rows, new_type))
    return table


def _columns_read(dataset: Location, selection: ColumnSelection) -> set[str]:
    """Return the names of the log columns that a prediction reads.

    Args:
        dataset: Directory of the dataset that the model was trained on.
        selection: Choice of the columns.
    """
    from data_prep.inputs.columns import inputs_config
    from data_prep.transforms.resolve import resolve

    prep, place = load_preparation(dataset)
    if selection.all_rows:
        prep = prep.model_copy(update={"log": prep.log.model_copy(update={"where": None})})
    names = {feature.name for feature in (*prep.sparse, *prep.dense, *prep.vectors)}
    return {*selection.ids, *resolve(inputs_config(prep, names - {*selection.without}, {}), place).log_columns}


def _feature_types(dataset: Location) -> tuple[dict[str, pa.DataType], set[str]]:
    """Return the types of the log columns that features read directly, and the names of the other columns read.

    The other columns are read by expressions, from which no type follows.

    Args:
        dataset: Directory of the dataset that the model was trained on.
    """
    import pyarrow as pa

    from data_prep.transforms.resolve import resolve
    from ple_rec.config.load import load_schema
    from ple_rec.data.encode import Encoder

    prep, place = load_preparation(dataset)
    type_of_kind = {"int": pa.int64(), "text": pa.string(), "number": pa.float64()}
    types: dict[str, pa.DataType] = {}
    for number in prep.dense:
        types[number.source.strip('"')] = pa.float64()
    for vector in prep.vectors:
        types[vector.source.strip('"')] = pa.list_(pa.float64())
    encoder = Encoder(dataset, load_schema(dataset).sparse)
    for spec in prep.sparse:
        value_type = type_of_kind[encoder.features[spec.name].kind]
        types[spec.source.strip('"')] = pa.list_(value_type) if spec.bag else value_type
        if spec.weights is not None:
            types[spec.weights.strip('"')] = pa.list_(pa.float64())
    return types, {*resolve(prep, place).log_columns} - {*types}
