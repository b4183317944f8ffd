"""Writer of a dataset directory from Arrow tables whose sparse columns are rows of embedding tables already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.output.digest import content_sha256
from data_prep.output.metadata import describe, parts_engine
from data_prep.output.parts import write_part
from data_prep.output.split_writer import MIN_ROW_GROUPS
from data_prep.output.stage import dataset_directory, is_there
from data_prep.output.writer import finish, prepared_recipe
from data_prep.stats import write_page
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import MAX_ROWS
from ple_rec.config.problems import ConfigError, check
from ple_rec.config.schema import (
    SCHEMA_VERSION,
    STATS_PAGE,
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
)
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.text.suggest import did_you_mean

FORMAT_VERSION = 3  # Raise it when the same tables would give other parts or normalisers.
_EVALUATED: tuple[Split, ...] = ("valid", "test")


def write_tables(
    out: Location,
    *,
    name: str,
    splits: Mapping[Split, pa.Table],
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
    tasks: Sequence[Task],
    tables: Mapping[str, int] | None = None,
    sample_weight: str | None = None,
    group: str | None = None,
    row_group_rows: int = 65_536,
    overwrite: bool = False,
) -> DatasetSchema:
    """Write a dataset directory; values that its reader would refuse are refused here.

    Columns that no argument names are left out. A null id becomes row 0, a NaN becomes null.

    Args:
        out: Path or address of the dataset directory: new, empty, or a dataset that may be replaced.
        name: Name of the dataset.
        splits: Rows of `train`, `valid` and `test`, in order; with `group`, `valid` and `test` are sorted by it.
        sparse: Columns of table rows, integers from 0 or lists of them. Row 0 is "out of vocabulary or missing".
        dense: Columns of raw numbers.
        tasks: Label columns, and `bool` columns for their sample spaces.
        tables: Rows of embedding tables by name, row 0 counted; by default the largest id of all splits + 1.
        sample_weight: Column of weights of the loss, at least 0.
        group: Column of integers, the same for the rows of one list or request.
        row_group_rows: Most rows of a row group; a split of 16 rows or more is cut into at least 16 row groups.
        overwrite: True to replace a dataset directory of other content, or a damaged one.

    Returns:
        Content of `schema.toml`.

    Raises:
        UserError: A split, a column or a table does not exist, names clash, or `out` may not be replaced.
        DataError: A value breaks a rule; the message names split, column and row.
    """
    prepared_recipe(out)  # A place that holds no dataset directory is refused before the rows are checked.
    _check_splits(splits)
    declared = _schema(
        name=name,
        tables=tuple(Table(name=table, rows=1) for table in dict.fromkeys(feature.table for feature in sparse)),
        sparse=tuple(sparse),
        dense=tuple(dense),
        tasks=tuple(tasks),
        sample_weight=sample_weight,
        group=group,
        splits={},
    )
    kinds = _kinds(declared)
    parts = {split: _part(f"splits[{split!r}]", splits[split], kinds, declared) for split in SPLITS}
    sizes = {split: max(1, min(row_group_rows, len(part) // MIN_ROW_GROUPS)) for split, part in parts.items()}
    rows = _table_rows(declared, parts, tables or {})
    if group is not None:  # Rows are sorted after the checks, whose messages count the rows of the caller.
        parts |= {split: _by_group(parts[split], group) for split in _EVALUATED}
    fields = declared.model_dump() | {
        "tables": tuple(Table(name=table, rows=count) for table, count in rows.items()),
        "splits": {
            split: SplitInfo(rows=len(part), row_groups=-(-len(part) // sizes[split])) for split, part in parts.items()
        },
    }
    schema = DatasetSchema(**fields | {"fingerprint": _fingerprint(DatasetSchema(**fields), parts)})
    if _is_there(out, schema.fingerprint, overwrite=overwrite):
        return schema
    with dataset_directory(out, overwrite=overwrite, resumes=False) as stage:
        if not _is_there(out, schema.fingerprint, overwrite=overwrite):
            stage.begin(schema.fingerprint)
            for split, part in parts.items():
                (stage.folder / split).mkdir()
                write_part(stage.folder / split / "part-00000.parquet", part, schema.fingerprint, sizes[split])
            with parts_engine(stage.folder) as engine:
                stats = describe(engine, stage.folder, schema)
            write_page(stats, schema, stage.folder / STATS_PAGE)
            finish(stage.folder, schema, schema.fingerprint, stats)
    return schema


def _is_there(out: Location, fingerprint: str, *, overwrite: bool) -> bool:
    refusal = UserError(
        str(out),
        "is a dataset directory of other content",
        "a dataset directory is replaced on request only",
        "pass overwrite=True, or name another folder",
    )
    return is_there(out, fingerprint, overwrite=overwrite, refusal=lambda _: refusal)


def _by_group(part: pa.Table, group: str) -> pa.Table:
    """Return the rows sorted by group, rows without one first, since GAUC is exact on such a split."""
    # The sort is stable, and -1 is the group that readers see for none.
    return part.take(pc.sort_indices(part[group].fill_null(-1)))


def _schema(**fields: Any) -> DatasetSchema:
    fields |= {"version": SCHEMA_VERSION, "fingerprint": ""}
    raw = DatasetSchema.model_construct(**fields).model_dump(mode="json", warnings=False)
    schema, problems = check(DatasetSchema, raw)
    if schema is None or problems:
        raise ConfigError.of("write_tables", problems)
    return schema


def _check_splits(splits: Mapping[Split, pa.Table]) -> None:
    needed = "train, valid and test each need rows, since training reads all three"
    for split in splits:
        if split not in SPLITS:
            fix = did_you_mean(split, SPLITS) or "use these names"
            raise UserError("splits", f"got {split!r}", "there are train, valid and test", fix)
    for split in SPLITS:
        if split not in splits or not splits[split].num_rows:
            raise UserError(
                f"splits[{split!r}]", "no rows", needed, "give it some rows of the logs, the latest to test"
            )


def _kinds(schema: DatasetSchema) -> dict[str, pa.DataType]:
    """Return the Parquet type of every column by name; a column of several roles has the type that loses nothing."""
    kinds: dict[str | None, pa.DataType] = {task.space: pa.bool_() for task in schema.tasks} | {
        schema.group: pa.int64()
    }
    for feature in schema.sparse:
        kinds[feature.name] = pa.list_(pa.int32()) if feature.bag else pa.int32()
        kinds[feature.weights] = pa.list_(pa.float32())
    numbers = [feature.name for feature in schema.dense] + [task.label for task in schema.tasks]
    kinds |= dict.fromkeys([*numbers, schema.sample_weight], pa.float32())
    return {column: kinds[column] for column in schema.columns()}


def _part(place: str, table: pa.Table, kinds: Mapping[str, pa.DataType], schema: DatasetSchema) -> pa.Table:
    """Return the columns of a split in the types of the dataset, after all checks that need this split alone."""
    names = table.column_names
    columns = {}
    for column, kind in kinds.items():
        if column not in names:
            others = [name for name in names if name not in kinds]
            fix = did_you_mean(column, others) or "add the column, or leave out what names it"
            raise UserError(place, f"no column {column!r}", "a feature, a task or another argument names it", fix)
        if names.count(column) > 1:
            raise UserError(place, f"{names.count(column)} columns {column!r}", "a name stands once", "rename one")
        columns[column] = _converted(f"{place}, column {column!r}", table[column].combine_chunks(), kind)
    for feature in schema.sparse:
        fill = _filled if feature.bag else pc.fill_null
        columns[feature.name] = fill(columns[feature.name], 0)
        if feature.weights is not None:
            ids, weights = (pc.list_value_length(columns[c]).fill_null(0) for c in (feature.name, feature.weights))
            rule = f"a weighted bag has one weight per id of {feature.name!r}"
            _refuse(pc.not_equal(ids, weights), place, feature.weights, columns[feature.weights], rule)
            _check_finite(place, feature.weights, columns[feature.weights])
    for number in schema.dense:
        _check_finite(place, number.name, columns[number.name])
    for task in schema.tasks:
        label = columns[task.label]
        bad, rule = pc.invert(pc.is_finite(label)), "a regression label is finite"
        if task.kind == "binary":
            bad, rule = pc.invert(pc.is_in(label, pa.array([0, 1], label.type))), "a binary label is 0 or 1"
        bad = bad.fill_null(True)
        if task.space is not None:
            bad = pc.and_(bad, _inside(columns[task.space]))
        where = "" if task.space is None else f" where {task.space!r} is true"
        _refuse(bad, place, task.label, label, f"{rule}{where} (task {task.name!r})")
    if schema.sample_weight is not None:
        weight = columns[schema.sample_weight]
        good = pc.and_(pc.is_finite(weight), pc.greater_equal(weight, 0)).fill_null(False)
        _refuse(pc.invert(good), place, schema.sample_weight, weight, "a sample weight is finite and at least 0")
    return pa.table(columns)


def _converted(place: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
    wrapped = pa.types.is_dictionary(array.type) or (pa.types.is_list(kind) and hasattr(array.type, "value_type"))
    item = array.type.value_type if wrapped else array.type
    if pa.types.is_string(item) or pa.types.is_large_string(item):  # Arrow would parse numbers from text.
        fix = "map raw values to table rows first" if kind in (pa.int32(), pa.list_(pa.int32())) else "convert it"
        raise DataError(place, f"type {array.type}", f"it must be {kind} or convert to it", fix)
    try:
        number = kind.value_type if pa.types.is_list(kind) else kind
        # Integers are rounded to floats, as doubles are.
        array = array.cast(kind, safe=not pa.types.is_floating(number))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        rule = f"it must be {kind} or convert to it ({error})"
        raise DataError(place, f"type {array.type}", rule, "convert it") from error
    return pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(kind) else array


def _filled(lists: pa.ListArray, value: int) -> pa.ListArray:
    """Return lists whose null items are replaced by `value`; null lists stay null."""
    items = lists.flatten()
    if not items.null_count:
        return lists
    lengths = pc.list_value_length(lists).fill_null(0)
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, items.fill_null(value), mask=lists.is_null())


def _inside(space: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a sample space as booleans; null is outside. A space that is also a label is stored as float32."""
    return space.cast(pa.bool_()).fill_null(False)


def _check_finite(place: str, column: str, array: pa.Array) -> None:
    bad = pc.invert(pc.is_finite(array.flatten() if pa.types.is_list(array.type) else array)).fill_null(False)
    if pa.types.is_list(array.type) and (i := pc.index(bad, True).as_py()) >= 0:
        bad = pc.equal(pa.array(range(len(array))), pc.list_parent_indices(array)[i])
    _refuse(bad, place, column, array, "values must be finite or null")


def _refuse(bad: pa.Array, place: str, column: str, array: pa.Array, rule: str) -> None:
    if (row := pc.index(bad, True).as_py()) >= 0:
        raise DataError(f"{place}, column {column!r}, row {row}", f"got {array[row].as_py()}", rule, "correct the logs")


def _table_rows(schema: DatasetSchema, parts: Mapping[Split, pa.Table], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the rows of every table, and refuse an id that lies outside its table."""
    rows = {table.name: sizes.get(table.name) for table in schema.tables}
    for table, count in sizes.items():
        if type(count) is not int or not 1 <= count <= MAX_ROWS:
            rule = f"a table has 1 to {MAX_ROWS:,} rows, row 0 counted"
            raise UserError("tables", f"{table!r} has {count!r} rows", rule, "give such an integer")
        if table not in rows:
            fix = did_you_mean(table, rows) or "leave it out"
            raise UserError("tables", f"got {table!r}", f"sparse features read {', '.join(rows) or 'none'}", fix)
    largest = dict.fromkeys(rows, 0)
    for split, part in parts.items():
        for feature in schema.sparse:
            size = rows[feature.table] or MAX_ROWS
            column = part[feature.name].combine_chunks()
            ids = column.flatten() if feature.bag else column
            if not len(ids) - ids.null_count:
                continue
            limits = pc.min_max(ids).as_py()
            largest[feature.table] = max(largest[feature.table], limits["max"])
            if limits["min"] < 0 or limits["max"] >= size:
                bad = pc.or_(pc.less(ids, 0), pc.greater_equal(ids, size)).fill_null(False)
                i = pc.index(bad, True).as_py()
                row = pc.list_parent_indices(column)[i].as_py() if feature.bag else i
                raise DataError(
                    f"splits[{split!r}], column {feature.name!r}, row {row}",
                    f"id {ids[i].as_py()}",
                    f"table {feature.table!r} has rows 0 to {size - 1}",
                    "give values outside the table row 0, or raise its rows in `tables`",
                )
    return {table: size if size is not None else largest[table] + 1 for table, size in rows.items()}


def _fingerprint(schema: DatasetSchema, parts: Mapping[Split, pa.Table]) -> str:
    """Return the SHA-256 of the schema and of every cell, which does not depend on the chunks of the tables."""
    content: dict[str, Any] = {"format": FORMAT_VERSION, "schema": schema.model_dump(mode="json")}
    for split, part in parts.items():
        scalars = {}
        for column in part.column_names:
            array = part[column].combine_chunks()
            if pa.types.is_list(array.type):
                content[f"{split}.{column}"] = content_sha256(pa.table({"values": array.flatten()}))
                array = pc.list_value_length(array)
            scalars[column] = array
        content[split] = content_sha256(pa.table(scalars))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
