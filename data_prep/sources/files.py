"""Discovery of the raw files of a table: the patterns `files = [...]` of a configuration become a `RawTable`.

A table is the log (the impressions) or a side table (such as the users), and its raw files are Parquet or CSV files of
the user. CSV files are converted to Parquet first, so the rest of a preparation reads only Parquet. The identity of a
raw file is a digest of its content, or of the tag that an object store gives it. By the identity, a later run notices
that the file has changed.
"""

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

_MAX_PAIRS = 3  # Pairs of files that a warning names.
_THREADS = 8  # The threads mostly wait for a disk or an object store, so their number need not depend on the cores.


def discover(
    name: str,
    config: FilesConfig,
    root: Path | str,
    staging: Path,
    progress: Callable[[str], None] | None = None,
    *,
    listing: tuple[list[FoundFile], Format] | None = None,
    check: Callable[[RawTable], None] | None = None,
    digest: bool = True,
    all_types: bool = True,
    inferred: Mapping[str, ColumnType] = {},
) -> RawTable:
    """Find the raw files of a table, and return them with their row counts, columns and identities.

    For Parquet files, read the footers, call `check`, and digest the content last. For CSV files, digest the content
    first, since conversions are stored by digest; then convert the files to Parquet and call `check`.

    Args:
        name: `log`, or the name of a side table.
        config: Patterns and format of the table.
        root: Value of the option `--from`: a folder, the address of an object store, or a single file. A single file is
            the log, even if the patterns of the log do not match it.
        staging: Folder for the Parquet files that CSV files are converted to; a later run reuses them.
        progress: Callback that gets a line of text at most twice a second, from any thread.
        listing: Result of `find_files`, if the caller has it; None to call `find_files` here.
        check: Callback that gets the table and raises an error if the table is unusable. For Parquet files it is called
            before their content is digested, so that an error appears without this long wait.
        digest: True to digest the content of Parquet files; False to leave their identities empty. CSV files are
            always digested.
        all_types: True to refuse a CSV type that the configuration declares for a column that no file has. Files to
            predict may lack the labels, so prediction passes False.
        inferred: Types that an earlier preparation inferred for undeclared CSV columns, by column.

    Raises:
        UserError: A pattern matches nothing, the file names do not show the format, a CSV type is declared for a column
            that no file has, or a store cannot be read.
        DataError: A file is damaged or has changed while it was read, or a cell of a CSV file does not fit the type of
            its column.
    """
    listed, kind = listing or find_files(name, config, root)
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
    """Warn of files with the same identity, such as a copy of a file or a link to it.

    Files without rows, or without an identity, are not compared.
    """
    first: dict[str, RawFile] = {}
    copies = []
    for file in files:
        original = first.setdefault(file.identity, file)
        if original is not file and file.rows and file.identity:
            copies.append(f"{file.display_name} repeats {original.display_name}")
    if copies:
        more = f" and {len(copies) - _MAX_PAIRS} more" if len(copies) > _MAX_PAIRS else ""
        logger.warning(
            "%s: %s%s; files of the same content are all read, and their rows count twice. Fix: keep one of them",
            "log.files" if name == "log" else f"sides.{name}.files",
            ", ".join(copies[:_MAX_PAIRS]),
            more,
        )
