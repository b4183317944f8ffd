"""Preparation of a synthetic dataset directory by one or more processes.

`Design` is what each synthetic dataset defines (`tencent.py`, `mmoe.py`), above all its parts. A part is a unit of
work, which becomes one Parquet file in each of one or two splits. This module does the rest: it divides the parts among
processes, writes their files to a temporary folder, computes the statistics, and moves or uploads the folder to its
final place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.duck import DuckEngine
from data_prep.output import writer
from data_prep.output.metadata import describe, parts_engine
from data_prep.output.parts import read_part
from data_prep.output.stage import dataset_directory, dataset_exists
from data_prep.output.summary import Summary
from data_prep.stats import write_page
from data_prep.synthetic.files import FileWriter, ParquetLayout, WrittenFile, run_shares
from data_prep.synthetic.mmoe import NAME as MMOE
from data_prep.synthetic.mmoe import PAPER_DIM, Mmoe
from data_prep.synthetic.mmoe import PAPER_ROWS as MMOE_ROWS
from data_prep.synthetic.outcomes import ReachableMetrics
from data_prep.synthetic.tencent import NAME as TENCENT
from data_prep.synthetic.tencent import Tencent
from data_prep.synthetic.world import PAPER_ROWS, World
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import FINGERPRINT_KEY, STATS_PAGE, DatasetSchema, SplitInfo, Task
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location


class Design(Protocol):
    """Design of a synthetic dataset. It must be picklable, for the processes that generate its parts."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks of the dataset. The column `truth_<t>` has the expected value of the label of task `t`."""

    def recipe(self) -> dict[str, Any]:
        """Return all that determines the content of the dataset. Its key `rows` is the number of rows of all splits."""

    def schema_fields(self) -> Mapping[str, Any]:
        """Return the fields of `DatasetSchema`, without `version`, `fingerprint` and `splits`."""

    def slice_columns(self) -> Sequence[str]:
        """Return the columns by whose values the statistics slice the rows for correlations between labels."""

    def raw_values(self) -> Mapping[str, Mapping[int, str]]:
        """Return the raw values of ids, by embedding table and row."""

    def extra_statistics(self) -> Mapping[str, Any]:
        """Return further keys and values for `stats.json`, which describe how the data was generated."""

    def layout(self) -> ParquetLayout:
        """Return the layout of the Parquet files, without metadata."""

    def parts(self) -> Sequence[Any]:
        """Return the parts of the dataset. The attributes `splits` and `index` of each give the names of its files."""

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """Yield for each part an iterator over its row groups, in order, each with its split."""


_UNIT = 1 << 30  # Values are summed as integers in units of 1 / _UNIT, so that sums do not depend on the order.


def is_prepared(out: Location, digest: str, *, overwrite: bool) -> bool:
    """Return True if `out` is already the dataset of this recipe, so that it need not be generated.

    With `overwrite`, the result is False for another dataset, and for a damaged one.

    Raises:
        UserError: `out` holds another dataset, or an unfinished upload of one, and `overwrite` is false; or `out` has
            files that belong to no dataset.
    """

    def refusal(old_digest: str) -> UserError:
        return UserError(
            str(out),
            f"was prepared with other arguments (digest {old_digest[:12] or 'unknown'}, now {digest[:12]})",
            "a dataset directory is replaced on request only",
            f"pass {Option.OVERWRITE}, or name another {Option.OUT}",
        )

    return dataset_exists(out, digest, overwrite=overwrite, refusal=refusal)


@contextmanager
def staged_directory(out: Location, digest: str, *, overwrite: bool) -> Iterator[Path | None]:
    """Yield a temporary folder with a subfolder for each split, which becomes `out` when the block succeeds.

    Yield None if `out` is already the dataset of this recipe. If the block is interrupted, the folder stays with its
    complete files, and the next call with the same recipe yields it again.

    Args:
        out: Path or address of the dataset directory.
        digest: Digest of the recipe.
        overwrite: True to replace another dataset, or a damaged one.

    Raises:
        UserError: `out` holds another dataset and `overwrite` is false, another process is writing to `out`, the
            folder is not writable, or the disk is full.
    """
    with dataset_directory(out, overwrite=overwrite) as stage:
        if is_prepared(out, digest, overwrite=overwrite):
            yield None
            return
        stage.begin(digest)
        for split in SPLITS:
            (stage.folder / split).mkdir(exist_ok=True)
        yield stage.folder


def finish(stage: Path, schema: DatasetSchema, digest: str, stats: Mapping[str, Any]) -> None:
    """Write all files of a dataset directory other than the Parquet files; `_SUCCESS` is the last."""
    write_page(stats, schema, stage / STATS_PAGE)
    writer.finish(stage, schema, digest, stats)


def statistics(
    stage: Path,
    schema: DatasetSchema,
    slices: Sequence[str],
    names: Mapping[str, Mapping[int, str]],
    memory: int | None = None,
) -> dict[str, Any]:
    """Return the content of `stats.json` for the written files; its format is described in `data_prep.stats`.

    For dense columns without a normaliser, only counts, minimum, maximum, mean and standard deviation are computed, in
    one query per split; their other figures and their drift are None. `mmoe-synthetic` has 512 such columns, in which
    nearly all values differ.

    Args:
        stage: Folder of the Parquet files.
        schema: Schema of the dataset.
        slices: Columns for each of whose values the correlations between labels are reported.
        names: Raw values of ids, by embedding table and row.
        memory: Bytes that the engine may use; None for 80 % of the machine's memory.
    """
    unnormalised = [number.name for number in schema.dense if number.normaliser == "none"]
    normalised = tuple(number for number in schema.dense if number.normaliser != "none")
    with parts_engine(stage, memory) as engine:
        stats = describe(engine, stage, schema.model_copy(update={"dense": normalised}), slices, names)
        for split in SPLITS if unnormalised else ():
            rows = engine.read(sorted((stage / split).glob("*.parquet")))
            for name, figures in _moments(engine, rows, unnormalised).items():
                stats["columns"].setdefault(name, {})[split] = figures
    stats["drift"] |= {name: dict.fromkeys(("psi", "chance", "ks")) for name in unnormalised}
    return stats


def _moments(engine: DuckEngine, rows: ir.Table, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of dense columns, by column and key of `stats.json`; those that are not computed are None."""
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


SYNTHETIC = (TENCENT, MMOE)
_EVALUATED: tuple[Split, ...] = ("valid", "test")


def prepare_synthetic(
    name: str,
    out: Location,
    *,
    rows: int | None = None,
    seed: int = 0,
    correlation: float | None = None,
    dim: int | None = None,
    overwrite: bool = False,
    processes: int = 1,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Prepare a synthetic dataset. The same arguments give the same bytes, with any number of processes.

    If the preparation is interrupted, the next one with the same arguments goes on with the files that are complete.

    In `stats.json`, the additional key `reachable` has, by split (valid and test) and task, the AUC and log loss, or
    the mean squared error, of the expected values from which the labels were drawn. A model can be better only by
    chance.
    For mmoe-synthetic, the key `process` has its correlation, seed, dim, scale, noise_variance, alpha and beta.

    Args:
        name: Name of the dataset, one of `SYNTHETIC`.
        out: Path or address of the dataset directory: new, empty, or already prepared.
        rows: Number of rows of all splits together; None for the number in the paper, 995 M for tencent-synthetic and
            1.4 M for mmoe-synthetic.
        seed: Seed of everything that is random.
        correlation: Cosine p of the two weights of mmoe-synthetic (`mmoe.py`); None for 0.5.
        dim: Number of inputs of mmoe-synthetic; None for 512.
        overwrite: True to replace a dataset directory of another recipe, or a damaged one.
        processes: Number of processes that generate parts. Each takes about 350 MiB of memory.
        memory: Bytes of memory for the statistics; None for 80 % of the machine's memory.
        progress: Function that is called with the number of rows in complete files, and the number of all rows.

    Returns:
        Summary of the directory.

    Raises:
        UserError: The name is unknown, an argument is out of range or not one of this dataset, `out` holds something
            else or cannot be written, or the disk is full.
    """
    design = make_design(name, rows=rows, seed=seed, correlation=correlation, dim=dim)
    return prepare_design(design, out, overwrite=overwrite, processes=processes, memory=memory, progress=progress)


def prepare_design(
    design: Design,
    out: Location,
    *,
    overwrite: bool = False,
    processes: int = 1,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Prepare the dataset of a design. Arguments and errors are those of `prepare_synthetic`."""
    digest = _sha256(design.recipe())
    if is_prepared(out, digest, overwrite=overwrite):
        return Summary.read(out, reused=True)
    empty = DatasetSchema(version=1, fingerprint="", splits={}, **design.schema_fields())
    fingerprint = _sha256({"recipe": digest, "schema": empty.model_dump(mode="json")})
    with staged_directory(out, digest, overwrite=overwrite) as stage:
        if stage is None:
            return Summary.read(out, reused=True)
        written: dict[Split, list[WrittenFile]] = {split: [] for split in SPLITS}
        reachable = {split: ReachableMetrics(design.tasks) for split in _EVALUATED}
        total, done = int(design.recipe()["rows"]), 0
        for result in run_shares(_write_parts, (design, stage, fingerprint), design.parts(), processes):
            if isinstance(result, dict):  # The last result of a worker.
                for split, counts in result.items():
                    reachable[split].merge(counts)
                continue
            for split, file in result:
                written[split].append(file)
                done += file.rows
            if progress is not None:
                progress(done, total)
        splits = {
            split: SplitInfo(rows=sum(f.rows for f in files), row_groups=sum(f.row_groups for f in files))
            for split, files in written.items()
        }
        schema = DatasetSchema(**empty.model_dump() | {"fingerprint": fingerprint, "splits": splits})
        stats = statistics(stage, schema, design.slice_columns(), design.raw_values(), memory)
        stats["reachable"] = {split: counts.results() for split, counts in reachable.items()}
        stats |= design.extra_statistics()
        finish(stage, schema, digest, stats)
    return Summary.read(out, reused=False)


def make_design(
    name: str, *, rows: int | None = None, seed: int = 0, correlation: float | None = None, dim: int | None = None
) -> Design:
    """Return the design of the dataset `name`. Arguments and errors are those of `prepare_synthetic`."""
    if name == MMOE:
        return Mmoe(
            MMOE_ROWS if rows is None else rows,
            0.5 if correlation is None else correlation,
            seed,
            PAPER_DIM if dim is None else dim,
        )
    if name != TENCENT:
        raise UserError("prep", f"unknown synthetic data set {name!r}", f"known are {', '.join(SYNTHETIC)}", "use one")
    for argument, value in (("correlation", correlation), ("dim", dim)):
        if value is not None:
            raise UserError(argument, f"got {value}", f"only {MMOE} has this option", "remove it")
    return Tencent(World(PAPER_ROWS if rows is None else rows, seed))


def _write_parts(
    design: Design, stage: Path, fingerprint: str, parts: Sequence[Any]
) -> Iterator[list[tuple[Split, WrittenFile]] | dict[Split, ReachableMetrics]]:
    """Write the files of those parts whose files are not all complete yet.

    Yield the files of each part, old or new, and at the end the reachable metrics of the rows of all these parts, by
    split.
    """
    reachable = {split: ReachableMetrics(design.tasks) for split in _EVALUATED}
    base_layout = design.layout()
    layout = ParquetLayout(
        base_layout.schema,
        base_layout.without_dictionary,
        base_layout.split_bytes,
        {FINGERPRINT_KEY: fingerprint.encode()},
    )
    missing = []
    for part in parts:
        if (files := _finished_files(stage, fingerprint, part)) is None:
            missing.append(part)
            continue
        for split, file in files:
            if split in reachable:
                _add_file(reachable[split], file.path)
        yield files
    for part, tables in zip(missing, design.tables(missing), strict=True):
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(FileWriter(_path(stage, split, part.index), layout)) for split in part.splits
            }
            for split, table in tables:
                writers[split].add(table)
                if split in reachable:
                    reachable[split].add(table)
        yield [(split, writer.written) for split, writer in writers.items()]
    yield reachable


def _path(stage: Path, split: Split, index: int) -> Path:
    return stage / split / f"part-{index:05d}.parquet"


def _finished_files(stage: Path, fingerprint: str, part: Any) -> list[tuple[Split, WrittenFile]] | None:
    """Return the files of a part if an interrupted preparation has written all of them completely; None otherwise."""
    out: list[tuple[Split, WrittenFile]] = []
    for split in part.splits:
        path = _path(stage, split, part.index)
        if (part_file := read_part(path, part.index, fingerprint)) is None:
            return None
        out.append((split, WrittenFile(path, part_file.rows, part_file.row_groups)))
    return out


def _add_file(reachable: ReachableMetrics, path: Path) -> None:
    """Add the rows of a file to the reachable metrics, one row group at a time."""
    with pq.ParquetFile(path) as file:
        for i in range(file.num_row_groups):
            reachable.add(file.read_row_group(i))


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
