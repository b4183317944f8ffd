"""Checks of the columns by which the rows of a split are sliced, from the footers of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import VOCAB_DIR, DatasetSchema
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.slices import SliceColumn, check_vocabulary, kind_of
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
from ple_rec.text.suggest import did_you_mean

KEY = "evaluation.slices"
_RULE = "a row falls into one slice, so the column holds one integer, bool, date or text a row"


def slice_columns(dataset: DatasetDirectory, split: Split, names: Sequence[str]) -> tuple[SliceColumn, ...]:
    """Check and return the columns by which rows are to be sliced. A column need not be in schema.toml.

    Args:
        dataset: Dataset with the rows.
        split: Split of the dataset.
        names: Names of the columns.

    Raises:
        UserError: The dataset does not have a column, or a column's rows do not have one plain value each.
        DataError: A part of the split lacks a column, two parts have it with different types, or a vocabulary is
            damaged.
    """
    if not names:
        return ()
    schemas = dataset.schemas(split)
    types = {field.name: field.type for schema in schemas.values() for field in schema}
    fitting = [name for name, kind in types.items() if kind_of(kind) is not None]
    choices = _choices(fitting, dataset.schema)
    tables = {feature.name: feature.table for feature in dataset.schema.sparse if not feature.bag}
    columns = []
    for name in dict.fromkeys(names):
        if name not in types and not _is_in_other_split(dataset, name):
            raise UserError(
                KEY,
                f"got {name!r}",
                f"the rows of {dataset.path / split} can be sliced by {choices or 'no column'}",
                did_you_mean(name, fitting) or ("use one of these" if fitting else "slice by none"),
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
    """Return names of columns as text, those of sample spaces with their tasks."""
    tasks = {name: [task.name for task in schema.tasks if task.space == name] for name in names}
    return ", ".join(f"{name} (sample space of {', '.join(of)})" if (of := tasks[name]) else name for name in names)


def _common_kind(name: str, schemas: Mapping[Location, pa.Schema], fitting: Sequence[str], choices: str) -> pa.DataType:
    """Return the kind (`kind_of`) that a column has in all parts.

    Raises:
        UserError: The rows of the column do not have one plain value each.
        DataError: A part lacks the column, or two parts have different kinds.
    """
    kinds: dict[Location, pa.DataType] = {}
    for file, schema in schemas.items():
        if name not in schema.names:
            fix = "write the column into every part of this split, or slice by another one"
            raise DataError(str(file), f"no column {name}", f"{KEY} names it", fix)
        column_type = schema.field(name).type
        kind = kind_of(column_type)
        if kind is None:
            instead = "one of its values" if pa.types.is_nested(column_type) else "its bins, as integers or text,"
            others = f", or use one of {choices}" if choices else ""
            near = did_you_mean(name, fitting, end=" else ")
            fix = f"{near}write {instead} into a column of its own{others}"
            raise UserError(KEY, f"got {name!r}, which is {column_type} in {file}", _RULE, fix)
        # A column of type null has only missing values, which fit every kind.
        if not pa.types.is_null(kind):
            kinds[file] = kind
            first, expected = next(iter(kinds.items()))
            if kind != expected:
                fix = "write one type into every part, or slice by another column"
                raise DataError(str(file), f"column {name!r} is {column_type}", f"in {first} it is {expected}", fix)
    return next(iter(kinds.values()), pa.int64())


def _is_in_other_split(dataset: DatasetDirectory, name: str) -> bool:
    """Return True if the first part of some split has the column, so that its name is no typing error."""
    firsts = [file for split in SPLITS for file in dataset.files(split)[:1]]
    return any(name in _column_names(file) for file in firsts)


def _column_names(file: Location) -> list[str]:
    try:
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    except (OSError, ValueError, pa.ArrowException):
        # The file may belong to a split that the run does not need, so its damage is no error here.
        return []
