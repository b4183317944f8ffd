"""Checks of the columns by which an evaluation slices the rows of a split, before the run reads any rows.

A slice is the rows with one value of a column (`slices.py`). The checks read the schemas in the footers of the parts,
which are the Parquet files of the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import VOCAB_DIR, DatasetSchema
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.slices import SliceColumn, check_vocabulary, comparison_type
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
from ple_rec.text.suggest import did_you_mean

KEY = "evaluation.slices"
_RULE = "a row belongs to one slice, so the column must have one integer, bool, date or text per row"


def slice_columns(dataset: DatasetDirectory, split: Split, names: Sequence[str]) -> tuple[SliceColumn, ...]:
    """Check and return the columns by which rows are to be sliced. A column need not be in schema.toml.

    Args:
        dataset: Dataset with the rows.
        split: Split of the dataset.
        names: Names of the columns.

    Raises:
        UserError: The dataset does not have a column, or the type of a column is a list, a float or another type that
            `slices.comparison_type` does not support.
        DataError: A part of the split lacks a column, two parts have it with different types, or a vocabulary is
            damaged.
    """
    if not names:
        return ()
    schemas = dataset.schemas(split)
    types = {field.name: field.type for schema in schemas.values() for field in schema}
    fitting = [name for name, kind in types.items() if comparison_type(kind) is not None]
    choices = _choices(fitting, dataset.schema)
    tables = {feature.name: feature.table for feature in dataset.schema.sparse if not feature.bag}
    columns = []
    for name in dict.fromkeys(names):
        if name not in types and not _is_in_other_split(dataset, name):
            raise UserError(
                KEY,
                f"got {name!r}",
                f"the rows of {dataset.path / split} can be sliced by {choices or 'no column'}",
                did_you_mean(name, fitting) or ("use one of these" if fitting else "remove it from the list"),
            )
        kind = _common_kind(name, schemas, fitting, choices)
        vocabulary: Location | None = None
        if name in tables and pa.types.is_integer(kind):
            vocabulary = _vocabulary(dataset, f"{VOCAB_DIR}/{tables[name]}.parquet")
        columns.append(SliceColumn(name, kind, vocabulary))
    return tuple(columns)


def _vocabulary(dataset: DatasetDirectory, name: str) -> Location:
    """Check a vocabulary, and return its file or, for a store, its copy on this machine."""
    file = dataset.path / name
    if name in dataset.digests.files or file.is_file():
        file = dataset.digests.local_copy(name)
        check_vocabulary(file)
    return file


def _choices(names: Sequence[str], schema: DatasetSchema) -> str:
    """Return names of columns as text. A column that marks the sample space of tasks is followed by their names."""
    tasks_by_column = {name: [task.name for task in schema.tasks if task.space == name] for name in names}
    return ", ".join(
        f"{name} (sample space of {', '.join(tasks)})" if (tasks := tasks_by_column[name]) else name for name in names
    )


def _common_kind(name: str, schemas: Mapping[Location, pa.Schema], fitting: Sequence[str], choices: str) -> pa.DataType:
    """Return the type (`slices.comparison_type`) that a column has in all parts; int64 if it has only nulls.

    Raises:
        UserError: The type of the column is not supported.
        DataError: A part lacks the column, or two parts have different types.
    """
    kinds: dict[Location, pa.DataType] = {}
    for file, schema in schemas.items():
        if name not in schema.names:
            fix = "write the column into every part of this split, or slice by another one"
            raise DataError(str(file), f"no column {name}", f"{KEY} names it", fix)
        column_type = schema.field(name).type
        kind = comparison_type(column_type)
        if kind is None:
            content = "one of its values" if pa.types.is_nested(column_type) else "its bins, as integers or text,"
            alternatives = f", or use one of {choices}" if choices else ""
            suggestion = did_you_mean(name, fitting, suffix=" else ")
            fix = f"{suggestion}write {content} into another column{alternatives}"
            raise UserError(KEY, f"got {name!r}, which is {column_type} in {file}", _RULE, fix)
        # A column of type null has only missing values, which fit every type.
        if not pa.types.is_null(kind):
            kinds[file] = kind
            first, expected = next(iter(kinds.items()))
            if kind != expected:
                fix = "write one type into every part, or slice by another column"
                raise DataError(str(file), f"column {name!r} is {column_type}", f"in {first} it is {expected}", fix)
    return next(iter(kinds.values()), pa.int64())


def _is_in_other_split(dataset: DatasetDirectory, name: str) -> bool:
    """Return True if the first part of some split has the column. Then its name is not misspelt."""
    firsts = [file for split in SPLITS for file in dataset.files(split)[:1]]
    return any(name in _column_names(file) for file in firsts)


def _column_names(file: Location) -> list[str]:
    try:
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    except (OSError, ValueError, pa.ArrowException):
        # The file may belong to a split that the run does not read, so damage is no error here.
        return []
