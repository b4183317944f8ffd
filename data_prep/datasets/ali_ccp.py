"""Raw files of Ali-CCP for `ple-rec prep ali-ccp`; `data_prep.sources.ali_ccp` reads their lines."""

from __future__ import annotations

from pathlib import Path

from data_prep.progress import Progress
from data_prep.sources.ali_ccp import raw_tables
from data_prep.sources.table import RawTables
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import Option, UserError


def ali_ccp(
    resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
) -> RawTables:
    """Return the log and the side table `common`. Their content is digested whatever `digest` says.

    Raises:
        UserError: No folder is named, or a file is missing.
        DataError: A line is malformed, or the configuration reads a column that does not exist.
    """
    if source is None:
        raise UserError(
            "ali-ccp",
            f"no {Option.SOURCE}",
            "its files are not fetched",
            "download them, and name the folder of sample_skeleton_*.csv and common_features_*.csv",
        )
    log, common = raw_tables(source, staging, progress.say, longest_of(resolved))
    log.check_columns(resolved.log_columns, resolved.place)
    common.check_columns(resolved.side_columns["common"], f"{resolved.place}: sides.common")
    return RawTables(log, {"common": common})


def longest_of(resolved: Resolved) -> dict[str, int]:
    """Return how many entries of each field of `common` are read. Fields that must be read whole are left out.

    A field need not be read whole if only bags read it, and all of them keep a number of first entries.
    """
    most: dict[str, int] = {}
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag and feature.keep == "first" and feature.max_length is not None:
            most |= {f"sparse[{i}].value": feature.max_length, f"sparse[{i}].weights": feature.max_length}
    read: dict[str, list[int | None]] = {}
    for key, expression in resolved.parsed.items():
        for column in expression.columns:
            if column.startswith("common.f"):
                field = column.removeprefix("common.f").removesuffix("_weights")
                read.setdefault(field, []).append(most.get(key) if expression.text == column else None)
    return {field: max(known) for field, each in read.items() if len(known := [n for n in each if n]) == len(each)}
