"""Rates of the rows of raw logs to be predicted, from the counts of the dataset that the model was trained on.

A row sees the counts of the days before its own, as a row of the dataset does; rows of the log itself do not count. The
keys and days of all rows are collected first, so that the windows are computed once for a log and not for each batch.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import DAY
from data_prep.transforms.expression_scope import ColumnBuilder
from data_prep.transforms.rate_append import zero_counts
from data_prep.transforms.rate_values import build_keys, key_columns
from data_prep.transforms.rates import RateCounts, values_as_of
from data_prep.transforms.rows import LogRows
from ple_rec.config.load import load_schema
from ple_rec.config.prep import PrepConfig
from ple_rec.config.prep_rates import DAY as COUNTED_DAY
from ple_rec.config.schema import RATES_DIR
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, overrides_text
from ple_rec.storage import Location

logger = logging.getLogger(__name__)


def read_counts(engine: Engine, dataset: Location, config: PrepConfig) -> RateCounts:
    """Open the counted tables of a dataset. If rows of every day can be predicted, `first_day` of the result is None.

    Args:
        engine: Engine that reads the files.
        dataset: Directory of the dataset.
        config: Configuration of the inputs, with the rates that are read.

    Raises:
        DataError: A file is missing or has changed.
    """
    digests = Digests.read(dataset)
    files = {name: digests.local_copy(f"{RATES_DIR}/{name}.parquet") for name in config.counted_tables}
    counts = RateCounts.read(engine, config, files)
    # Only a dataset to which days were appended lacks counts of earlier days.
    return counts if load_schema(dataset).parent is not None else replace(counts, first_day=None)


def compute_rates(rows: LogRows, counts: RateCounts, dataset: Location, first: int) -> dict[str, ir.Table]:
    """Return the values of the rates for every key and day of some rows, by name of the counted table.

    Args:
        rows: Rows of the log to be predicted.
        counts: Counted tables that `read_counts` has returned.
        dataset: Directory of their dataset, for messages.
        first: Position of the first row.

    Raises:
        DataError: A row lies before the days that the dataset can answer for.
    """
    engine, resolved = rows.engine, rows.resolved
    builder = ColumnBuilder(rows.joined(first, resolved.tables["log"].rows), resolved, None)
    tables = resolved.config.counted_tables
    keys = {name: key for table in tables.values() for name, key in build_keys(builder, table).items()}
    days = builder.rows.select(POSITION, **keys, **{DAY: builder.values["time.day"]}).drop_null(DAY)
    days = engine.materialize("rate_keys", days)
    _check_days(rows, counts, dataset, days)
    values = {}
    for name, table in tables.items():
        row_keys = engine.materialize(f"row_keys_{name}", zero_counts(days.drop_null(key_columns(table)), table))
        key_and_day = [*table.key_columns, COUNTED_DAY]
        known = counts.tables[name].select(row_keys.columns)
        added = row_keys.anti_join(known, key_and_day)
        all_values = values_as_of(engine, table, ibis.union(known, added, distinct=False), resolved)
        values[name] = engine.materialize(f"rates_{name}", all_values.semi_join(row_keys, key_and_day))
    return values


def _check_days(rows: LogRows, counts: RateCounts, dataset: Location, days: ir.Table) -> None:
    """Refuse a row of a day that the dataset cannot answer for, and warn of days that follow uncounted ones."""
    engine = rows.engine
    if counts.first_day is not None:
        early = days.filter(days[DAY] < counts.first_day).order_by(POSITION).limit(1)
        for row in engine.fetch(early.select(position=POSITION, day=DAY)).to_pylist():
            raise DataError(
                rows.resolved.tables["log"].locate(row["position"]),
                f"is of {date_text(row['day'])}",
                f"rates of a row need the counts of the days before it, and {dataset}, to which days were "
                f"appended, has those for rows from {date_text(counts.first_day)} on",
                f"predict earlier rows with the parent dataset: {overrides_text('data.path=PARENT')}",
            )
    last = engine.fetch(days.aggregate(day=days[DAY].max()))["day"][0].as_py()
    delay = min(rate.delay_days for rate in rows.resolved.config.rates)
    if counts.last_day is not None and last is not None and last - delay > counts.last_day + 1:
        logger.warning(
            "rates of rows of %s: %s counts the rows until %s, so the days between are missing in their rates. Fix: "
            "append these days, and set data.path to the dataset of the last one",
            date_text(last),
            dataset,
            date_text(counts.last_day),
        )
