"""Rate of `ple-rec prep` in raw rows per second, beside a bare DuckDB query with the same joins.

    python -m benchmarks.prep [--rows N] [--memory BYTES]

The query counts and numbers the values of the same columns, joins the numbers, and writes the rows in any order. It has
no checks, splits or statistics. With 60 M rows the log has as many users and videos as the paper's; with fewer rows it
has proportionally fewer.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import BenchmarkCase, Pass, PassResult, parser, race, report, say, scratch_folder, time_work
from benchmarks.raw_logs import DENSE_COLUMNS, SMALL_COLUMNS, prep_toml, write_logs
from data_prep.run import Options, prepare
from ple_rec.runtime.host import usable_cores

# Numbers of users and videos in the paper, which a log of _ROWS rows gets.
_USERS, _VIDEOS, _ROWS = 46_926_000, 2_682_000, 60_000_000
# Share of `--memory` that DuckDB may use in the bare query; Python and the writers take the rest.
_SHARE_OF_DUCKDB = 0.75


@contextmanager
def pipeline(folder: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Prepare the logs in each pass by `data_prep.prepare`."""
    options = Options(source=str(folder / "raw"), memory=args.memory, threads=args.threads)

    def prepare_once() -> PassResult:
        shutil.rmtree(folder / "prep", ignore_errors=True)
        return time_work(lambda: prepare(str(folder / "feed.toml"), folder / "prep", options), args.rows)

    yield prepare_once


@contextmanager
def bare_query(folder: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Count and number the values in each pass, and join and write the same columns, by DuckDB alone."""
    sparse = ["user_id", "video_id", *(f"s{i}" for i in range(SMALL_COLUMNS))]
    log = f"read_parquet('{folder / 'raw'}/*.parquet')"
    columns = [
        *(f"coalesce(v_{name}.row, 0) AS {name}" for name in sparse),
        *(f"d{i}::FLOAT AS d{i}" for i in range(DENSE_COLUMNS)),
        "(play_time_ms > 3000)::FLOAT AS valid_view",
        "least(1, greatest(0, play_time_ms / duration_ms))::FLOAT AS completion",
        *(f"is_{name}::FLOAT AS {name}" for name in ("share", "comment")),
        "is_click = 1 AS clicked, user_id AS grouped",
    ]
    joins = " ".join(f"LEFT JOIN v_{name} ON log.{name} = v_{name}.raw" for name in sparse)
    query = f"SELECT {', '.join(columns)} FROM {log} AS log {joins}"
    layout = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536"
    work = folder / "bare"

    def run() -> None:
        settings: dict[str, Any] = {
            "memory_limit": f"{int(args.memory * _SHARE_OF_DUCKDB)}B",
            "temp_directory": str(work / "spill"),
            "preserve_insertion_order": False,
            "threads": args.threads,
        }
        with duckdb.connect(str(work / "bare.duckdb"), config=settings) as duck:
            duck.execute("SET enable_progress_bar = false")
            for name in sparse:
                duck.execute(
                    f"CREATE TABLE v_{name} AS SELECT raw, row_number() OVER (ORDER BY n DESC, raw)::INT AS row "
                    f"FROM (SELECT {name} AS raw, count(*) AS n FROM {log} GROUP BY 1)"
                )
            duck.execute(f"COPY ({query}) TO '{work / 'out.parquet'}' ({layout})")

    def prepare_once() -> PassResult:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return time_work(run, args.rows)

    yield prepare_once


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="raw rows; default 2 M")
    arguments.add_argument(
        "--memory", type=int, default=8 << 30, metavar="BYTES", help="memory of each case; default 8 GiB"
    )
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    args = arguments.parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        users, videos = (max(1, round(args.rows * count / _ROWS)) for count in (_USERS, _VIDEOS))
        say(f"writing {args.rows:,} raw rows with {users:,} users and {videos:,} videos")
        write_logs(folder / "raw", args.rows, users, videos)
        (folder / "feed.toml").write_text(prep_toml(), encoding="utf-8")
        cases = [
            BenchmarkCase("ple-rec prep", partial(pipeline, folder, args)),
            BenchmarkCase("the bare query", partial(bare_query, folder, args), is_baseline=True),
        ]
        report(args, "rows", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
