"""The raw files of Ali-CCP for `ple-rec prep ali-ccp`; `data_prep.sources.ali_ccp` reads their lines."""

from __future__ import annotations

from pathlib import Path

from data_prep.pipeline import RawTables
from data_prep.progress import Progress
from data_prep.sources.ali_ccp import raw_tables
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import Option, UserError


def ali_ccp(
    resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
) -> RawTables:
    """The log, and the side table `common`; they are digested whether or not that is asked for.

    Raises:
        UserError: No folder is named, a file is missing, or the configuration reads a column that is not there.
        DataError: A line is malformed.
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
    """How many entries are read of a field of `common` that only bags read which keep their first ones, by field."""
    kept: dict[str, int] = {}
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag and feature.keep == "first" and feature.max_length is not None:
            kept |= {f"sparse[{i}].value": feature.max_length, f"sparse[{i}].weights": feature.max_length}
    read: dict[str, list[int | None]] = {}
    for key, expression in resolved.parsed.items():
        for column in expression.columns:
            if column.startswith("common.f"):
                field = column.removeprefix("common.f").removesuffix("_weights")
                read.setdefault(field, []).append(kept.get(key) if expression.text == column else None)
    return {field: max(known) for field, each in read.items() if len(known := [n for n in each if n]) == len(each)}
