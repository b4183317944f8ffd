"""Whole columns of a split that no model reads, such as requests, users and propensities.

A column need not be in schema.toml. Its values come in the order of the files and their row groups, as the predictions
of an evaluation in one process do.

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
_DESCRIPTIONS: dict[Kind, str] = {"integers": "integers", "numbers": "numbers", "flags": "true or false, or 1 and 0"}


def codes(dataset: DatasetDirectory, split: Split, name: str, place: str) -> IntArray:
    """Return a column of integers as codes 0, 1, ... in ascending order of the integers, with -1 for null.

    Args:
        dataset: Dataset with the rows.
        split: Split of the dataset.
        name: Name of the column.
        place: Option that names the column, for messages.

    Raises:
        UserError: A part does not have the column, or has it with a type that does not fit.
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
    """Return a column of numbers, NaN for null. Arguments and errors: as in `codes`."""
    column = _column(dataset, split, name, "numbers", place).cast(pa.float64())
    return np.asarray(column.to_numpy(), np.float64)


def flags(dataset: DatasetDirectory, split: Split, name: str, place: str) -> BoolArray:
    """Return a column of flags: true for numbers other than 0, false for null. Arguments and errors: as in `codes`."""
    column = _column(dataset, split, name, "flags", place).cast(pa.bool_())
    return np.asarray(column.fill_null(False).to_numpy(), np.bool_)


def _column(dataset: DatasetDirectory, split: Split, name: str, kind: Kind, place: str) -> pa.ChunkedArray:
    file_of_type: dict[pa.DataType, str] = {}
    for file, schema in dataset.schemas(split).items():
        fitting = [field.name for field in schema if any(test(field.type) for test in _TYPE_TESTS[kind])]
        fix = did_you_mean(name, fitting, '"') or f"use one of {', '.join(fitting) or 'none: there is none'}"
        if name not in schema.names:
            raise UserError(place, f'got "{name}"', f"{file} has no such column", fix)
        if name not in fitting:
            rule = f"it is {schema.field(name).type} in {file}, and has to hold {_DESCRIPTIONS[kind]}"
            raise UserError(place, f'got "{name}"', rule, fix)
        file_of_type.setdefault(schema.field(name).type, str(file))
    if len(file_of_type) > 1:
        (one, first), (other, second) = list(file_of_type.items())[:2]
        raise DataError(
            second, f"column {name!r} is {other}", f"in {first} it is {one}", "write one type into all parts"
        )
    chunks = [
        chunk for group in dataset.row_groups(split, []) for chunk in read_columns(group, [name]).column(name).chunks
    ]
    return pa.chunked_array(chunks, next(iter(file_of_type)))
