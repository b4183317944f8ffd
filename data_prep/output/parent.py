"""Parent of an appended day: the dataset directory to which `ple-rec prep --append` adds a day of the log.

A day is appended as a dataset of its own, which keeps the ids, the edges of buckets and the thresholds of its parent.
So a model that was trained on the parent can be trained on that day. Rates go on from the counts of the parent, and
histories from its events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.transforms.splits import date_of_training
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.schema import HISTORIES_DIR, RATES_DIR, SCHEMA_FILE, VOCAB_DIR, DatasetSchema
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location


@dataclass(frozen=True)
class Parent:
    """Dataset directory whose ids, edges and thresholds an appended day keeps.

    Args:
        path: Path or address of the directory.
        schema: Schema of the dataset.
        config: Configuration of `prep.toml`; its section `found` holds the values that were computed from the log.
        vocabularies: Files of the vocabularies on this machine, copied if `path` is an address, by table; bucketised
            features have none.
        rate_tables: Files of the counted tables of rates on this machine, by table.
        value_counts: Files of the counts of values by day on this machine, by embedding table; only of tables with
            `admit` or `expire`.
        events: Files of the events of histories on this machine, by history.
    """

    path: Location
    schema: DatasetSchema
    config: PrepConfig
    vocabularies: Mapping[str, Path]
    rate_tables: Mapping[str, Path]
    value_counts: Mapping[str, Path]
    events: Mapping[str, Path]

    @classmethod
    def read(cls, path: Location) -> Parent:
        """Open a complete dataset directory.

        Raises:
            UserError: There is no dataset directory, or it was not made by `ple-rec prep` from a configuration.
            DataError: The directory is not complete, or a file is missing or has changed since it was prepared.
        """
        schema = load_schema(path)
        if not (path / PREP_FILE).is_file():
            raise UserError(
                str(path),
                f"no {PREP_FILE}",
                "days are appended to a dataset that `ple-rec prep` made from a configuration",
                "prepare the first days with `ple-rec prep FILE.toml`",
            )
        digests = Digests.read(path)
        for name in (SCHEMA_FILE, PREP_FILE):
            digests.check(name)
        config = load_config(PrepConfig, path / PREP_FILE)
        tables = dict.fromkeys(feature.table_name for feature in config.sparse if not feature.bucketised)
        vocabularies = {table: digests.local_copy(f"{VOCAB_DIR}/{table}.parquet") for table in tables}
        rate_tables = {table: digests.local_copy(f"{RATES_DIR}/{table}.parquet") for table in config.counted_tables}
        value_counts = {
            table: digests.local_copy(f"{RATES_DIR}/{name}.parquet") for table, name in config.value_tables.items()
        }
        events = {each.name: digests.local_copy(f"{HISTORIES_DIR}/{each.name}.parquet") for each in config.histories}
        rules = dict.fromkeys(
            vocabularies.values(), "an appended day keeps the row of each value, which this file holds"
        )
        rules |= dict.fromkeys(rate_tables.values(), "rates of an appended day go on from the counts in this file")
        rules |= dict.fromkeys(
            value_counts.values(), "values of an appended day are admitted and expire by the counts in this file"
        )
        rules |= dict.fromkeys(events.values(), "histories of an appended day go on from the events in this file")
        fix = "copy it again, or prepare the first days again"
        for file, rule in rules.items():
            if not file.is_file():
                raise DataError(str(file), "no such file", rule, fix)
            try:
                pq.read_metadata(file)
            except (OSError, pa.ArrowException) as error:
                raise DataError(str(file), f"unreadable ({error})", rule, fix) from error
        return cls(path, schema, config, vocabularies, rate_tables, value_counts, events)

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of this dataset and of its ancestors, nearest first."""
        return self.schema.lineage()

    @property
    def known_days(self) -> tuple[str, ...]:
        """Last training days of this dataset and of its nearest ancestors, as far as they are known."""
        # The schema of a dataset that an older version prepared has no days, but its configuration has its own day.
        day = date_of_training(self.config)
        return () if day is None else (day, *self.schema.ancestor_days)
