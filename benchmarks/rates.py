"""Rate of `ple-rec prep` with rates over earlier days, beside `prep` without them and bare DuckDB queries.

    python -m benchmarks.rates [--rows N] [--rows-per-user N] [--memory BYTES]

The log has 50 rows a user. Its 18 rates, six of each user, video and author, become 36 dense features. The bare queries
compute the same rates, and write them and nothing else. Wall time depends on what else the machine does, so each pass
also says how many seconds of CPU time it took.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness import BenchmarkCase, race, report, say, scratch_folder
from benchmarks.prep_cases import PARQUET_LAYOUT, bare_queries, pipeline, prep_parser
from benchmarks.raw_logs import prep_toml, write_logs

_ROWS_PER_VIDEO, _VIDEOS_PER_AUTHOR = 22, 10  # As in the paper's log, with an assumed number of videos per author.
_DAY_MS = 86_400_000
_PRIOR = 20
# Column and window in days (None for all days) of each of the six rates of a key.
_RATES = (
    ("is_click", None),
    ("is_share", None),
    ("is_comment", None),
    ("play_time_ms", None),
    ("is_click", 3),
    ("play_time_ms", 3),
)


def _rates_toml(author: str) -> str:
    """Return the lines of prep.toml that add the author and the rates."""
    lines = [f'[derived]\nauthor = "{author}"']
    for key in ("user_id", "video_id", "author"):
        for column, days in _RATES:
            window = "all" if days is None else f"{days}d"
            name = f'name = "{key}_{column}_{window}"\nkey = ["{key}"]\nof = "{column}"'
            lines.append(f'[[rates]]\n{name}\nwindow = "{window}"\nprior = {_PRIOR}')
    return "\n".join(lines) + "\n"


def _bare_queries(log: str, author: str, out: Path) -> Iterator[str]:
    """Yield queries that count by key and day, add up windows, and join the rates of each key to the rows."""
    day = f"time_ms // {_DAY_MS}"
    keys = {"user_id": "user_id", "video_id": "video_id", "author": author}
    columns = dict.fromkeys(column for column, _ in _RATES)
    joins, rates = [], []
    for key, expression in keys.items():
        sums = ", ".join(f"sum({c})::BIGINT AS s_{c}, count({c}) AS n_{c}" for c in columns)
        yield f"CREATE TABLE c_{key} AS SELECT {expression} AS key, {day} AS day, {sums} FROM {log} GROUP BY ALL"
        totals = ", ".join(f"sum(s_{c})::BIGINT AS s_{c}, sum(n_{c})::BIGINT AS n_{c}" for c in columns)
        yield f"CREATE TABLE t_{key} AS SELECT day, {totals} FROM c_{key} GROUP BY day"
        for table, partition in (("c", "PARTITION BY key "), ("t", "")):
            windows = [
                f"sum({kind}_{c}) OVER ({partition}ORDER BY day RANGE BETWEEN {days or 'UNBOUNDED'} PRECEDING AND "
                f"1 PRECEDING)::BIGINT AS {kind}{i}"
                for i, (c, days) in enumerate(_RATES)
                for kind in ("s", "n")
            ]
            names = "key, day" if partition else "day"
            yield f"CREATE TABLE w{table}_{key} AS SELECT {names}, {', '.join(windows)} FROM {table}_{key}"
        values = [
            f"((coalesce(a.s{i}, 0) + {_PRIOR} * (b.s{i} / b.n{i})) / (coalesce(a.n{i}, 0) + {_PRIOR}))::FLOAT AS r{i},"
            f" coalesce(a.n{i}, 0)::FLOAT AS n{i}"
            for i in range(len(_RATES))
        ]
        yield (
            f"CREATE TABLE v_{key} AS SELECT key, a.day, {', '.join(values)} FROM wc_{key} AS a "
            f"LEFT JOIN wt_{key} AS b ON a.day = b.day"
        )
        joins.append(f"LEFT JOIN v_{key} ON {expression} = v_{key}.key AND {day} = v_{key}.day")
        rates += [f"v_{key}.{kind}{i} AS {key}_{kind}{i}" for i in range(len(_RATES)) for kind in ("r", "n")]
    yield f"COPY (SELECT {', '.join(rates)} FROM {log} AS log {' '.join(joins)}) TO '{out}' ({PARQUET_LAYOUT})"


def main() -> None:
    """Measure and print."""
    arguments = prep_parser(__doc__)
    arguments.add_argument("--rows-per-user", type=int, default=50, metavar="N", help="rows of a user; default 50")
    args = arguments.parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        users, videos = args.rows // args.rows_per_user, args.rows // _ROWS_PER_VIDEO
        author = f"video_id % {videos // _VIDEOS_PER_AUTHOR}"
        say(f"writing {args.rows:,} raw rows with {users:,} users and {videos:,} videos")
        write_logs(folder / "raw", args.rows, users, videos)
        (folder / "without.toml").write_text(prep_toml(), encoding="utf-8")
        (folder / "with.toml").write_text(prep_toml() + _rates_toml(author), encoding="utf-8")
        log = f"read_parquet('{folder / 'raw'}/*.parquet')"
        queries = list(_bare_queries(log, author, folder / "bare" / "out.parquet"))
        cases = [
            BenchmarkCase("prep with 18 rates", partial(pipeline, folder, "with.toml", args)),
            BenchmarkCase("prep without rates", partial(pipeline, folder, "without.toml", args), is_baseline=True),
            BenchmarkCase("bare queries of the rates", partial(bare_queries, folder, queries, args)),
        ]
        report(args, "rows", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
