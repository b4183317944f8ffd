"""Rate of `ple-rec prep` with a history, beside `prep` without it and a bare DuckDB query, and bytes of a history.

    python -m benchmarks.history_prep [--rows N] [--rows-per-user N] [--memory BYTES] [--no-bare]

The log has 50 rows a user. The history has the last 50 clicks of the user before the row, each with its video, author,
tab and age. The bare query computes the same lists and ages, and writes them into the rows and nothing else. Wall time
depends on what else the machine does, so each pass also says how many seconds of CPU time it took.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness import BenchmarkCase, race, report, say, scratch_folder
from benchmarks.prep_cases import PARQUET_LAYOUT, bare_queries, pipeline, prep_parser
from benchmarks.raw_logs import prep_toml, write_logs
from ple_rec.config.schema import HISTORIES_DIR

_ROWS_PER_VIDEO, _VIDEOS_PER_AUTHOR = 22, 10  # As in the paper's log, with an assumed number of videos per author.
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
    rows = f"SELECT {', '.join(columns)} FROM ({before}) LEFT JOIN events USING (user_id)"
    yield f"COPY ({rows}) TO '{out}' ({PARQUET_LAYOUT})"


def _bytes_of(files: Iterator[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


def _size_lines(folder: Path, rows: int) -> list[str]:
    """Return bytes a row of the history in a dataset, and of the lists that the bare query wrote, if it ran."""
    parts = {name: _bytes_of((folder / name).glob("*/part-*.parquet")) for name in ("with", "without")}
    sizes = {
        "offsets and times in parts": parts["with"] - parts["without"],
        "events that training reads (.npy)": _bytes_of((folder / "with" / HISTORIES_DIR).rglob("*.npy")),
        "events in their raw form (.parquet)": _bytes_of((folder / "with" / HISTORIES_DIR).rglob("*.parquet")),
    }
    if (lists := folder / "bare" / "out.parquet").exists():
        sizes["lists of the bare query, with ages"] = lists.stat().st_size
    return [f"{title}: {size / rows:.1f} bytes a row" for title, size in sizes.items()]


def main() -> None:
    """Measure and print."""
    arguments = prep_parser(__doc__)
    arguments.add_argument("--rows-per-user", type=int, default=50, metavar="N", help="rows of a user; default 50")
    arguments.add_argument(
        "--no-bare", action="store_true", help="leave out the bare query, which needs more memory than prep"
    )
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
        log = f"read_parquet('{folder / 'raw'}/*.parquet')"
        queries = list(_bare_queries(log, author, folder / "bare" / "out.parquet"))
        cases = [
            BenchmarkCase("prep with a history", partial(pipeline, folder, "with.toml", args)),
            BenchmarkCase("prep without it", partial(pipeline, folder, "without.toml", args), is_baseline=True),
        ]
        if not args.no_bare:
            cases.append(BenchmarkCase("bare query of the lists", partial(bare_queries, folder, queries, args)))
        report(args, "rows", cases, race(cases, args.repeats))
        sys.stdout.write("\n".join(["", *_size_lines(folder, args.rows)]) + "\n")


if __name__ == "__main__":
    main()
