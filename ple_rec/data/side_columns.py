"""Whole columns of a split that a model does not read but an analysis needs, such as requests, users and propensities.

A column need not be in schema.toml. Its values are in the order of the files and their row groups, which is also the
order of the predictions of an evaluation in one process. A part, below, is a Parquet file of a split.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.data.arrow import BoolArray, IntArray
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.errors import DataError, UserError
from ple_rec.text.suggest import did_you_mean

Kind = Literal["integers", "numbers", "flags"]
_TYPE_TESTS: dict[Kind, tuple[Callable[[pa.DataType], bool], ...]] = {
    "integers": (pa.types.is_integer,),
    "numbers": (pa.types.is_integer, pa.types.is_floating),
    "flags": (pa.types.is_boolean, pa.types.is_integer),
}
_DESCRIPTIONS: dict[Kind, str] = {"integers": "integers", "numbers": "numbers", "flags": "booleans or integers"}


def codes(dataset: DatasetDirectory, split: Split, name: str, place: str) -> IntArray:
    """Return a column of integers as codes 0, 1, ... in ascending order of the integers, with -1 for null.

    Args:
        dataset: Dataset with the rows.
        split: Split of the dataset.
        name: Name of the column.
        place: Option that names the column, for messages.

    Raises:
        UserError: The split has no rows, a part does not have the column, or its type is not a type of integers.
        DataError: Parts have the column with different types, or a part is damaged.
    """
    column = _column(dataset, split, name, "integers", place)
    known_N = column.is_valid().to_numpy()
    codes_N = np.full(len(column), -1, np.int64)
    codes_N[known_N] = np.unique(column.drop_null().to_numpy(), return_inverse=True)[1]
    return codes_N


def numbers(
    dataset: DatasetDirectory, split: Split, name: str, place: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return a column of integers or floats as float64, with NaN for null.

    Arguments and errors are as in `codes`, but floats are allowed, too.
    """
    column = _column(dataset, split, name, "numbers", place).cast(pa.float64())
    return np.asarray(column.to_numpy(), np.float64)


def flags(dataset: DatasetDirectory, split: Split, name: str, place: str) -> BoolArray:
    """Return a column of booleans or integers as flags: True for an integer other than 0, False for null.

    Arguments and errors are as in `codes`, but booleans are allowed, too.
    """
    column = _column(dataset, split, name, "flags", place).cast(pa.bool_())
    return np.asarray(column.fill_null(False).to_numpy(), np.bool_)


def _column(dataset: DatasetDirectory, split: Split, name: str, kind: Kind, place: str) -> pa.ChunkedArray:
    file_of_type: dict[pa.DataType, str] = {}
    for file, schema in dataset.schemas(split).items():
        fitting = [field.name for field in schema if any(test(field.type) for test in _TYPE_TESTS[kind])]
        fix = did_you_mean(name, fitting, '"') or (
            f"use one of {', '.join(fitting)}" if fitting else "add such a column"
        )
        if name not in schema.names:
            raise UserError(place, f'got "{name}"', f"{file} has no such column", fix)
        if name not in fitting:
            rule = f"its type is {schema.field(name).type} in {file}, but it must hold {_DESCRIPTIONS[kind]}"
            raise UserError(place, f'got "{name}"', rule, fix)
        file_of_type.setdefault(schema.field(name).type, str(file))
    if len(file_of_type) > 1:
        (type_1, file_1), (type_2, file_2) = list(file_of_type.items())[:2]
        raise DataError(
            file_2, f"column {name!r} is {type_2}", f"in {file_1} it is {type_1}", "write one type into all parts"
        )
    chunks = [
        chunk for group in dataset.row_groups(split, []) for chunk in read_columns(group, [name]).column(name).chunks
    ]
    return pa.chunked_array(chunks, next(iter(file_of_type)))
