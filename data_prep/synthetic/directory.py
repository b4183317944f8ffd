"""Where the synthetic data meets the rest of data_prep: the dataset directory and its statistics.

No other module of this folder knows how a directory is staged, finished or described.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from data_prep.engines.duck import DuckEngine
from data_prep.output import writer
from data_prep.output.description import describe, parts_engine
from data_prep.output.stage import dataset_directory, is_there
from data_prep.stats import write_page
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import STATS_PAGE, DatasetSchema
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location

_UNIT = 1 << 30


def is_made(out: Location, digest: str, *, overwrite: bool) -> bool:
    """Return whether `out` is the dataset of this recipe, and need not be made again.

    Raises:
        UserError: `out` is another dataset and `overwrite` is false, or is no dataset directory.
    """

    def refusal(there: str) -> UserError:
        return UserError(
            str(out),
            f"was prepared by another recipe ({there[:12] or 'unknown'}, now {digest[:12]})",
            "a dataset directory is replaced on request only",
            f"pass {Option.OVERWRITE}, or name another {Option.OUT}",
        )

    return is_there(out, digest, overwrite=overwrite, refusal=refusal)


@contextmanager
def growing_directory(out: Location, digest: str, *, overwrite: bool) -> Iterator[Path | None]:
    """Make a folder with a subfolder a split that becomes `out` when the block ends well; None where `out` is there.

    What a stopped run of the same recipe has finished is there; what this one finishes stays if it is stopped.

    Args:
        out: Path or address of the dataset directory.
        digest: Digest of the recipe.
        overwrite: Flag that another dataset gives way.

    Raises:
        UserError: Another dataset is there, another run is writing it, the place may not be written, or the disk is
            full.
    """
    with dataset_directory(out, overwrite=overwrite) as growing:
        if is_made(out, digest, overwrite=overwrite):
            yield None
            return
        growing.begin(digest)
        for split in SPLITS:
            (growing.folder / split).mkdir(exist_ok=True)
        yield growing.folder


def finish(stage: Path, schema: DatasetSchema, digest: str, stats: Mapping[str, Any]) -> None:
    """Write what stands beside the parts, the page of the statistics too, `_SUCCESS` last."""
    write_page(stats, schema, stage / STATS_PAGE)
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
    moments alone, all in one query a split; their `log_mean`, `log_std`, `quantiles` and drift are null.

    Args:
        stage: The folder of the parts.
        schema: Of the dataset.
        slices: Columns by whose values labels are correlated.
        names: What rows of a table mean.
        memory: Bytes that the engine may use; None for 80 % of the machine's.
    """
    plain = [number.name for number in schema.dense if number.normaliser == "none"]
    others = tuple(number for number in schema.dense if number.normaliser != "none")
    with parts_engine(stage, memory) as engine:
        stats = describe(engine, stage, schema.model_copy(update={"dense": others}), slices, names)
        for split in SPLITS if plain else ():
            rows = engine.read(sorted((stage / split).glob("*.parquet")))
            for name, figures in _moments(engine, rows, plain).items():
                stats["columns"].setdefault(name, {})[split] = figures
    stats["drift"] |= {name: dict.fromkeys(("psi", "chance", "ks")) for name in plain}
    return stats


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
