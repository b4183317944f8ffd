"""A tiny run, trained in this process, for tests of what is made of finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.config.run import RunConfig
from ple_rec.train.run import train
from tests.reports.without_charts import without_charts
from tests.train.small import small_config, write_small


def _tab(split: Split, table: pa.Table) -> pa.Table:
    """A column that the schema does not name: from which tab a row came; none of some rows."""
    names = [None if i % 17 == 0 else "auto" if i % 3 else "click" for i in range(len(table))]
    return table.append_column("tab", pa.array(names))


def train_tiny(
    folder: Path, changes: dict[str, Any] | None = None, name: str = "run", model: dict[str, Any] | None = None
) -> Path:
    """A finished run below `folder`, over the dataset directory `folder/data`, which is made where it is not there.

    Args:
        folder: Of both.
        changes: As of `small_config`.
        name: Of the run directory.
        model: In the place of the two-level PLE.
    """
    if not (folder / "data").exists():
        write_small(folder / "data", edit=_tab)
    config = small_config(folder / "data", changes)
    if model is not None:
        config = RunConfig.model_validate_json(json.dumps(config.model_dump(mode="json") | {"model": model}))
    with without_charts():
        train(config, folder / name)
    return folder / name
