"""Export of a delta: a version that has only what differs from an older version, its base (`delta.py`).

`DeltaVersion` writes its files. It holds the base in memory, compares with it the stored rows of the run and the
vocabularies of the dataset. The check of the export scores held-out rows by the base with these changes.

Shape suffixes: N rows of one chunk, P bytes of a stored row, E changed rows.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ple_rec.config.choices import UsedPrecision
from ple_rec.config.load import load_schema
from ple_rec.config.schema import VECTORS_DIR, VOCAB_DIR
from ple_rec.data.encode import Encoder
from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.errors import DeltaTooLargeError, Option, UserError
from ple_rec.inference.arrays import TABLES
from ple_rec.inference.card import CARD_FILE
from ple_rec.inference.delta import (
    DeltaInfo,
    changed_rows_file,
    manifest_digest,
    read_vocabulary_changes,
    version_chain,
    vocabulary_changes_file,
    write_changed_rows,
    write_vocabulary_changes,
)
from ple_rec.inference.export_options import DELTA_PRECISIONS, ExportOptions
from ple_rec.inference.load_version import load_ranker
from ple_rec.inference.manifest import MODEL_FILE, parse_manifest, read_manifest
from ple_rec.inference.model_dir import find_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.remote_model import local_version
from ple_rec.inference.tables import ChangedRows, StoredTable, row_bytes, stored_chunks
from ple_rec.inference.version_files import (
    copy_descriptions,
    encoded_features,
    frozen_tables,
    table_shards,
    vocabularies,
)
from ple_rec.inference.vocabulary_files import compare_values, read_values
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext

# Files that are left out where the bytes of a delta are compared with those of its whole version.
_DESCRIPTIONS = (MODEL_FILE, CARD_FILE)


class DeltaVersion:
    """Writer of the files of a delta.

    Args:
        folder: Folder of the version.
        context: Opened run, with its weights loaded before `write_tables`.
        model_dir: Folder of the model.
        options: Options of the export, with the name of the base.

    Raises:
        UserError: The base does not exist, or the run does not fit it.
        DataError: The base is damaged.
    """

    def __init__(self, folder: Path, context: EvaluationContext, model_dir: Location, options: ExportOptions) -> None:
        self._folder, self._context, self._options = folder, context, options
        assert options.delta is not None
        base = find_version(model_dir, options.delta, Option.DELTA)
        self._place = Option.DELTA.with_value(options.delta)
        # The files of the chain are verified while they are loaded.
        self._base = load_ranker(base)
        self._chain = [local_version(each) for each in version_chain(base)]
        self._manifest = manifest_digest(self._chain[-1])
        self._changed: dict[str, int] = {}
        self._vocabularies: dict[str, VocabularyChanges] = {}
        self._overlay_bytes, self._share = 0, 0.0
        self._check_run()

    def _check_run(self) -> None:
        """Refuse a run of another model than the base."""
        base, selection, schema = self._base, self._context.selection, self._context.dataset.schema
        for precision in {table["precision"] for table in base.description["tables"]}:
            if precision not in DELTA_PRECISIONS:
                rule = "rows of int8 and int4 stand alone with their scales, so only they are replaced one by one"
                fix = f"export a whole version with {Option.PRECISION.with_value('int8')} first"
                raise UserError(self._place, f"its tables are in {precision}", rule, fix)
            if precision != self._options.precision:
                rule = f"a delta has the precision of its base, and {base.version} is in {precision}"
                fix = f"give {Option.PRECISION.with_value(precision)}"
                raise UserError(Option.PRECISION, f"got {self._options.precision}", rule, fix)
        names = {
            "name": ({base.name}, {self._context.config.name}),
            "features": ({each.name for each in base.signature.inputs}, set(selection.features())),
            "tasks": (set(base.signature.kinds), {each.name for each in selection.tasks}),
        }
        for what, (theirs, ours) in names.items():
            if theirs != ours:
                value = f"{what}: {_sorted_text(ours - theirs)} of the run, {_sorted_text(theirs - ours)} of the base"
                raise self._misfit(value, f"a delta has the {what} of its base")
        trained_on = load_schema(self._chain[-1]).fingerprint
        if trained_on not in schema.lineage():
            raise self._misfit(
                f"its dataset {schema.fingerprint[:16]} does not descend from {trained_on[:16]}, that of the base",
                "in other datasets, rows of tables belong to other values",
            )

        layouts = {}
        for table, shards_RD in table_shards(self._context).items():
            layouts[table] = (sum(len(shard_RD) for shard_RD in shards_RD), shards_RD[0].shape[1])
        for table in dict.fromkeys([*base.arrays.tables, *layouts]):
            before = base.arrays.tables.get(table)
            if before is None or layouts.get(table) != (before.rows, before.dim):
                value = f"table {table} has {_layout_text(layouts.get(table))}"
                known = None if before is None else (before.rows, before.dim)
                raise self._misfit(value, f"in the base it has {_layout_text(known)}")

    def _misfit(self, value: str, rule: str) -> UserError:
        return UserError(self._place, value, rule, f"export a whole version: leave {Option.DELTA} out")

    def write_dataset_files(self) -> Encoder:
        """Write what has changed of the files that turn raw values into inputs, and return an encoder of raw values."""
        folder, context, lookups = self._folder, self._context, {}
        copy_descriptions(folder, context)
        (folder / VOCAB_DIR).mkdir()
        for table, file in vocabularies(context).items():
            changes = compare_values(read_values(file), read_chain_values(self._chain, table))
            write_vocabulary_changes(folder / VOCAB_DIR / vocabulary_changes_file(table), changes)
            self._vocabularies[table] = changes
            lookups[table] = self._base.arrays.encoder.vocabularies[table].with_changes(changes)
            self._overlay_bytes += lookups[table].overlay_bytes
        digests = [parse_manifest(each, read_manifest(each)) for each in reversed(self._chain)]
        for name, file in frozen_tables(context).items():
            before = next((files[name].digest for files in digests if name in files), None)
            with file.open("rb") as stream:
                is_new = hashlib.file_digest(stream, "sha256").hexdigest() != before
            if is_new:
                (folder / VECTORS_DIR).mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name)
        return Encoder(folder, encoded_features(context), vocabularies=lookups)

    def write_tables(self) -> list[dict[str, Any]]:
        """Write the changed rows of each table, and return the entries of `model.json` about the tables.

        Raises:
            DeltaTooLargeError: Too many rows and values have changed.
        """
        folder, precision, entries = self._folder / TABLES, self._options.precision, []
        folder.mkdir()
        for table, shards_RD in table_shards(self._context).items():
            before = self._base.arrays.tables[table]
            changes = find_changed_rows(table, shards_RD, before)
            file = folder / changed_rows_file(table, precision)
            write_changed_rows(file, changes)
            self._changed[table] = len(changes.rows_E)
            self._overlay_bytes += before.with_changes(changes).overlay_bytes
            entry = {"name": table, "file": file.name, "rows": before.rows, "dim": before.dim, "precision": precision}
            entries.append(entry | {"bytes": file.stat().st_size, "changed": self._changed[table]})
        self._share = self._overlay_bytes / max(self._base.arrays.whole_bytes, 1)
        if self._share > self._options.delta_share:
            allowed = float(f"{self._share * 1.1:.2g}")
            raise DeltaTooLargeError(
                self._place,
                f"what has changed since {self._chain[0].name}, the last whole version, takes {self._share:.3g} of the "
                "bytes of its tables and vocabularies",
                f"a server holds it besides them, so at most {self._options.delta_share:g} is allowed",
                f"export a whole version: leave {Option.DELTA} out; or allow it by "
                f"{Option.DELTA_SHARE.with_value(allowed)}",
            )
        return entries

    def describe(self) -> dict[str, Any]:
        """Return the entry of `model.json` that names the base."""
        return {"delta": asdict(DeltaInfo(self._base.version, self._manifest, self._share))}

    def describe_on_card(self) -> dict[str, Any]:
        """Return the changes since the base, and the bytes of the delta and of the whole version of its chain."""
        # The descriptions of this version are not complete yet, so those of the whole version are left out, too.
        whole_files = parse_manifest(self._chain[0], read_manifest(self._chain[0]))
        files = (file for file in self._folder.rglob("*") if file.is_file())
        came_and_went = {
            table: {
                "came": len(changes.raw_E) - changes.raw_E.null_count,
                "went": len(changes.previous_E) - changes.previous_E.null_count,
            }
            for table, changes in self._vocabularies.items()
        }
        return {
            "delta": {
                "base": self._base.version,
                "whole": self._chain[0].name,
                "bytes": sum(file.stat().st_size for file in files if file.name not in _DESCRIPTIONS),
                "whole_bytes": sum(entry.size for name, entry in whole_files.items() if name not in _DESCRIPTIONS),
                "share": self._share,
                "changed_rows": self._changed,
                "values": came_and_went,
            }
        }

    def open_ranker(self, dense_precision: UsedPrecision) -> Ranker:
        """Return the base with the changes of the delta."""
        return self._base.with_delta(self._folder, checked=True, dense_precision=dense_precision)


def read_chain_values(chain: Sequence[Path], table: str) -> Iterator[pa.Array]:
    """Yield the raw values of a table's rows in the last version of a chain, piece by piece (`read_values`).

    Args:
        chain: Folders of a whole version and of the deltas that follow it.
        table: Name of the table.
    """
    changes = [read_vocabulary_changes(each / VOCAB_DIR / vocabulary_changes_file(table)) for each in chain[1:]]
    return read_values(chain[0] / VOCAB_DIR / f"{table}.parquet", changes)


def find_changed_rows(table: str, shards_RD: list[torch.Tensor], before: StoredTable) -> ChangedRows:
    """Return the rows of a table whose stored bytes differ from those of the base."""
    rows: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    stored = [torch.empty((0, row_bytes(before.dim, before.precision)), dtype=torch.uint8)]
    begin = 0
    for shard_RD in shards_RD:
        for chunk_NP in stored_chunks(shard_RD.detach().cpu(), before.precision, table, begin):
            before_NP = before.stored_rows(torch.arange(begin, begin + len(chunk_NP), dtype=torch.int32))
            (places_E,) = (chunk_NP != before_NP).any(1).nonzero(as_tuple=True)
            rows.append((places_E + begin).int().numpy())
            stored.append(chunk_NP.index_select(0, places_E))
            begin += len(chunk_NP)
    return ChangedRows(torch.from_numpy(np.concatenate(rows)), torch.cat(stored))


def _layout_text(layout: tuple[int, int] | None) -> str:
    return "no rows" if layout is None else f"{layout[0]:,} rows of {layout[1]} columns"


def _sorted_text(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
