"""Versions of one model by days: each changes rows, values and weights of the one before, whole and as a delta of it.

They are made from an exported version without a run, so that a chain of several takes no time.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ple_rec.config.choices import TablePrecision
from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.inference.delta import (
    DeltaInfo,
    changed_rows_file,
    manifest_digest,
    vocabulary_changes_file,
    write_changed_rows,
    write_vocabulary_changes,
)
from ple_rec.inference.manifest import MANIFEST, write_manifest
from ple_rec.inference.program import PROGRAM
from ple_rec.inference.tables import ChangedRows, StoredTable, row_bytes, write_table
from tests.inference.exported import set_latest


class Days:
    """Model directory `model` with the whole version v1 and deltas after it, and the same versions whole in `whole`.

    Args:
        folder: Folder of both.
        exported: Whole version in fp32, from which v1 is made.
        precision: Precision of the tables.
    """

    def __init__(self, folder: Path, exported: Path, precision: TablePrecision = "int8") -> None:
        self.model, self._whole, self.count = folder / "model", folder / "whole", 1
        shutil.copytree(exported, self.whole(1))
        with edit(self.whole(1)) as description:
            for table in description["tables"]:
                _convert(self.whole(1) / "tables", table, precision)
        shutil.copytree(self.whole(1), self.version(1))
        set_latest(self.model, "v1")

    def version(self, number: int) -> Path:
        """Return the folder of a version in the model."""
        return self.model / "versions" / f"v{number}"

    def whole(self, number: int) -> Path:
        """Return the folder of the same version as a whole one."""
        return self._whole / f"v{number}"

    def add(self, *, whole: bool = False, change: Callable[[Path], None] = lambda _: None) -> int:
        """Write the next version, and return its number; `latest` stays.

        Args:
            whole: True for a whole version in place of a delta of the last one.
            change: Function that changes further files of a whole version.
        """
        before, self.count = self.count, self.count + 1
        shutil.copytree(self.whole(before), self.whole(self.count))
        change_version(self.whole(self.count), self.count, change)
        if whole:
            shutil.copytree(self.whole(self.count), self.version(self.count))
        else:
            write_delta(self.whole(before), self.whole(self.count), self.version(before), self.version(self.count))
        return self.count


@contextmanager
def edit(version: Path) -> Iterator[dict[str, Any]]:
    """Change files of a version, with the content of `model.json`; the manifest is written anew."""
    description = json.loads((version / "model.json").read_text())
    (version / MANIFEST).unlink(missing_ok=True)
    yield description
    (version / "model.json").write_text(json.dumps(description))
    write_manifest(version)


def change_version(version: Path, seed: int, change: Callable[[Path], None]) -> None:
    """Change a tenth of the rows of each table, some values of each vocabulary, and the weights of a whole version."""
    rng = np.random.default_rng(seed)
    with edit(version) as description:
        for table in description["tables"]:
            file = version / "tables" / table["file"]
            stored = np.fromfile(file, np.uint8).reshape(table["rows"], -1)
            rows = rng.choice(len(stored), 2 + len(stored) // 10, replace=False)
            stored[rows] = stored[rng.permutation(len(stored))[: len(rows)]]
            stored.tofile(file)
            vocabulary = version / "vocab" / f"{table['name']}.parquet"
            if vocabulary.exists():
                _change_vocabulary(vocabulary, table["rows"], seed, rng)
        _scale_weights(version / PROGRAM)
        change(version)


def _change_vocabulary(file: Path, rows: int, seed: int, rng: np.random.Generator) -> None:
    """Let one value leave, two others change their rows, and new values take a freed row and one after the last."""
    values = pq.read_table(file)["raw"].combine_chunks()
    kind, raw = values.type, values.to_pylist()
    new = [f"new {seed} {i}" if pa.types.is_string(kind) else 10_000 * seed + i for i in range(2)]
    free = [i for i, value in enumerate(raw) if value is None]
    used = [i for i, value in enumerate(raw) if value is not None]
    if free:
        raw[free[0]] = new[0]
    if len(raw) < rows - 8:
        raw.append(new[1])
    gone, one, other = rng.choice(used, 3, replace=False)
    raw[gone], raw[one], raw[other] = None, raw[other], raw[one]
    days = [None if value is None else 19_000 for value in raw]
    columns = {
        "raw": pa.array(raw, kind),
        "row": pa.array(range(1, len(raw) + 1), pa.int32()),
        "day": pa.array(days, pa.int32()),
    }
    pq.write_table(pa.table(columns), file)
    for index in file.parent.glob(f"{file.stem}.*.index"):
        shutil.rmtree(index)


def _scale_weights(program: Path) -> None:
    """Multiply the weights of the dense layers by 1.01."""
    with zipfile.ZipFile(program) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    folder = f"{next(iter(content)).split('/')[0]}/data/weights"
    for each in json.loads(content[f"{folder}/model_weights_config.json"])["config"].values():
        if each["tensor_meta"]["dtype"] == 7:
            name = f"{folder}/{each['path_name']}"
            content[name] = (np.frombuffer(content[name], np.float32) * np.float32(1.01)).tobytes()
    with zipfile.ZipFile(program, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)


def write_delta(older: Path, newer: Path, base: Path, delta: Path) -> None:
    """Write the delta of a version.

    Args:
        older: The base as a whole version.
        newer: The new version as a whole one.
        base: Folder of the base in the model.
        delta: Folder of the delta.
    """
    shutil.copytree(newer, delta)
    changed_bytes = all_bytes = 0
    with edit(delta) as description:
        for table in description["tables"]:
            file = delta / "tables" / table["file"]
            before, after = (np.fromfile(each, np.uint8) for each in (older / "tables" / table["file"], file))
            width = row_bytes(table["dim"], table["precision"])
            before, after = before.reshape(-1, width), after.reshape(-1, width)
            rows = (before != after).any(1).nonzero()[0].astype(np.int32)
            file.unlink()
            table["changed"], table["file"] = len(rows), changed_rows_file(table["name"], table["precision"])
            changes = ChangedRows(torch.from_numpy(rows), torch.from_numpy(after[rows]))
            write_changed_rows(delta / "tables" / table["file"], changes)
            changed_bytes, all_bytes = changed_bytes + len(rows) * width, all_bytes + len(after) * width
            vocabulary = f"vocab/{table['name']}.parquet"
            if (delta / vocabulary).exists():
                changes_of_values = _compare(older / vocabulary, newer / vocabulary)
                write_vocabulary_changes(delta / "vocab" / vocabulary_changes_file(table["name"]), changes_of_values)
                (delta / vocabulary).unlink()
        for index in (delta / "vocab").glob("*.index"):
            shutil.rmtree(index)
        for vectors in (delta / "vectors").glob("*.parquet"):
            if vectors.read_bytes() == (older / "vectors" / vectors.name).read_bytes():
                vectors.unlink()
        info = DeltaInfo(base.name, manifest_digest(base), changed_bytes / all_bytes)
        description["delta"] = vars(info)


def _compare(older: Path, newer: Path) -> VocabularyChanges:
    before, after = (pq.read_table(file)["raw"].combine_chunks() for file in (older, newer))
    kind, before, after = after.type, before.to_pylist(), after.to_pylist()
    before += [None] * (len(after) - len(before))
    rows = [i for i in range(len(after)) if before[i] != after[i]]
    raw, previous = (pa.array([each[i] for i in rows], kind) for each in (after, before))
    return VocabularyChanges(np.array(rows, np.int32) + np.int32(1), raw, previous)


def values_of(version: Path, table: str) -> list[Any]:
    """Return the values of a vocabulary of a whole version."""
    return list(
        filter(lambda each: each is not None, pq.read_table(version / f"vocab/{table}.parquet")["raw"].to_pylist())
    )


def _convert(folder: Path, table: dict[str, Any], precision: TablePrecision) -> None:
    """Write a table of fp32 in another precision, and change its entry in `model.json`."""
    old = folder / table["file"]
    weight_RD = StoredTable(old, table["rows"], table["dim"], "fp32").stored_rows(
        torch.arange(table["rows"], dtype=torch.int32)
    )
    old.unlink()
    table["file"], table["precision"] = f"{table['name']}.{precision}", precision
    with (folder / table["file"]).open("wb") as stream:
        write_table(stream, weight_RD, precision)
    table["bytes"] = (folder / table["file"]).stat().st_size
