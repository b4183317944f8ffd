"""Rate of `ple-rec prep` in raw rows per second, beside a bare DuckDB query with the same joins.

    python -m benchmarks.prep [--rows N] [--memory BYTES]

The query counts and numbers the values of the same columns, joins the numbers, and writes the rows in any order. It has
no checks, splits or statistics. With 60 M rows the log has as many users and videos as the paper's; with fewer rows it
has proportionally fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness import BenchmarkCase, race, report, say, scratch_folder
from benchmarks.prep_cases import PARQUET_LAYOUT, bare_queries, pipeline, prep_parser
from benchmarks.raw_logs import DENSE_COLUMNS, SMALL_COLUMNS, prep_toml, write_logs

# Numbers of users and videos in the paper, which a log of _ROWS rows gets.
_USERS, _VIDEOS, _ROWS = 46_926_000, 2_682_000, 60_000_000


def _bare_queries(log: str, out: Path) -> Iterator[str]:
    """Yield queries that count and number the values of each column, and join and write the same columns."""
    sparse = ["user_id", "video_id", *(f"s{i}" for i in range(SMALL_COLUMNS))]
    for name in sparse:
        yield (
            f"CREATE TABLE v_{name} AS SELECT raw, row_number() OVER (ORDER BY n DESC, raw)::INT AS row "
            f"FROM (SELECT {name} AS raw, count(*) AS n FROM {log} GROUP BY 1)"
        )
    columns = [
        *(f"coalesce(v_{name}.row, 0) AS {name}" for name in sparse),
        *(f"d{i}::FLOAT AS d{i}" for i in range(DENSE_COLUMNS)),
        "(play_time_ms > 3000)::FLOAT AS valid_view",
        "least(1, greatest(0, play_time_ms / duration_ms))::FLOAT AS completion",
        *(f"is_{name}::FLOAT AS {name}" for name in ("share", "comment")),
        "is_click = 1 AS clicked, user_id AS grouped",
    ]
    joins = " ".join(f"LEFT JOIN v_{name} ON log.{name} = v_{name}.raw" for name in sparse)
    yield f"COPY (SELECT {', '.join(columns)} FROM {log} AS log {joins}) TO '{out}' ({PARQUET_LAYOUT})"


def main() -> None:
    """Measure and print."""
    args = prep_parser(__doc__).parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        users, videos = (max(1, round(args.rows * count / _ROWS)) for count in (_USERS, _VIDEOS))
        say(f"writing {args.rows:,} raw rows with {users:,} users and {videos:,} videos")
        write_logs(folder / "raw", args.rows, users, videos)
        (folder / "feed.toml").write_text(prep_toml(), encoding="utf-8")
        queries = list(_bare_queries(f"read_parquet('{folder / 'raw'}/*.parquet')", folder / "bare" / "out.parquet"))
        cases = [
            BenchmarkCase("ple-rec prep", partial(pipeline, folder, "feed.toml", args)),
            BenchmarkCase("the bare query", partial(bare_queries, folder, queries, args), is_baseline=True),
        ]
        report(args, "rows", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
