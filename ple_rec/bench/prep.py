"""`ple-rec bench prep`: rows per second of preparing raw logs, beside the bare DuckDB query that does the same joins.

The bare query counts, numbers and joins the same columns and writes them in any order: no checks, no splits, no order
of rows, no statistics. Peak memory is the process's, DuckDB's and everything else's.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ple_rec.bench.harness import Contender, Pass, race
from ple_rec.bench.report import Reporter, Results, race_figures, race_headline, race_lines

PAPER_USERS, PAPER_VIDEOS, PAPER_ROWS = 46_926_000, 2_682_000, 60_000_000  # the paper's tables, a part of its rows
_SHARE_OF_DUCKDB = 0.75  # of the memory that both may use; the rest is for what lies beside the engine


def run(args: argparse.Namespace) -> int:
    """Measure, print."""
    report = Reporter(args)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-", dir=args.work) as folder:
        results = measure(Path(folder), args.rows, args.memory, args.threads, args.repeats, report.say)
    report.finish(results, race_figures(results), race_headline(results, "prep", "preparing raw logs"), race_lines)
    return 0


def measure(
    folder: Path, rows: int, memory: int, threads: int | None, repeats: int, say: Callable[[str], None]
) -> Results:
    """Write raw logs and race the pipeline against the bare query on them."""
    from ple_rec.bench.raw_logs import configuration, write_logs

    users, videos = (max(1, round(rows * count / PAPER_ROWS)) for count in (PAPER_USERS, PAPER_VIDEOS))
    say(f"writing {rows:,} raw rows with {users:,} users and {videos:,} videos")
    write_logs(folder / "raw", rows, users, videos)
    (folder / "feed.toml").write_text(configuration(), encoding="utf-8")
    contenders = [
        Contender("prep", "ple-rec prep", partial(_pipeline, folder, memory, threads, rows), pinned=False),
        Contender("bare", "the bare query (the limit)", partial(_bare, folder, memory, threads, rows), pinned=False),
    ]
    measured = race(contenders, repeats, say, warm_up=False)
    parts = [path for path in (folder / "prep").rglob("*.parquet") if path.parent.name != "vocab"]
    return {
        "subject": "prep",
        "unit": "rows",
        "limit": "bare",
        "data": {
            "rows": rows,
            "users": users,
            "videos": videos,
            "raw_bytes_per_row": sum(path.stat().st_size for path in (folder / "raw").iterdir()) / rows,
            "bytes_per_row": sum(path.stat().st_size for path in parts) / rows,
        },
        "settings": {"memory_GiB": memory / 2**30, "threads": threads or "all", "repeats": repeats},
        "measured": {m.contender.name: m.record() for m in measured},
    }


def _pipeline(folder: Path, memory: int, threads: int | None, rows: int) -> Pass:
    from data_prep.run import Options, prepare

    def once() -> int:
        shutil.rmtree(folder / "prep", ignore_errors=True)
        options = Options(source=str(folder / "raw"), memory=memory, threads=threads)
        prepare(str(folder / "feed.toml"), folder / "prep", options)
        return rows

    return once


def _bare(folder: Path, memory: int, threads: int | None, rows: int) -> Pass:
    import duckdb

    from ple_rec.bench.raw_logs import DENSE_COLUMNS, SMALL_COLUMNS

    sparse = ["user_id", "video_id", *(f"s{i}" for i in range(SMALL_COLUMNS))]
    log = f"read_parquet('{folder / 'raw'}/*.parquet')"
    ids = [f"coalesce(v_{name}.row, 0) AS {name}" for name in sparse]
    dense = [f"d{i}::FLOAT AS d{i}" for i in range(DENSE_COLUMNS)]
    labels = [
        "(play_time_ms > 3000)::FLOAT AS valid_view",
        "least(1, greatest(0, play_time_ms / duration_ms))::FLOAT AS completion",
        *(f"is_{name}::FLOAT AS {name}" for name in ("share", "comment")),
        "is_click = 1 AS clicked, user_id AS grouped",
    ]
    joins = " ".join(f"LEFT JOIN v_{name} ON log.{name} = v_{name}.raw" for name in sparse)
    query = f"SELECT {', '.join(ids + dense + labels)} FROM {log} AS log {joins}"
    layout = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536"

    def once() -> int:
        work = folder / "bare"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{int(memory * _SHARE_OF_DUCKDB)}B",
            "temp_directory": str(work / "spill"),
            "preserve_insertion_order": False,
        }
        if threads is not None:
            settings["threads"] = threads
        with duckdb.connect(str(work / "bare.duckdb"), config=settings) as duck:
            duck.execute("SET enable_progress_bar = false")
            for name in sparse:
                duck.execute(
                    f"CREATE TABLE v_{name} AS SELECT raw, row_number() OVER (ORDER BY n DESC, raw)::INT AS row "
                    f"FROM (SELECT {name} AS raw, count(*) AS n FROM {log} GROUP BY 1)"
                )
            duck.execute(f"COPY ({query}) TO '{work / 'out.parquet'}' ({layout})")
        return rows

    return once
