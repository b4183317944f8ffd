"""Statistics of parts that no pipeline has written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from data_prep.engines.duck import DuckEngine
from data_prep.stats import compute
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import DatasetSchema


class PartsEngine(DuckEngine):
    """DuckDB, which reads columns of sample spaces as truth values, whatever else they are."""

    spaces: Mapping[str, str] = {}  # columns, and those that are added for them

    def read(self, files: Sequence[Path], every: int = 1) -> ir.Table:
        """Read Parquet files, with a column for every space."""
        rows = super().read(files, every)
        return rows.mutate(**{new: rows[column].cast("boolean") for column, new in self.spaces.items()})


@contextmanager
def parts_engine(stage: Path, memory: int | None = None) -> Iterator[PartsEngine]:
    """An engine that works in the folder of the parts, and leaves nothing there.

    Args:
        stage: The folder.
        memory: Bytes that the engine may use; None for 80 % of the machine's.
    """
    work = stage / "work"
    work.mkdir(exist_ok=True)
    engine = PartsEngine(work, memory=memory)
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(work)


def describe(
    engine: PartsEngine,
    stage: Path,
    schema: DatasetSchema,
    slices: Sequence[str] | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Any]:
    """`stats.json` of the parts below a folder, as `data_prep.stats` describes it.

    Args:
        engine: Of `parts_engine`.
        stage: The folder.
        schema: Of the dataset.
        slices: Columns by whose values labels are correlated, as `compute` takes them.
        names: What rows of a table mean.
    """
    engine.spaces = {task.space: f"__space_{i}" for i, task in enumerate(schema.tasks) if task.space is not None}
    tasks = [
        task if task.space is None else task.model_copy(update={"space": engine.spaces[task.space]})
        for task in schema.tasks
    ]
    files = {split: sorted((stage / split).glob("*.parquet")) for split in SPLITS}
    return compute(engine, files, schema.model_copy(update={"tasks": tuple(tasks)}), slices=slices, names=names)
