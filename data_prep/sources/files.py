"""`discover`: from `files = [...]` to a `RawTable`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from data_prep.sources.columns import table_schema
from data_prep.sources.csv_files import convert_csv
from data_prep.sources.find import FoundFile, find_files
from data_prep.sources.footers import Meter, identify, read_footer
from data_prep.sources.table import POSITION, RawFile, RawTable, raw_table, refuse_changes
from ple_rec.config.prep import ColumnType, FilesConfig
from ple_rec.config.prep_inputs import Format

__all__ = ["POSITION", "RawFile", "RawTable", "discover"]

logger = logging.getLogger(__name__)

_SOME = 3  # pairs of files that a warning names
_THREADS = 8  # most of their time they wait, for a disk or for a store


def discover(
    name: str,
    config: FilesConfig,
    root: Path | str,
    staging: Path,
    progress: Callable[[str], None] | None = None,
    *,
    found: tuple[list[FoundFile], Format] | None = None,
    check: Callable[[RawTable], None] | None = None,
    digest: bool = True,
    all_types: bool = True,
    inferred: Mapping[str, ColumnType] = {},
) -> RawTable:
    """Find the files of a table, read their footers and digest their content; CSV files are converted first.

    Args:
        name: `log`, or the name of a side table.
        config: Patterns and format.
        root: `--from`: a folder, an address of a store, or one file, which then is the log whatever its patterns say.
        staging: A folder for what CSV files are converted to; a later run finds it there.
        progress: Gets a line of text twice a second at most, not always from the calling thread.
        found: Files and format, where `find_files` has been called.
        check: Called with the table before its content is digested, which may take long, to raise what is wrong.
        digest: Whether to digest the content of Parquet files; else their identities are empty.
        all_types: True to refuse a declared CSV type without a column; files to be predicted may lack labels.
        inferred: Types that an earlier preparation inferred for undeclared CSV columns, by column.

    Raises:
        UserError: A pattern matches nothing, a format cannot be told, or a store cannot be read.
        DataError: A file is not sound or has changed while it was read, or a cell of a CSV file does not fit its
            column.
    """
    listed, kind = found or find_files(name, config, root)
    total = sum(file.size for file in listed)
    noun = "file" if len(listed) == 1 else "files"

    def identities() -> list[str]:
        meter = Meter(f"{name}: digesting {len(listed)} {noun}", total, progress)
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda file: identify(file, meter), listed))

    with refuse_changes(listed):
        if kind == "csv":
            digests = identities()
            meter = Meter(f"{name}: converting {len(listed)} CSV {noun}", total, progress)
            key = "log.csv" if name == "log" else f"sides.{name}.csv"
            files = convert_csv(
                listed, digests, config.csv, key, staging, meter, all_types=all_types, inferred=inferred
            )
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                files = list(pool.map(read_footer, listed))
        table = raw_table(name, files, table_schema(files))
        if check is not None:
            check(table)
        if kind == "parquet" and digest:
            files = [replace(file, identity=identity) for file, identity in zip(files, identities(), strict=True)]
            table = replace(table, files=tuple(files))
    _warn_of_copies(name, files)
    return table


def _warn_of_copies(name: str, files: Sequence[RawFile]) -> None:
    """Warn of files that another one repeats: by a link, a hard link or a copy."""
    first: dict[str, RawFile] = {}
    copies = []
    for file in files:
        original = first.setdefault(file.identity, file)
        if original is not file and file.rows and file.identity:
            copies.append(f"{file.shown} is {original.shown} again")
    if copies:
        more = f" and {len(copies) - _SOME} more" if len(copies) > _SOME else ""
        logger.warning(
            "%s: %s%s; they have the same content, whose rows count each time. Fix: keep one of them",
            "log.files" if name == "log" else f"sides.{name}.files",
            ", ".join(copies[:_SOME]),
            more,
        )
