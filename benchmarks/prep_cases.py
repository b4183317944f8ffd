"""Cases that benchmarks of preparations share: `ple-rec prep` of raw logs, and queries of a bare DuckDB.

A folder of a benchmark has the raw logs in `raw/` (`benchmarks.raw_logs`). The arguments of a benchmark are those of
`prep_parser`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import Pass, PassResult, parser, say, time_work
from data_prep.run import Options, prepare
from ple_rec.runtime.host import usable_cores

# Share of `--memory` that DuckDB may use in bare queries; Python and the writers take the rest.
_SHARE_OF_DUCKDB = 0.75
# Format of the files that bare queries write, like that of the parts of a dataset.
PARQUET_LAYOUT = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536"


def prep_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all benchmarks of preparations have.

    Args:
        description: Docstring of the benchmark.
    """
    arguments = parser(description, repeats=3)
    arguments.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="raw rows; default 2 M")
    arguments.add_argument(
        "--memory", type=int, default=8 << 30, metavar="BYTES", help="memory of each case; default 8 GiB"
    )
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    return arguments


def _timed(title: str, work: Callable[[], object], rows: int) -> PassResult:
    """Do some work once, and say how many seconds of CPU time it took."""
    begun = time.process_time()
    result = time_work(work, rows)
    say(f"{title}: {time.process_time() - begun:.1f} s of CPU time, {result.seconds:.1f} s")
    return result


@contextmanager
def pipeline(folder: Path, toml: str, args: argparse.Namespace) -> Iterator[Pass]:
    """Prepare the logs in each pass by `data_prep.prepare`.

    Args:
        folder: Folder of the benchmark. The dataset gets the name of the TOML file without its ending.
        toml: Name of the TOML file in the folder.
        args: Arguments of the benchmark.
    """
    options = Options(source=str(folder / "raw"), memory=args.memory, threads=args.threads)
    file = folder / toml
    out = file.with_suffix("")

    def prepare_once() -> PassResult:
        shutil.rmtree(out, ignore_errors=True)
        return _timed(file.stem, lambda: prepare(str(file), out, options), args.rows)

    yield prepare_once


@contextmanager
def bare_queries(folder: Path, queries: Sequence[str], args: argparse.Namespace) -> Iterator[Pass]:
    """Run queries in each pass by DuckDB alone, in the new folder `bare/` of the benchmark.

    Args:
        folder: Folder of the benchmark.
        queries: Queries, in their order.
        args: Arguments of the benchmark.
    """
    work = folder / "bare"
    settings: dict[str, Any] = {
        "memory_limit": f"{int(args.memory * _SHARE_OF_DUCKDB)}B",
        "temp_directory": str(work / "spill"),
        "preserve_insertion_order": False,
        "threads": args.threads,
    }

    def run() -> None:
        with duckdb.connect(str(work / "bare.duckdb"), config=settings) as duck:
            duck.execute("SET enable_progress_bar = false")
            for query in queries:
                duck.execute(query)

    def run_once() -> PassResult:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return _timed("bare", run, args.rows)

    yield run_once
