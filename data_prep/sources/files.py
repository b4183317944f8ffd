"""`discover`: from `files = [...]` to a `RawTable`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.sources.columns import table_schema
from data_prep.sources.csv_files import convert_csv
from data_prep.sources.find import find_files
from data_prep.sources.footers import Meter, identify, read_footer
from data_prep.sources.table import POSITION, RawFile, RawTable, raw_table
from ple_rec.config.prep import FilesConfig

__all__ = ["POSITION", "RawFile", "RawTable", "discover"]

_THREADS = 8  # most of their time they wait, for a disk or for a store


def discover(
    name: str, config: FilesConfig, root: Path | str, staging: Path, progress: Callable[[str], None] | None = None
) -> RawTable:
    """Find the files of a table, read their footers and digest their content; CSV files are converted first.

    Args:
        name: `log`, or the name of a side table.
        config: Patterns and format.
        root: `--from`: a folder, an `s3://` address, or one file, which then is the log whatever its patterns say.
        staging: A folder for what CSV files are converted to; a later run finds it there.
        progress: Gets a line of text twice a second at most, not always from the calling thread.

    Raises:
        UserError: A pattern matches nothing, a format cannot be told, or a store cannot be read.
        DataError: A file is not sound, or a cell of a CSV file does not fit its column.
    """
    found, kind = find_files(name, config, root)
    total = sum(file.size for file in found)
    meter = Meter(f"{name}: digesting {len(found)} file(s)", total, progress)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda file: identify(file, meter), found))
        if kind == "parquet":
            files = list(pool.map(read_footer, found, digests))
    if kind == "csv":
        key = "log.csv" if name == "log" else f"sides.{name}.csv"
        meter = Meter(f"{name}: converting {len(found)} CSV file(s)", total, progress)
        files = convert_csv(found, digests, config.csv, key, staging, meter)
    return raw_table(name, files, table_schema(files))
