"""A dataset directory whose ids another one keeps (`prep --append`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.schema import SCHEMA_FILE, VOCAB_DIR, DatasetSchema
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location


@dataclass(frozen=True)
class Parent:
    """What the child takes over.

    Args:
        path: Path or address of the directory.
        schema: Its schema.
        config: Configuration from its `prep.toml`, with the values that its log gave in `found`.
        vocabularies: File of this machine with the vocabulary, by table; bucketised features have none.
    """

    path: Location
    schema: DatasetSchema
    config: PrepConfig
    vocabularies: Mapping[str, Path]

    @classmethod
    def read(cls, path: Location) -> Parent:
        """Open a complete dataset directory.

        Raises:
            UserError: It was not made by `ple-rec prep` from a configuration.
            DataError: It is not complete, or a file is not the one that was prepared.
        """
        schema = load_schema(path)
        if not (path / PREP_FILE).is_file():
            raise UserError(
                str(path),
                f"no {PREP_FILE}",
                "days are appended to what `ple-rec prep` made from a configuration",
                "prepare the first days with `ple-rec prep FILE.toml`",
            )
        digests = Digests.read(path)
        for name in (SCHEMA_FILE, PREP_FILE):
            digests.check(name)
        config = load_config(PrepConfig, path / PREP_FILE)
        tables = dict.fromkeys(feature.table_name for feature in config.sparse if not feature.bucketised)
        files = {table: digests.local_copy(f"{VOCAB_DIR}/{table}.parquet") for table in tables}
        for file in files.values():
            if not file.is_file():
                rule = "an appended day keeps the row of each value, which it says"
                raise DataError(str(file), "no such file", rule, "copy it again, or prepare the first days again")
        return cls(path, schema, config, files)

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of this dataset and of all before it, nearest first."""
        return self.schema.lineage()
