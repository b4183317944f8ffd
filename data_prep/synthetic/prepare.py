"""`prepare_synthetic`: a synthetic dataset directory, its parts by as many processes as wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.output.parts import read_part
from data_prep.output.summary import Summary
from data_prep.synthetic.design import Design
from data_prep.synthetic.directory import finish, growing_directory, is_made, statistics
from data_prep.synthetic.files import FileWriter, Layout, Written
from data_prep.synthetic.mmoe import NAME as MMOE
from data_prep.synthetic.mmoe import PAPER_DIM, Mmoe
from data_prep.synthetic.mmoe import PAPER_ROWS as MMOE_ROWS
from data_prep.synthetic.oracle import Reachable
from data_prep.synthetic.tencent import NAME as TENCENT
from data_prep.synthetic.tencent import Tencent
from data_prep.synthetic.workers import run_shares
from data_prep.synthetic.world import PAPER_ROWS, World
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import FINGERPRINT_KEY, DatasetSchema, SplitInfo
from ple_rec.errors import UserError
from ple_rec.storage import Location

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
    """Make a synthetic dataset. The same arguments give the same bytes, by however many processes.

    Parts that a stopped run has finished stay, and the next one with the same arguments goes on with them.

    `stats.json` has a key more than others, `reachable`: of valid and test, by task, the AUC and the log loss, or the
    mean squared error, of the probabilities that the labels were drawn by. No model can do better but by chance. Of
    mmoe-synthetic it has `process` too: its correlation, seed, dim, scale, noise_variance, alpha and beta.

    Args:
        name: One of `SYNTHETIC`.
        out: The dataset directory: new, empty, or already prepared.
        rows: Of all splits together; by default the paper's number.
        seed: Of the world.
        correlation: p of mmoe-synthetic, by default 0.5.
        dim: Inputs of mmoe-synthetic, by default 512.
        overwrite: True to replace a dataset directory of another recipe, or a damaged one.
        processes: That make parts at the same time; each takes about 350 MiB.
        memory: Bytes for the statistics, which are made of the written parts; by default 80 % of the machine's.
        progress: Told, as parts are ready, the rows so far and the rows there will be.

    Returns:
        What the directory holds.

    Raises:
        UserError: An unknown name, an argument out of its range, or a place that may not be written.
        DataError: The disk is full.
    """
    design = design_of(name, rows=rows, seed=seed, correlation=correlation, dim=dim)
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
    """`prepare_synthetic` of a design that has no name; same arguments, same errors."""
    digest = _sha256(design.recipe())
    if is_made(out, digest, overwrite=overwrite):
        return Summary.read(out, reused=True)
    empty = DatasetSchema(version=1, fingerprint="", splits={}, **design.fields())
    fingerprint = _sha256({"recipe": digest, "schema": empty.model_dump(mode="json")})
    with growing_directory(out, digest, overwrite=overwrite) as stage:
        if stage is None:
            return Summary.read(out, reused=True)
        written: dict[Split, list[Written]] = {split: [] for split in SPLITS}
        reachable = {split: Reachable(design.tasks) for split in _EVALUATED}
        total, done = int(design.recipe()["rows"]), 0
        for result in run_shares(_write_parts, (design, stage, fingerprint), design.parts(), processes):
            if isinstance(result, dict):
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
        stats = statistics(stage, schema, design.slices(), design.names(), memory)
        stats["reachable"] = {split: counts.results() for split, counts in reachable.items()}
        stats |= design.facts()
        finish(stage, schema, digest, stats)
    return Summary.read(out, reused=False)


def design_of(
    name: str, *, rows: int | None = None, seed: int = 0, correlation: float | None = None, dim: int | None = None
) -> Design:
    """The synthetic dataset of a name; arguments and errors are those of `prepare_synthetic`."""
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
            raise UserError(argument, f"got {value}", f"only {MMOE} has one", "leave it out")
    return Tencent(World(PAPER_ROWS if rows is None else rows, seed))


def _write_parts(
    design: Design, stage: Path, fingerprint: str, parts: Sequence[Any]
) -> Iterator[list[tuple[Split, Written]] | dict[Split, Reachable]]:
    """Write parts, unless they are there; yield the files of each and, at the end, what is reachable on them."""
    reachable = {split: Reachable(design.tasks) for split in _EVALUATED}
    plain = design.layout()
    layout = Layout(plain.schema, plain.plain, plain.split_bytes, {FINGERPRINT_KEY: fingerprint.encode()})
    todo = []
    for part in parts:
        if (there := _finished(stage, fingerprint, part)) is None:
            todo.append(part)
            continue
        for split, file in there:
            if split in reachable:
                _count(reachable[split], file.path)
        yield there
    for part, tables in zip(todo, design.tables(todo), strict=True):
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


def _finished(stage: Path, fingerprint: str, part: Any) -> list[tuple[Split, Written]] | None:
    """The files of a part that a stopped run has left, if all of them are whole."""
    out: list[tuple[Split, Written]] = []
    for split in part.splits:
        path = _path(stage, split, part.index)
        if (found := read_part(path, part.index, fingerprint)) is None:
            return None
        out.append((split, Written(path, found.rows, found.row_groups)))
    return out


def _count(reachable: Reachable, path: Path) -> None:
    """Count the rows of a file, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for i in range(file.num_row_groups):
            reachable.add(file.read_row_group(i))


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
