"""Statistics of parts that no pipeline has written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.engines.duck import DuckEngine
from data_prep.stats import compute
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import DatasetSchema


@contextmanager
def parts_engine(stage: Path, memory: int | None = None) -> Iterator[DuckEngine]:
    """Open an engine that works in the folder of the parts, and leaves nothing there.

    Args:
        stage: Folder of the parts.
        memory: Bytes that the engine may use; None for 80 % of the machine's.
    """
    work = stage / "work"
    work.mkdir(exist_ok=True)
    engine = DuckEngine(work, memory=memory)
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(work)


def describe(
    engine: DuckEngine,
    stage: Path,
    schema: DatasetSchema,
    slices: Sequence[str] | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Any]:
    """Return `stats.json` of the parts below a folder, as `data_prep.stats` describes it.

    Args:
        engine: Engine of `parts_engine`.
        stage: Folder of the parts.
        schema: Schema of the dataset.
        slices: Columns by whose values labels are correlated, as `compute` takes them.
        names: Value that each row stands for, by table and row.
    """
    files = {split: sorted((stage / split).glob("*.parquet")) for split in SPLITS}
    return compute(engine, files, schema, slices=slices, names=names)
