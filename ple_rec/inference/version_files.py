"""Files of a version that an export makes from the run's dataset and weights: vocabularies, vectors and tables.

`VersionFiles` is what `export` needs of them. `WholeVersion` writes them whole, and `delta_export.DeltaVersion` only
what differs from an older version.

Shape suffixes: R rows of one shard, D columns of a table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torchrec.distributed.types import ShardedTensor

from ple_rec.config.choices import TablePrecision, UsedPrecision
from ple_rec.config.prep import PREP_FILE
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VECTORS_DIR, VOCAB_DIR, SparseFeature
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError
from ple_rec.inference.arrays import TABLES
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.tables import check_dim, write_table
from ple_rec.training.context import EvaluationContext


class VersionFiles(Protocol):
    """Writer of the files of a version that come from the dataset and the weights of the run."""

    def write_dataset_files(self) -> Encoder:
        """Write the files that turn raw values into inputs of the model, and return an encoder of raw values.

        Raises:
            DataError: A file has changed since the dataset was prepared.
        """
        ...

    def write_tables(self) -> list[dict[str, Any]]:
        """Write a file for each table, and return the entries of `model.json` about them."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return further entries of `model.json`, after the tables have been written."""
        ...

    def describe_on_card(self) -> dict[str, Any]:
        """Return further entries of the model card, after all other files have been written."""
        ...

    def open_ranker(self, dense_precision: UsedPrecision) -> Ranker:
        """Return the version in memory, after all files that it reads have been written.

        Args:
            dense_precision: Precision of matrix products.
        """
        ...


class WholeVersion:
    """Writer of the files of a whole version.

    Args:
        folder: Folder of the version.
        context: Opened run, with its weights loaded before `write_tables`.
        precision: Precision of the tables.
    """

    def __init__(self, folder: Path, context: EvaluationContext, precision: TablePrecision) -> None:
        self._folder, self._context, self._precision = folder, context, precision

    def write_dataset_files(self) -> Encoder:
        """Write the files that turn raw values into inputs of the model, and return an encoder of raw values."""
        copy_descriptions(self._folder, self._context)
        (self._folder / VOCAB_DIR).mkdir()
        for table, file in vocabularies(self._context).items():
            shutil.copyfile(file, self._folder / VOCAB_DIR / f"{table}.parquet")
        frozen = frozen_tables(self._context)
        if frozen:
            (self._folder / VECTORS_DIR).mkdir()
        for name, file in frozen.items():
            shutil.copyfile(file, self._folder / name)
        # The encoder builds the indices of the vocabularies beside them, so that a server need not.
        return Encoder(self._folder, encoded_features(self._context))

    def write_tables(self) -> list[dict[str, Any]]:
        """Write a file for each table, and return the entries of `model.json` about them."""
        folder, precision, tables = self._folder / TABLES, self._precision, []
        folder.mkdir()
        for table, shards_RD in table_shards(self._context).items():
            rows, dim = sum(len(shard_RD) for shard_RD in shards_RD), shards_RD[0].shape[1]
            check_dim(table, dim, precision)
            file = folder / f"{table}.{precision}"
            with file.open("wb") as stream:
                for shard_RD in shards_RD:
                    write_table(stream, shard_RD.detach().cpu(), precision)
            entry = {"name": table, "file": file.name, "rows": rows, "dim": dim, "precision": precision}
            tables.append(entry | {"bytes": file.stat().st_size})
        return tables

    def describe(self) -> dict[str, Any]:
        """Return no further entries."""
        return {}

    def describe_on_card(self) -> dict[str, Any]:
        """Return no further entries."""
        return {}

    def open_ranker(self, dense_precision: UsedPrecision) -> Ranker:
        """Return the version in memory."""
        return Ranker(self._folder, checked=True, dense_precision=dense_precision)


def copy_descriptions(folder: Path, context: EvaluationContext) -> None:
    """Copy the small files that describe the dataset.

    Raises:
        DataError: A file has changed since the dataset was prepared.
    """
    dataset = context.dataset
    for name in (SCHEMA_FILE, PREP_FILE):
        if (dataset.path / name).exists():
            shutil.copyfile(dataset.digests.local_copy(name), folder / name)
    # Readers of a dataset expect this file; the digests of a version are in its manifest.
    (folder / SUCCESS_FILE).touch()
    numbers = {feature.name for feature in (*context.selection.dense, *context.selection.vectors)}
    statistics = dataset.statistics() if numbers else {}
    columns = {name: {"train": column.get("train", {})} for name, column in statistics.items() if name in numbers}
    (folder / STATS_FILE).write_text(json.dumps({"columns": columns}, indent=1) + "\n", encoding="utf-8")


def encoded_features(context: EvaluationContext) -> list[SparseFeature]:
    """Return the sparse features of the run without the columns of histories, whose items are among them."""
    return [*context.selection.single, *context.selection.bags]


def vocabularies(context: EvaluationContext) -> dict[str, Path]:
    """Return the vocabulary of each table that has one, on this machine."""
    dataset, files = context.dataset, {}
    for table in dict.fromkeys(feature.table for feature in context.selection.sparse):
        name = f"{VOCAB_DIR}/{table}.parquet"
        if (dataset.path / name).exists():
            files[table] = dataset.digests.local_copy(name)
    return files


def frozen_tables(context: EvaluationContext) -> dict[str, Path]:
    """Return the files of the frozen tables on this machine, by their names in the folder of a version."""
    frozen = [feature.name for feature in context.selection.vectors if feature.table is not None]
    tables = context.dataset.vector_tables if frozen else {}
    return {tables[name].name: context.dataset.digests.local_copy(tables[name].name) for name in frozen}


def table_shards(context: EvaluationContext) -> dict[str, list[torch.Tensor]]:
    """Return the shards (R, D) of each table in the order of its rows.

    The run is loaded in one process, so all shards of a table are local.
    """
    weights: Iterator[tuple[str, Any]] = iter(context.model.state_dict().items())
    # Tables of bags are in `embeddings.embedding_bags`, and tables whose rows are not pooled in `sequences.embeddings`.
    places = (".embedding_bags.", "sequences.embeddings.")
    return {
        key.split(".")[-2]: _row_shards(key, value) for key, value in weights if any(place in key for place in places)
    }


def _row_shards(key: str, value: Any) -> list[torch.Tensor]:
    """Return the local shards of a table in the order of its rows; each shard has whole rows."""
    if not isinstance(value, ShardedTensor):
        return [value]
    shards = sorted(value.local_shards(), key=lambda shard: shard.metadata.shard_offsets)
    columns = {tuple(shard.metadata.shard_offsets)[1] for shard in shards}
    if columns != {0} or sum(len(shard.tensor) for shard in shards) != value.size(0):
        raise DataError(
            key,
            f"shards at columns {sorted(columns)}",
            "in one process, shards have whole rows",
            "report this as a bug",
        )
    return [shard.tensor for shard in shards]
