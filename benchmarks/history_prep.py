"""Rate of `ple-rec prep` with a history, beside `prep` without it and a bare DuckDB query, and bytes of a history.

    python -m benchmarks.history_prep [--rows N] [--rows-per-user N] [--memory BYTES]

The log has 50 rows a user. The history has the last 50 clicks of the user before the row, each with its video, author,
tab and age. The bare query computes the same lists and ages, and writes them into the rows and nothing else. Wall time
depends on what else the machine does, so each pass also says how many seconds of CPU time it took.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import BenchmarkCase, Pass, PassResult, parser, race, report, say, scratch_folder, time_work
from benchmarks.raw_logs import prep_toml, write_logs
from data_prep.run import Options, prepare
from ple_rec.config.schema import HISTORIES_DIR
from ple_rec.runtime.host import usable_cores

_ROWS_PER_VIDEO, _VIDEOS_PER_AUTHOR = 22, 10  # As in the paper's log, with an assumed number of videos per author.
# Share of `--memory` that DuckDB may use in the bare query; Python and the writers take the rest.
_SHARE_OF_DUCKDB = 0.75

LENGTH = 50  # Largest number of events in a history.
# The column `s0` of the logs, an integer from 0 to 5, stands for the tab in which a video is shown.
HISTORY = f"""
[[histories]]
name = "clicked"
key = "user_id"
items = ["video_id", "author", "s0"]
where = "is_click = 1"
length = {LENGTH}
"""


def prep_toml_with_author(author: str) -> str:
    """Return the prep.toml of `benchmarks.raw_logs` with the author of a video, which is an expression."""
    return prep_toml() + f'[derived]\nauthor = "{author}"\n[[sparse]]\nname = "author"\n'


def _timed(title: str, work: Callable[[], object], rows: int) -> PassResult:
    """Do some work once, and say how many seconds of CPU time it took."""
    begun = time.process_time()
    result = time_work(work, rows)
    say(f"{title}: {time.process_time() - begun:.1f} s of CPU time, {result.seconds:.1f} s")
    return result


@contextmanager
def pipeline(folder: Path, name: str, args: argparse.Namespace) -> Iterator[Pass]:
    """Prepare the logs in each pass by `data_prep.prepare`."""
    options = Options(source=str(folder / "raw"), memory=args.memory, threads=args.threads)

    def prepare_once() -> PassResult:
        shutil.rmtree(folder / name, ignore_errors=True)
        return _timed(name, lambda: prepare(str(folder / f"{name}.toml"), folder / name, options), args.rows)

    yield prepare_once


def _bare_queries(log: str, author: str, out: Path) -> Iterator[str]:
    """Yield queries that number the videos, collect the events of each user, and cut each row's lists out of them."""
    yield (
        f"CREATE TABLE videos AS SELECT video_id, row_number() OVER (ORDER BY n DESC, video_id)::INT AS row "
        f"FROM (SELECT video_id, count(*) AS n FROM {log} GROUP BY 1)"
    )
    order = "ORDER BY time_ms, log.video_id"
    lists = ", ".join(
        f"list({column} {order}) AS {name}"
        for name, column in (
            ("videos", "videos.row"),
            ("authors", f"(log.{author})::INT"),
            ("tabs", "s0::INT"),
            ("times", "time_ms // 1000"),
        )
    )
    yield (
        f"CREATE TABLE events AS SELECT user_id, {lists} FROM {log} AS log JOIN videos USING (video_id) "
        f"WHERE is_click = 1 GROUP BY user_id"
    )
    before = (
        f"SELECT user_id, time_ms // 1000 AS now, coalesce(sum(is_click) OVER (PARTITION BY user_id ORDER BY time_ms "
        f"RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::INT AS n FROM {log}"
    )
    last = f"[greatest(n - {LENGTH - 1}, 1) : n]"
    columns = [f"events.{name}{last} AS {name}" for name in ("videos", "authors", "tabs")]
    columns.append(f"list_transform(events.times{last}, lambda event : (now - event)::INT) AS ages")
    layout = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536"
    yield (f"COPY (SELECT {', '.join(columns)} FROM ({before}) LEFT JOIN events USING (user_id)) TO '{out}' ({layout})")


@contextmanager
def bare_query(folder: Path, author: str, args: argparse.Namespace) -> Iterator[Pass]:
    """Compute the lists in each pass, and write them, by DuckDB alone."""
    work = folder / "bare"
    queries = list(_bare_queries(f"read_parquet('{folder / 'raw'}/*.parquet')", author, work / "out.parquet"))

    def run() -> None:
        settings: dict[str, Any] = {
            "memory_limit": f"{int(args.memory * _SHARE_OF_DUCKDB)}B",
            "temp_directory": str(work / "spill"),
            "preserve_insertion_order": False,
            "threads": args.threads,
        }
        with duckdb.connect(str(work / "bare.duckdb"), config=settings) as duck:
            duck.execute("SET enable_progress_bar = false")
            for query in queries:
                duck.execute(query)

    def run_once() -> PassResult:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return _timed("bare", run, args.rows)

    yield run_once


def _bytes_of(files: Iterator[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def _size_lines(folder: Path, rows: int) -> list[str]:
    """Return bytes a row of the history in a dataset, and of the lists that the bare query wrote."""
    parts = {name: _bytes_of((folder / name).glob("*/part-*.parquet")) for name in ("with", "without")}
    sizes = {
        "offsets and times in parts": parts["with"] - parts["without"],
        "events that training reads (.npy)": _bytes_of((folder / "with" / HISTORIES_DIR).rglob("*.npy")),
        "events in their raw form (.parquet)": _bytes_of((folder / "with" / HISTORIES_DIR).rglob("*.parquet")),
        "lists of the bare query, with ages": (folder / "bare" / "out.parquet").stat().st_size,
    }
    return [f"{title}: {size / rows:.1f} bytes a row" for title, size in sizes.items()]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="raw rows; default 2 M")
    arguments.add_argument("--rows-per-user", type=int, default=50, metavar="N", help="rows of a user; default 50")
    arguments.add_argument(
        "--memory", type=int, default=8 << 30, metavar="BYTES", help="memory of each case; default 8 GiB"
    )
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    args = arguments.parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        users, videos = args.rows // args.rows_per_user, max(_VIDEOS_PER_AUTHOR, args.rows // _ROWS_PER_VIDEO)
        author = f"video_id % {videos // _VIDEOS_PER_AUTHOR}"
        say(f"writing {args.rows:,} raw rows with {users:,} users and {videos:,} videos")
        write_logs(folder / "raw", args.rows, users, videos)
        toml = prep_toml_with_author(author)
        (folder / "without.toml").write_text(toml, encoding="utf-8")
        (folder / "with.toml").write_text(toml + HISTORY, encoding="utf-8")
        cases = [
            BenchmarkCase("prep with a history", partial(pipeline, folder, "with", args)),
            BenchmarkCase("prep without it", partial(pipeline, folder, "without", args), is_baseline=True),
            BenchmarkCase("bare query of the lists", partial(bare_query, folder, author, args)),
        ]
        report(args, "rows", cases, race(cases, args.repeats))
        sys.stdout.write("\n".join(["", *_size_lines(folder, args.rows)]) + "\n")


if __name__ == "__main__":
    main()
