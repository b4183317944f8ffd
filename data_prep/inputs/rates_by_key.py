"""Rates of every key as of the day after the last counted one, for servers that look them up."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.engines.base import Engine
from data_prep.engines.duck import DuckEngine
from data_prep.expressions.times import days_since_1970
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.rates import total_column, values_of_sums
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.prep_rates import DAY, CountedTable, RateSpec
from ple_rec.config.raw_form import RawSide
from ple_rec.config.schema import RATES_DIR
from ple_rec.config.side_table import SideValues
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location, location


def read_rates(folder: Location, side: RawSide, dataset: str) -> tuple[pa.Table, SideValues]:
    """Return the rates of a counted table with one row for each key, as of the day after the last counted one.

    Keys without a row in any window are left out, since a key that the table lacks gets the same values as defaults.

    Args:
        folder: Folder with the `schema.toml` of the dataset that the model was trained on.
        side: Counted table.
        dataset: Directory or address of that dataset, or of one with days that were appended to it.

    Returns:
        Table with the key columns, as int64 or text without nulls, and the columns that features read; and the day and
        the defaults of its values.

    Raises:
        UserError: There is no such dataset, it has other rates, or it was not made by appending to the model's dataset.
        DataError: A file of the dataset is missing or has changed.
    """
    path = location(dataset)
    check_lineage(folder, path, "rates")
    digests = Digests.read(path)
    digests.check(PREP_FILE)
    config = load_config(PrepConfig, path / PREP_FILE)
    table = config.counted_tables.get(side.name)
    if table is None or tuple(table.rates.values()) != side.rates:
        theirs = "none" if table is None else _rates_text(tuple(table.rates.values()))
        rule = f"the model's features read {_rates_text(side.rates)}"
        fix = "prepare the dataset with these rates, or train on it, and export"
        raise UserError(Option.DATASET, f"{path} has the rates {theirs} in {side.name}", rule, fix)
    file = digests.local_copy(f"{RATES_DIR}/{side.name}.parquet")
    if config.found.rates_last_day is None:
        rule = "rates are served as of the day after the last counted one"
        raise DataError(str(path), f"no row counts in {side.name}", rule, "prepare a log with such rows")
    day = days_since_1970(config.found.rates_last_day) + 1
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as spill:
        engine = DuckEngine(Path(spill), reads_once=True)
        try:
            values = engine.fetch(values_on(engine, table, engine.read([file]), day))
        finally:
            engine.close()
    is_default = pc.is_null(values[table.key_columns[0]])
    (defaults,) = values.filter(is_default).select(list(side.columns)).to_pylist()
    rows = values.filter(pc.invert(is_default)).select([*table.key_columns, *side.columns])
    assert config.time is not None  # Rates need `[time]`.
    described = SideValues(
        as_of=date_text(day),
        utc_offset=config.time.utc_offset,
        defaults={name: value for name, value in defaults.items() if value is not None},
        rates=side.rates,
    )
    return _with_narrow_counts(rows, table), described


def values_on(engine: Engine, table: CountedTable, counts: ir.Table, day: int) -> ir.Table:
    """Return the values of the rates for rows of one day: a row for each key that counts, and one with null keys.

    The row with null keys has the values of a key that does not count.

    Args:
        engine: Engine that computes and stores the sums.
        table: Counted table.
        counts: Counts and sums by key and day.
        day: Day of the rows, in days from 1970-01-01.
    """
    keys = list(table.key_columns)
    sums = {
        column: counts[column].sum(where=_in_window(counts, rate, day)).fill_null(0)
        for rate in table.rates.values()
        for column in rate.stored_columns
    }
    by_key = engine.materialize(f"by_key_{table.name}", counts.group_by(keys).aggregate(**sums))
    totals = by_key.aggregate(**{total_column(column): by_key[column].sum() for column in sums})
    totals = engine.materialize(f"total_{table.name}", totals)
    no_key = {key: ibis.null(by_key[key].type()) for key in keys}
    uncounted = totals.select(**no_key, **{column: ibis.literal(0, "int64") for column in sums})
    counted = by_key.filter(ibis.or_(*(by_key[rate.count_column] > 0 for rate in table.rates.values())))
    rows = ibis.union(counted, uncounted, distinct=False).cross_join(totals)
    values = {name: value for rate in table.rates.values() for name, value in values_of_sums(rows, rate).items()}
    return rows.select(*keys, **values)


def _in_window(counts: ir.Table, rate: RateSpec, day: int) -> ir.BooleanValue:
    """Return True for counts of the days that a row of a day sees."""
    seen = counts[DAY] < day - rate.delay_days
    return seen if rate.window_days is None else seen & (counts[DAY] >= day - rate.delay_days - rate.window_days)


def check_lineage(folder: Location, dataset: Location, values: str) -> None:
    """Refuse a dataset that is neither the model's nor one to which days were appended from there.

    Args:
        folder: Folder with the `schema.toml` of the dataset that the model was trained on.
        dataset: The other dataset.
        values: Name of the values that are read from it, for the message.

    Raises:
        UserError: The dataset is another one.
    """
    trained, schema = load_schema(folder), load_schema(dataset)
    model_dataset = f"{trained.name} {trained.fingerprint[:16]}"
    if trained.fingerprint not in schema.lineage():
        raise UserError(
            Option.DATASET,
            f"{dataset} has the fingerprint {schema.fingerprint[:16]}",
            f"{values} are those of the model's dataset, {model_dataset}, or of one with days that were appended to it",
            f"append days to it: ple-rec prep {Option.APPEND} DAY {Option.PARENT} DATASET; or export a model that was "
            "trained on this dataset",
        )


def _rates_text(rates: tuple[RateSpec, ...]) -> str:
    """Return a text with the values of rates that decide what is counted."""
    texts = []
    for rate in rates:
        unit = "" if rate.unit is None else f", unit {rate.unit:g}"
        texts.append(
            f"{rate.name} ({rate.of or 'rows'}, {rate.window}, delay {rate.delay}, prior {rate.prior:g}{unit})"
        )
    return ", ".join(texts)


def _with_narrow_counts(rows: pa.Table, table: CountedTable) -> pa.Table:
    """Return rows with counts in int32 if they fit, to save memory."""
    for rate in table.rates.values():
        if rate.count_column not in rows.column_names:
            continue
        counts = rows[rate.count_column]
        if (pc.max(counts).as_py() or 0) < 2**31:
            index = rows.column_names.index(rate.count_column)
            rows = rows.set_column(index, rate.count_column, counts.cast(pa.int32()))
    return rows
