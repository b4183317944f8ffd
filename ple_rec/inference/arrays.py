"""Arrays of an exported version in memory: embedding tables, vocabularies and vectors by key.

They are nearly all of a version's memory. The arrays of a delta share those of its base, and have beside them only what
differs (`delta.py`), so taking a delta costs memory in proportion to its changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ple_rec.config.load import load_schema
from ple_rec.config.schema import VOCAB_DIR, SparseFeature
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.encode import Encoder
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.errors import DataError
from ple_rec.inference.delta import (
    DeltaInfo,
    changed_rows_file,
    check_base,
    manifest_digest,
    read_changed_rows,
    read_vocabulary_changes,
    vocabulary_changes_file,
)
from ple_rec.inference.manifest import EXPORT_AGAIN, MANIFEST, MODEL_FILE
from ple_rec.inference.signature import Signature
from ple_rec.inference.tables import StoredTable, row_bytes

TABLES = "tables"


@dataclass(frozen=True)
class VersionArrays:
    """Arrays of a version, which rankers of later deltas share.

    Args:
        version: Name of the version.
        manifest: SHA-256 of its manifest; None for a version that is being exported.
        tables: Embedding tables by name.
        encoder: Encoder of the sparse features, with the vocabularies.
        vectors: Look-ups of vectors by key, by name of the feature.
    """

    version: str
    manifest: str | None
    tables: Mapping[str, StoredTable]
    encoder: Encoder
    vectors: Mapping[str, VectorLookup]

    @classmethod
    def read(cls, version: Path) -> Self:
        """Read the arrays of a whole version.

        Args:
            version: Folder of the version.

        Raises:
            DataError: The version is a delta, or a file is damaged or missing.
        """
        description, signature = _read_description(version)
        if (info := DeltaInfo.of_description(description)) is not None:
            rule = f"it has only what differs from {info.base}"
            raise DataError(
                str(version), "is a delta", rule, f"keep it in the folder of {info.base}, and load it there"
            )
        encoder = Encoder(version, _sparse_features(version, signature), sealed=True)
        encoder.read_into_memory()
        tables: dict[str, StoredTable] = {}
        for table in description["tables"]:
            # Only the name is used, so that a forged path cannot lead to a file outside of the version.
            file = version / TABLES / Path(table["file"]).name
            tables[table["name"]] = StoredTable(file, table["rows"], table["dim"], table["precision"])
        return cls(version.name, _digest(version), tables, encoder, open_vector_lookups(version, signature))

    def with_delta(self, version: Path) -> Self:
        """Return the arrays of a delta, which share those of this version.

        Args:
            version: Folder of the delta.

        Raises:
            DataError: The version is no delta, or was made from another version; its tables are others, or a file is
                damaged or missing.
            ValueError: Changes of a vocabulary do not fit the vocabulary.
        """
        description, signature = _read_description(version)
        info = DeltaInfo.of_description(description)
        if info is None:
            raise DataError(str(version), "is whole", f"only a delta can be put on {self.version}", EXPORT_AGAIN)
        check_base(version, info, self.version, self.manifest)
        _check_layouts(version, description, self.tables)
        tables = {}
        for table in description["tables"]:
            name, layout = table["name"], (table["rows"], table["dim"], table["precision"])
            file = version / TABLES / changed_rows_file(name, table["precision"])
            tables[name] = self.tables[name].with_changes(read_changed_rows(file, table["changed"], *layout))
        vocabularies = {
            name: vocabulary.with_changes(read_vocabulary_changes(version / VOCAB_DIR / vocabulary_changes_file(name)))
            for name, vocabulary in self.encoder.vocabularies.items()
        }
        encoder = Encoder(version, _sparse_features(version, signature), vocabularies=vocabularies)
        vectors = dict(self.vectors) | open_vector_lookups(version, signature, only_existing=True)
        return replace(
            self, version=version.name, manifest=_digest(version), tables=tables, encoder=encoder, vectors=vectors
        )

    @property
    def whole_bytes(self) -> int:
        """Number of bytes of the tables and vocabularies of the whole version, which a delta shares."""
        tables = sum(table.rows * row_bytes(table.dim, table.precision) for table in self.tables.values())
        return tables + sum(vocabulary.whole_bytes for vocabulary in self.encoder.vocabularies.values())

    @property
    def overlay_bytes(self) -> int:
        """Number of bytes of the tables and vocabularies that belong to deltas; 0 for a whole version."""
        tables = sum(table.overlay_bytes for table in self.tables.values())
        return tables + sum(vocabulary.overlay_bytes for vocabulary in self.encoder.vocabularies.values())


def open_vector_lookups(version: Path, signature: Signature, *, only_existing: bool = False) -> dict[str, VectorLookup]:
    """Return the look-ups of vectors by key, by name of the feature, for features whose values may be keys.

    Args:
        version: Folder of the version.
        signature: Signature of the version.
        only_existing: True to leave out tables without a file, which a delta shares with its base.

    Raises:
        DataError: A frozen table is missing or damaged.
    """
    tables = DatasetDirectory(version).vector_tables
    names = [each.name for each in signature.vectors if each.type != "number"]
    return {name: VectorLookup(tables[name]) for name in names if not only_existing or tables[name].file.exists()}


def _check_layouts(version: Path, description: Mapping[str, Any], tables: Mapping[str, StoredTable]) -> None:
    """Refuse a delta whose tables have other names, rows, columns or precisions than those of its base."""
    layouts = {each["name"]: (each["rows"], each["dim"], each["precision"]) for each in description["tables"]}
    for name in dict.fromkeys([*tables, *layouts]):
        old = (tables[name].rows, tables[name].dim, tables[name].precision) if name in tables else None
        if layouts.get(name) != old:
            rule = f"it has (rows, columns, precision) {old} in the base, and only values of rows may change"
            raise DataError(str(version), f"table {name} has {layouts.get(name)}", rule, "export a whole version")


def _read_description(version: Path) -> tuple[dict[str, Any], Signature]:
    """Return the content of `model.json`, and the signature in it."""
    description: dict[str, Any] = json.loads((version / MODEL_FILE).read_text(encoding="utf-8"))
    return description, Signature.model_validate_json(json.dumps(description["signature"]))


def _sparse_features(version: Path, signature: Signature) -> list[SparseFeature]:
    features = {feature.name: feature for feature in load_schema(version).sparse}
    return [features[each.name] for each in signature.sparse]


def _digest(version: Path) -> str | None:
    """Return the SHA-256 of the manifest; None if the version is being exported and has none yet."""
    return manifest_digest(version) if (version / MANIFEST).exists() else None
