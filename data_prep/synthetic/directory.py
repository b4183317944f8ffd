"""Where the synthetic data meets the rest of data_prep: the dataset directory and its statistics.

No other module of this folder knows how a directory is staged, finished or described.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa

from data_prep import writer
from data_prep.engines.duck import DuckEngine
from data_prep.stage import staged
from data_prep.stats import compute
from data_prep.summary import Summary
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import DatasetSchema
from ple_rec.errors import UserError

_UNIT = 1 << 30


class _Engine(DuckEngine):
    """DuckDB, whose sums of integers arrive in the type that the expression has, and not as decimals."""

    def fetch(self, rows: ir.Table) -> pa.Table:
        return super().fetch(rows).cast(rows.schema().to_pyarrow())


def already_there(out: Path, digest: str, overwrite: bool) -> Summary | None:
    """What is at `out`, if it is the dataset of this digest; None where the place is free or may be replaced.

    Raises:
        UserError: `out` is another dataset and `overwrite` is false, or is no dataset directory.
    """
    there = writer.prepared_recipe(out)
    if there == digest:
        return Summary.read(out, reused=True)
    if there is not None and not overwrite:
        raise UserError(
            str(out),
            f"was prepared by another recipe ({there[:12] or 'unknown'}, now {digest[:12]})",
            "a dataset directory is replaced on request only",
            "pass --overwrite, or name another --out",
        )
    return None


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A folder with a subfolder a split that becomes `out` when the block ends well, and is removed otherwise."""
    with staged(out, replace=writer.prepared_recipe(out) is not None) as stage:
        for split in SPLITS:
            (stage / split).mkdir()
        yield stage


def finish(stage: Path, schema: DatasetSchema, digest: str, stats: Mapping[str, Any]) -> None:
    """Write what stands beside the parts, `_SUCCESS` last."""
    writer.finish(stage, schema, digest, stats)


def statistics(
    stage: Path,
    schema: DatasetSchema,
    slices: Sequence[str],
    names: Mapping[str, Mapping[int, str]],
    memory: int | None = None,
) -> dict[str, Any]:
    """`stats.json` of the parts that are there, as `data_prep.stats` describes it.

    Columns without a normaliser, of which `mmoe-synthetic` has 512 without two equal values, get counts, limits and
    moments alone, all in one query a split; their `log_mean`, `log_std` and `quantiles` are null, and no drift is told.

    Args:
        stage: The folder of the parts.
        schema: Of the dataset.
        slices: Columns by whose values labels are correlated.
        names: What rows of a table mean.
        memory: Bytes that the engine may use; None for 80 % of the machine's.
    """
    work = stage / "work"
    work.mkdir()
    engine = _Engine(work, memory=memory)
    try:
        parts = {split: engine.read(sorted((stage / split).iterdir())) for split in SPLITS}
        plain = [number.name for number in schema.dense if number.normaliser == "none"]
        others = tuple(number for number in schema.dense if number.normaliser != "none")
        described = schema.model_copy(update={"dense": others})
        stats = compute(engine, parts, described, slices=slices, names=names)
        by_split = {split: _moments(engine, rows, plain) for split, rows in parts.items()} if plain else {}
        for name in plain:
            stats["columns"][name] = {split: figures[name] for split, figures in by_split.items()}
        return stats
    finally:
        engine.close()
        shutil.rmtree(work)


def _moments(engine: DuckEngine, rows: ir.Table, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures of columns by name; sums are of integers, `_UNIT` to 1, so that their order does not matter."""
    figures: dict[str, ir.Value] = {"rows__": rows.count()}
    for name in names:
        x = rows[name].cast("float64")
        figures |= {f"{name}__n": x.count(), f"{name}__min": x.min(), f"{name}__max": x.max()}
        for power, value in (("sum", x), ("squares", x * x)):
            figures[f"{name}__{power}"] = (value * _UNIT).round().cast("int64").sum()
    (row,) = engine.fetch(rows.aggregate(**figures)).to_pylist()
    out = {}
    for name in names:
        n, low, high, total, squares = (row[f"{name}__{key}"] for key in ("n", "min", "max", "sum", "squares"))
        mean = int(total) / (n * _UNIT) if n else None
        std = None if mean is None else math.sqrt(max(0.0, int(squares) / (n * _UNIT) - mean * mean))
        out[name] = {
            "rows": row["rows__"],
            "nulls": row["rows__"] - n,
            "min": low,
            "max": high,
            "mean": mean,
            "std": std,
            **dict.fromkeys(("log_mean", "log_std", "quantiles", "bits")),
        }
    return out
