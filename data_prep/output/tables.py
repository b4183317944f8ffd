"""`write_tables`: a dataset directory from Arrow tables in memory, without raw logs.

The sparse columns of the tables must hold rows of embedding tables, so no vocabulary is built.
"""

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
from data_prep.output.stage import dataset_directory, dataset_exists
from data_prep.output.writer import existing_recipe_digest, finish
from data_prep.stats import write_page
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import MAX_ROWS
from ple_rec.config.problems import ConfigError, parse_document
from ple_rec.config.schema import (
    SCHEMA_VERSION,
    STATS_PAGE,
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
    VectorFeature,
)
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location
from ple_rec.text.suggest import did_you_mean

FORMAT_VERSION = 3  # Part of the fingerprint. Raise it when the same tables would give other parts or normalisers.
_EVALUATED: tuple[Split, ...] = ("valid", "test")  # Splits on which metrics such as GAUC are computed.


def write_tables(
    out: Location,
    *,
    name: str,
    splits: Mapping[Split, pa.Table],
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
    tasks: Sequence[Task],
    vectors: Sequence[VectorFeature] = (),
    tables: Mapping[str, int] | None = None,
    sample_weight: str | None = None,
    group: str | None = None,
    row_group_rows: int = 65_536,
    overwrite: bool = False,
) -> DatasetSchema:
    """Write a dataset directory from tables in memory. Values that training would refuse are refused here.

    Columns that no argument names are left out. A null id becomes row 0. A NaN becomes null, except in weights of bags,
    where it is refused.

    Args:
        out: Path or address of the dataset directory. It is new or empty, holds this dataset already, or, with
            `overwrite`, holds any dataset.
        name: Name of the dataset.
        splits: Rows of `train`, `valid` and `test`, which keep their order; with `group`, `valid` and `test` are sorted
            by it.
        sparse: Features whose columns hold rows of embedding tables: integers from 0, or lists of them. Row 0 means
            "out of vocabulary or missing".
        dense: Features whose columns hold raw numbers.
        vectors: Features whose columns hold lists of numbers, all of the width of their feature, or nulls; without
            frozen tables.
        tasks: Tasks with the columns of their labels. A task with a sample space also names a `bool` column, which is
            true for the rows whose labels are used.
        tables: Number of rows of embedding tables by name, including row 0. The default for a table is the largest id
            of all splits + 1.
        sample_weight: Column with the weight of each row in the loss, at least 0.
        group: Column of integers that are equal for the rows of one list or request.
        row_group_rows: Largest number of rows of a row group. A split of 16 rows or more gets at least 16 row groups.
        overwrite: True to replace another dataset at `out`, or a damaged one.

    Returns:
        Content of `schema.toml`.

    Raises:
        UserError: A split, a column or a table does not exist, names clash, or `out` may not be replaced.
        DataError: A value breaks a rule; the message names split, column and row.
    """
    existing_recipe_digest(out)  # If `out` holds other files, this raises an error before the rows are checked.
    _check_splits(splits)
    for vector in vectors:
        if vector.table is not None:
            rule = "the columns of the tables hold the vectors themselves"
            raise UserError("vectors", f"{vector.name!r} has a frozen table", rule, "leave out `table`")
    declared = _schema(
        name=name,
        tables=tuple(Table(name=table, rows=1) for table in dict.fromkeys(feature.table for feature in sparse)),
        sparse=tuple(sparse),
        dense=tuple(dense),
        vectors=tuple(vectors),
        tasks=tuple(tasks),
        sample_weight=sample_weight,
        group=group,
        splits={},
    )
    kinds = _column_types(declared)
    parts = {split: _checked_columns(f"splits[{split!r}]", splits[split], kinds, declared) for split in SPLITS}
    row_group_sizes = {split: max(1, min(row_group_rows, len(part) // MIN_ROW_GROUPS)) for split, part in parts.items()}
    table_rows = _table_rows(declared, parts, tables or {})
    if group is not None:  # Rows are sorted after the checks, since messages give the row numbers of the caller.
        parts |= {split: _sort_by_group(parts[split], group) for split in _EVALUATED}
    fields = declared.model_dump() | {
        "tables": tuple(Table(name=table, rows=count) for table, count in table_rows.items()),
        "splits": {
            split: SplitInfo(rows=len(part), row_groups=-(-len(part) // row_group_sizes[split]))
            for split, part in parts.items()
        },
    }
    schema = DatasetSchema(**fields | {"fingerprint": _fingerprint(DatasetSchema(**fields), parts)})
    if _exists_already(out, schema.fingerprint, overwrite=overwrite):
        return schema
    with dataset_directory(out, overwrite=overwrite, resumes=False) as stage:
        if not _exists_already(out, schema.fingerprint, overwrite=overwrite):
            stage.begin(schema.fingerprint)  # The fingerprint covers all of the recipe.
            for split, part in parts.items():
                (stage.folder / split).mkdir()
                write_part(
                    stage.folder / split / "part-00000.parquet", part, schema.fingerprint, row_group_sizes[split]
                )
            with parts_engine(stage.folder) as engine:
                stats = describe(engine, stage.folder, schema)
            write_page(stats, schema, stage.folder / STATS_PAGE)
            finish(stage.folder, schema, schema.fingerprint, stats)
    return schema


def _exists_already(out: Location, fingerprint: str, *, overwrite: bool) -> bool:
    refusal = UserError(
        str(out),
        "holds another dataset",
        "a dataset directory is replaced on request only",
        "pass overwrite=True, or name another folder",
    )
    return dataset_exists(out, fingerprint, overwrite=overwrite, refusal=lambda _: refusal)


def _sort_by_group(part: pa.Table, group: str) -> pa.Table:
    """Return the rows sorted by group, since GAUC is exact only if the rows of a group are adjacent.

    A row without a group is sorted as group -1.
    """
    return part.take(pc.sort_indices(part[group].fill_null(-1)))


def _schema(**fields: Any) -> DatasetSchema:
    """Return the schema with these fields, or raise a ConfigError that lists all that are invalid."""
    fields |= {"version": SCHEMA_VERSION, "fingerprint": ""}
    raw = DatasetSchema.model_construct(**fields).model_dump(mode="json", warnings=False)
    schema, problems = parse_document(DatasetSchema, raw)
    if schema is None or problems:
        raise ConfigError.from_problems("write_tables", problems)
    return schema


def _check_splits(splits: Mapping[Split, pa.Table]) -> None:
    rule = "train, valid and test each need rows, since training reads all three"
    for split in splits:
        if split not in SPLITS:
            fix = did_you_mean(split, SPLITS) or "use these names"
            raise UserError("splits", f"got {split!r}", "there are train, valid and test", fix)
    for split in SPLITS:
        if split not in splits or not splits[split].num_rows:
            raise UserError(
                f"splits[{split!r}]", "no rows", rule, "give it rows of the logs, with the latest rows in test"
            )


def _column_types(schema: DatasetSchema) -> dict[str, pa.DataType]:
    """Return the Parquet type of every column by name.

    A column of several roles gets the type of the last role below, which can hold the values of all of them.
    """
    kinds: dict[str | None, pa.DataType] = {task.space: pa.bool_() for task in schema.tasks} | {
        schema.group: pa.int64()
    }
    for feature in schema.sparse:
        kinds[feature.name] = pa.list_(pa.int32()) if feature.bag else pa.int32()
        kinds[feature.weights] = pa.list_(pa.float32())
    numbers = [feature.name for feature in schema.dense] + [task.label for task in schema.tasks]
    kinds |= dict.fromkeys([*numbers, schema.sample_weight], pa.float32())
    kinds |= {vector.name: pa.list_(pa.float32(), vector.width) for vector in schema.vectors}
    return {column: kinds[column] for column in schema.columns()}


def _checked_columns(place: str, table: pa.Table, kinds: Mapping[str, pa.DataType], schema: DatasetSchema) -> pa.Table:
    """Return the columns of a split in the types `kinds`, after the checks that concern one split."""
    names = table.column_names
    columns = {}
    for column, kind in kinds.items():
        if column not in names:
            others = [name for name in names if name not in kinds]
            fix = did_you_mean(column, others) or "add the column, or leave out what names it"
            raise UserError(place, f"no column {column!r}", "a feature, a task or another argument names it", fix)
        if names.count(column) > 1:
            raise UserError(
                place, f"{names.count(column)} columns {column!r}", "a table has one column of a name", "rename one"
            )
        columns[column] = _convert(f"{place}, column {column!r}", table[column].combine_chunks(), kind)
    for feature in schema.sparse:
        fill = _fill_items if feature.bag else pc.fill_null
        columns[feature.name] = fill(columns[feature.name], 0)
        if feature.weights is not None:
            ids, weights = (pc.list_value_length(columns[c]).fill_null(0) for c in (feature.name, feature.weights))
            rule = f"a weighted bag has one weight per id of {feature.name!r}"
            _refuse_bad_rows(pc.not_equal(ids, weights), place, feature.weights, columns[feature.weights], rule)
            _check_finite(place, feature.weights, columns[feature.weights])
    for number in schema.dense:
        _check_finite(place, number.name, columns[number.name])
    for vector in schema.vectors:
        _check_vectors(place, vector, columns[vector.name])
    for task in schema.tasks:
        label = columns[task.label]
        bad, rule = pc.invert(pc.is_finite(label)), "a regression label is finite"
        if task.kind == "binary":
            bad, rule = pc.invert(pc.is_in(label, pa.array([0, 1], label.type))), "a binary label is 0 or 1"
        bad = bad.fill_null(True)
        if task.space is not None:
            bad = pc.and_(bad, _as_booleans(columns[task.space]))
        where = "" if task.space is None else f" where {task.space!r} is true"
        _refuse_bad_rows(bad, place, task.label, label, f"{rule}{where} (task {task.name!r})")
    if schema.sample_weight is not None:
        weight = columns[schema.sample_weight]
        good = pc.and_(pc.is_finite(weight), pc.greater_equal(weight, 0)).fill_null(False)
        _refuse_bad_rows(
            pc.invert(good), place, schema.sample_weight, weight, "a sample weight is finite and at least 0"
        )
    return pa.table(columns)


def _convert(place: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column cast to a type of the dataset, with null in place of NaN unless it holds lists."""
    wrapped = pa.types.is_dictionary(array.type) or (pa.types.is_list(kind) and hasattr(array.type, "value_type"))
    item = array.type.value_type if wrapped else array.type
    if pa.types.is_string(item) or pa.types.is_large_string(item):  # Arrow would parse numbers from text.
        fix = "map raw values to table rows first" if kind in (pa.int32(), pa.list_(pa.int32())) else "convert it"
        raise DataError(place, f"type {array.type}", f"it must be {kind} or convert to it", fix)
    try:
        number = kind.value_type if pa.types.is_list(kind) else kind
        # A cast to floats may round, for integers as for doubles.
        array = array.cast(kind, safe=not pa.types.is_floating(number))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        rule = f"it must be {kind} or convert to it ({error})"
        raise DataError(place, f"type {array.type}", rule, "convert it") from error
    return pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(kind) else array


def _fill_items(lists: pa.ListArray, value: int) -> pa.ListArray:
    """Return lists with `value` in place of null items; null lists stay null."""
    items = lists.flatten()
    if not items.null_count:
        return lists
    lengths = pc.list_value_length(lists).fill_null(0)
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, items.fill_null(value), mask=lists.is_null())


def _as_booleans(space: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the column of a sample space as booleans, false for null; it is float32 if it is also a label."""
    return space.cast(pa.bool_()).fill_null(False)


def _check_finite(place: str, column: str, array: pa.Array) -> None:
    bad = pc.invert(pc.is_finite(array.flatten() if pa.types.is_list(array.type) else array)).fill_null(False)
    if pa.types.is_list(array.type) and (i := pc.index(bad, True).as_py()) >= 0:
        bad = pc.equal(pa.array(range(len(array))), pc.list_parent_indices(array)[i])
    _refuse_bad_rows(bad, place, column, array, "values must be finite or null")


def _check_vectors(place: str, vector: VectorFeature, array: pa.FixedSizeListArray) -> None:
    """Refuse a vector with a null, NaN or an infinity."""
    bad = pc.invert(pc.is_finite(array.flatten())).fill_null(True)
    if (i := pc.index(bad, True).as_py()) >= 0:
        row = pc.indices_nonzero(array.is_valid())[i // vector.width].as_py()
        rule = "a vector is missing, or all its numbers are finite"
        _refuse_bad_rows(pc.equal(pa.array(range(len(array))), row), place, vector.name, array, rule)


def _refuse_bad_rows(bad: pa.Array, place: str, column: str, array: pa.Array, rule: str) -> None:
    if (row := pc.index(bad, True).as_py()) >= 0:
        raise DataError(f"{place}, column {column!r}, row {row}", f"got {array[row].as_py()}", rule, "correct the logs")


def _table_rows(schema: DatasetSchema, parts: Mapping[Split, pa.Table], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of rows of every embedding table, and refuse an id that lies outside its table."""
    rows = {table.name: sizes.get(table.name) for table in schema.tables}
    for table, count in sizes.items():
        if type(count) is not int or not 1 <= count <= MAX_ROWS:
            rule = f"a table has 1 to {MAX_ROWS:,} rows, including row 0"
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
                    "set ids outside the table to 0, or raise its number of rows in `tables`",
                )
    return {table: size if size is not None else largest[table] + 1 for table, size in rows.items()}


def _fingerprint(schema: DatasetSchema, parts: Mapping[Split, pa.Table]) -> str:
    """Return the SHA-256 of the schema and of all cells, which does not depend on the chunks of the tables."""
    # Without vectors, or subgroups, the digest is that of versions that had none.
    absent = (set() if schema.vectors else {"vectors"}) | (set() if schema.subgroup else {"subgroup", "group_by"})
    described = schema.model_dump(mode="json", exclude=absent)
    content: dict[str, Any] = {"format": FORMAT_VERSION, "schema": described}
    for split, part in parts.items():
        scalars = {}
        for column in part.column_names:
            array = part[column].combine_chunks()
            if pa.types.is_fixed_size_list(array.type):
                content[f"{split}.{column}"] = content_sha256(pa.table({"values": array.flatten()}))
                array = array.is_valid().cast(pa.int8())
            elif pa.types.is_list(array.type):
                content[f"{split}.{column}"] = content_sha256(pa.table({"values": array.flatten()}))
                array = pc.list_value_length(array)
            scalars[column] = array
        content[split] = content_sha256(pa.table(scalars))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
