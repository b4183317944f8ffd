"""Which columns of a split its rows can be sliced by, as far as the footers of its parts tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import VOCAB_DIR, DatasetSchema
from ple_rec.data.dataset import Dataset
from ple_rec.data.slices import SliceColumn, check_vocabulary, kind_of
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
from ple_rec.text.suggest import did_you_mean

KEY = "evaluation.slices"
_RULE = "a row falls into one slice, so the column holds one integer, bool, date or text a row"


def slice_columns(dataset: Dataset, split: Split, names: Sequence[str]) -> tuple[SliceColumn, ...]:
    """The columns of those names, checked; any column of the parts will do, whether or not schema.toml names it.

    Args:
        dataset: Whose rows.
        split: Of the dataset.
        names: Of the columns.

    Raises:
        UserError: a column that the dataset does not have, or whose rows have not one plain value each.
        DataError: a column that a part of the split lacks, or that two parts hold as other types; a damaged vocabulary.
    """
    if not names:
        return ()
    schemas = dataset.schemas(split)
    types = {field.name: field.type for schema in schemas.values() for field in schema}
    fitting = [name for name, kind in types.items() if kind_of(kind) is not None]
    listed = _listed(fitting, dataset.schema)
    tables = {feature.name: feature.table for feature in dataset.schema.sparse if not feature.bag}
    columns = []
    for name in dict.fromkeys(names):
        if name not in types and not _elsewhere(dataset, name):
            raise UserError(
                KEY,
                f"got {name!r}",
                f"the rows of {dataset.path / split} can be sliced by {listed or 'no column'}",
                did_you_mean(name, fitting) or ("use one of these" if fitting else "slice by none"),
            )
        kind = _kind(name, schemas, fitting, listed)
        vocabulary: Location | None = None
        if name in tables and pa.types.is_integer(kind):
            vocabulary = _vocabulary(dataset, f"{VOCAB_DIR}/{tables[name]}.parquet")
        columns.append(SliceColumn(name, kind, vocabulary))
    return tuple(columns)


def _vocabulary(dataset: Dataset, name: str) -> Location:
    """Return the file of a vocabulary, a store's as its copy on this machine, and refuse a damaged one."""
    file = dataset.path / name
    if name in dataset.digests.files or file.is_file():
        file = dataset.digests.local_copy(name)
        check_vocabulary(file)
    return file


def _listed(names: Sequence[str], schema: DatasetSchema) -> str:
    """Return the names of columns, those of sample spaces with the tasks whose labels exist there."""
    tasks = {name: [task.name for task in schema.tasks if task.space == name] for name in names}
    return ", ".join(f"{name} (sample space of {', '.join(of)})" if (of := tasks[name]) else name for name in names)


def _kind(name: str, schemas: Mapping[Location, pa.Schema], fitting: Sequence[str], listed: str) -> pa.DataType:
    """The one kind that a column has in every part."""
    kinds: dict[Location, pa.DataType] = {}
    for file, schema in schemas.items():
        if name not in schema.names:
            fix = "write the column into every part of this split, or slice by another one"
            raise DataError(str(file), f"no column {name}", f"{KEY} names it", fix)
        found = schema.field(name).type
        kind = kind_of(found)
        if kind is None:
            instead = "one of its values" if pa.types.is_nested(found) else "its bins, as integers or text,"
            others = f", or use one of {listed}" if listed else ""
            near = did_you_mean(name, fitting, end=" else ")
            fix = f"{near}write {instead} into a column of its own{others}"
            raise UserError(KEY, f"got {name!r}, which is {found} in {file}", _RULE, fix)
        if not pa.types.is_null(kind):  # else every row of this part is missing
            kinds[file] = kind
            first, expected = next(iter(kinds.items()))
            if kind != expected:
                fix = "write one type into every part, or slice by another column"
                raise DataError(str(file), f"column {name!r} is {found}", f"in {first} it is {expected}", fix)
    return next(iter(kinds.values()), pa.int64())


def _elsewhere(dataset: Dataset, name: str) -> bool:
    """Whether the first part of a split has the column, so that its name is no mistake."""
    firsts = [file for split in SPLITS for file in dataset.files(split)[:1]]
    return any(name in _names(file) for file in firsts)


def _names(file: Location) -> list[str]:
    try:
        with open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    except (OSError, ValueError, pa.ArrowException):  # the split at hand has been read; this one is not needed
        return []
