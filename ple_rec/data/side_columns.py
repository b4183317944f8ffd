"""Columns of a split that no model reads, whole and in the order of its rows: of requests, users, propensities.

Any column of the parts will do, whether or not schema.toml names it. The order is that of the files and their row
groups, in which an evaluation in one process gives its rows.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.data.arrow import BoolArray, IntArray
from ple_rec.data.dataset import Dataset, read_columns
from ple_rec.errors import DataError, UserError
from ple_rec.text.suggest import did_you_mean

Kind = Literal["integers", "numbers", "flags"]
_FITS: dict[Kind, tuple[Callable[[pa.DataType], bool], ...]] = {
    "integers": (pa.types.is_integer,),
    "numbers": (pa.types.is_integer, pa.types.is_floating),
    "flags": (pa.types.is_boolean, pa.types.is_integer),
}
_HOLDS: dict[Kind, str] = {"integers": "integers", "numbers": "numbers", "flags": "true or false, or 1 and 0"}


def codes(dataset: Dataset, split: Split, name: str, place: str) -> IntArray:
    """A column of integers as numbers from 0, ascending as they do; -1 where it is null.

    Args:
        dataset: Whose rows.
        split: Of the dataset.
        name: Of the column.
        place: That asks for it, for messages.

    Raises:
        UserError: no such column in the parts, or one of another type.
        DataError: parts that hold it as other types, or a damaged one.
    """
    column = _column(dataset, split, name, "integers", place)
    known_N = column.is_valid().to_numpy()
    codes_N = np.full(len(column), -1, np.int64)
    codes_N[known_N] = np.unique(column.drop_null().to_numpy(), return_inverse=True)[1]
    return codes_N


def numbers(dataset: Dataset, split: Split, name: str, place: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A column of numbers, NaN where it is null.

    Args: and errors as `codes`.
    """
    column = _column(dataset, split, name, "numbers", place).cast(pa.float64())
    return np.asarray(column.to_numpy(), np.float64)


def flags(dataset: Dataset, split: Split, name: str, place: str) -> BoolArray:
    """Where a column is true, or another number than 0; null is false.

    Args: and errors as `codes`.
    """
    column = _column(dataset, split, name, "flags", place).cast(pa.bool_())
    return np.asarray(column.fill_null(False).to_numpy(), np.bool_)


def _column(dataset: Dataset, split: Split, name: str, kind: Kind, place: str) -> pa.ChunkedArray:
    found: dict[pa.DataType, str] = {}
    for file, schema in dataset.schemas(split).items():
        fitting = [field.name for field in schema if any(fits(field.type) for fits in _FITS[kind])]
        fix = did_you_mean(name, fitting, '"') or f"use one of {', '.join(fitting) or 'none: there is none'}"
        if name not in schema.names:
            raise UserError(place, f'got "{name}"', f"{file} has no such column", fix)
        if name not in fitting:
            rule = f"it is {schema.field(name).type} in {file}, and has to hold {_HOLDS[kind]}"
            raise UserError(place, f'got "{name}"', rule, fix)
        found.setdefault(schema.field(name).type, str(file))
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise DataError(
            second, f"column {name!r} is {other}", f"in {first} it is {one}", "write one type into all parts"
        )
    chunks = [
        chunk for group in dataset.row_groups(split, []) for chunk in read_columns(group, [name]).column(name).chunks
    ]
    return pa.chunked_array(chunks, next(iter(found)))
