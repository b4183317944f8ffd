"""A dataset directory whose ids another one keeps (`prep --append`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.schema import SCHEMA_FILE, VOCAB_DIR, DatasetSchema
from ple_rec.data.integrity import Digests
from ple_rec.errors import UserError


@dataclass(frozen=True)
class Parent:
    """What the child takes over.

    Args:
        path: The directory.
        schema: Its schema.
        config: Its configuration, with every number that its training rows gave.
        vocabularies: File of the vocabulary, by table.
    """

    path: Path
    schema: DatasetSchema
    config: PrepConfig
    vocabularies: Mapping[str, Path]

    @classmethod
    def read(cls, path: Path) -> Parent:
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
        for name in (SCHEMA_FILE, PREP_FILE, *(f"{VOCAB_DIR}/{table.name}.parquet" for table in schema.tables)):
            digests.check(name)
        config = load_config(PrepConfig, path / PREP_FILE)
        files = {table.name: path / VOCAB_DIR / f"{table.name}.parquet" for table in schema.tables}
        return cls(path, schema, config, {name: file for name, file in files.items() if file.is_file()})

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of this dataset and of all before it, nearest first."""
        return self.schema.lineage()
