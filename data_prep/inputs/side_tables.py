"""Reading of side tables from raw files, for servers that look the columns of a request up by its keys."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.diagnose import find_damage
from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.failures import EngineError
from data_prep.inputs.columns import inputs_config
from data_prep.inputs.events_by_key import read_events
from data_prep.inputs.rates_by_key import read_rates
from data_prep.inputs.raw_form import known_types, raw_rows
from data_prep.inputs.read import find_table
from data_prep.page_checksums import check_pages
from data_prep.progress import stderr_progress
from data_prep.sources.columns import plain_type, raw_type
from data_prep.sources.files import POSITION
from data_prep.sources.table import RawTable, refuse_changes, shown_value
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.expression_scope import beyond_float32, readable_columns
from data_prep.transforms.resolve import Resolved, resolve
from data_prep.transforms.side_tables import deduplicate_keys, key_value, newest_rows, side_day
from data_prep.transforms.vectors import refuse_bad_vectors
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.raw_form import RawSide
from ple_rec.config.side_table import SideValues
from ple_rec.errors import DataError
from ple_rec.storage import Location


def read_side_table(
    folder: Location, features: Collection[str], side: RawSide, source: str
) -> tuple[pa.Table, SideValues]:
    """Return a side table with one row for each key, and the description of its values.

    As in the preparation, `keep` chooses one of several rows with the same key; without it, they are refused. Vectors
    and dense features that are only a column of the table are checked here, since a server would refuse every request
    with the key of a bad row.

    Args:
        folder: Folder with the `prep.toml` of the dataset that the model was trained on.
        features: Names of the model's features.
        side: Side table.
        source: Folder of the raw files, file or address; the directory of a dataset for a counted table of rates, which
            `read_rates` reads, and for the events of a history, which `read_events` reads.

    Returns:
        Table with the key columns, as int64 or text without nulls, and the columns that features read; in a dated
        table, the row of each key is its newest one.

    Raises:
        UserError: A file does not exist.
        DataError: A file is damaged, a column has another type than the model reads, a key occurs in several rows, or
            a vector or number breaks the rule of its feature.
    """
    if side.rates:
        return read_rates(folder, side, source)
    if side.history is not None:
        return read_events(folder, side, source)
    file = folder / PREP_FILE
    config = load_config(PrepConfig, file)
    all_rows = config.model_copy(update={"log": config.log.model_copy(update={"where": None})})
    resolved = resolve(inputs_config(all_rows, features, {}), str(file), is_from_dataset=True)
    progress = stderr_progress("tables")
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as work:
        csv, spill = Path(work) / "csv", Path(work) / "engine"
        csv.mkdir()
        spill.mkdir()
        raw = find_table(side.name, resolved.config.sides[side.name], source, csv, config, resolved, progress)
        resolved = replace(resolved, tables={side.name: raw})
        _check_types(raw, side, known_types(config), str(file))
        engine = DuckEngine(spill, reads_once=True)
        try:
            with refuse_changes(raw.files):
                check_pages(resolved)
                return _read_rows(engine, raw, resolved, side, known_types(config))
        except EngineError as error:
            columns = resolved.side_columns[side.name]
            damages = (find_damage(each, columns) for each in raw.files)
            raise next((damage for damage in damages if damage is not None), error) from error
        finally:
            engine.close()


def _read_rows(
    engine: Engine, raw: RawTable, resolved: Resolved, side: RawSide, types: Mapping[str, str]
) -> tuple[pa.Table, SideValues]:
    rows = engine.scan(raw, resolved.side_columns[side.name])
    log = readable_columns(raw_rows({name: types[name] for name in side.reads}))
    for column in side.key_columns:
        key_value(resolved, side.name, column, log, rows)  # Refuses a key of another type than the log's value.
    # A null key matches no row of the log.
    table = deduplicate_keys(engine, raw, rows, side.name, resolved).drop_null(list(side.key_columns))
    for vector in resolved.config.vectors:
        if vector.name in resolved.frozen and resolved.frozen[vector.name].side == side.name:
            refuse_bad_vectors(engine, table, vector, resolved)
    _refuse_bad_numbers(engine, raw, resolved, table)
    latest_day = None
    if resolved.config.sides[side.name].day is not None:
        latest = engine.fetch(table.aggregate(day=side_day(resolved, side.name, table).max()))["day"][0].as_py()
        latest_day = None if latest is None else date_text(latest)
        table = newest_rows(table, side.name, resolved)
    keys: dict[str, ir.Value] = {}
    for column in side.key_columns:
        value = readable_columns(table)[column]
        keys[column] = value.cast("int64") if isinstance(value, ir.IntegerValue) else value
    columns = {name: table[name] for name in side.columns if name not in keys}
    return engine.fetch(table.select(**keys, **columns)), SideValues(latest_day=latest_day)


def _refuse_bad_numbers(engine: Engine, raw: RawTable, resolved: Resolved, table: ir.Table) -> None:
    """Refuse rows in which the number of a dense feature that is only a column of the table is not finite in float32.

    Args:
        engine: Engine that searches for such rows.
        raw: Files of the table.
        resolved: Configuration with its expressions, and the files of the table.
        table: Rows of the table.
    """
    for i, dense in enumerate(resolved.config.dense):
        source = resolved.bare_column(f"dense[{i}].value")
        if source is None or source[0] is not raw:
            continue
        column = source[1]
        value = readable_columns(table)[column]
        if not isinstance(value, ir.FloatingValue):
            continue
        bad = table.filter(beyond_float32(value)).select(POSITION, value=value).order_by(POSITION).limit(1)
        if first := engine.fetch(bad).to_pylist():
            raise DataError(
                f"{raw.locate(first[0][POSITION])}, column {column!r}",
                f"got {shown_value(first[0]['value'])}",
                f"a dense value is missing or a finite float32 (feature {dense.name!r})",
                "correct it, or write null where it is missing",
            )


def _check_types(raw: RawTable, side: RawSide, types: Mapping[str, str], place: str) -> None:
    """Refuse files in which a column has another type than in those that the model's dataset was prepared from."""
    for name in side.columns:
        kind, expected = raw_type(plain_type(raw.schema.field(name).type)), types[f"{side.name}.{name}"]
        if kind != expected:
            raise DataError(
                f"{raw.files[0].display_name}, column {name!r}",
                f"has the type {kind}",
                f"the model's features read {expected} ({place}: found.columns)",
                f"write the column as {expected}, or prepare the dataset again, train and export",
            )
