"""Find the raw files of Ali-CCP for `ple-rec prep ali-ccp`; `data_prep.sources.ali_ccp` converts them to Parquet.

The log has a row for each impression. The side table `common` has the features that all impressions of a user share.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.progress import Progress
from data_prep.sources.ali_ccp import raw_tables
from data_prep.sources.table import RawTables
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import Option, UserError


def find_ali_ccp_tables(
    resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
) -> RawTables:
    """Return the log and the side table `common`; see `data_prep.run.FindTables`.

    Digests are computed even if `digest` is False.

    Raises:
        UserError: `source` is None, or a file is missing.
        DataError: A line is malformed, or the configuration reads a column that does not exist.
    """
    if source is None:
        raise UserError(
            "ali-ccp",
            f"no {Option.SOURCE}",
            "ple-rec does not download its files",
            "download them, and name the folder of sample_skeleton_*.csv and common_features_*.csv",
        )
    log, common = raw_tables(source, staging, progress.say, max_entries_by_field(resolved))
    log.check_columns(resolved.log_columns, resolved.place)
    common.check_columns(resolved.side_columns["common"], f"{resolved.place}: sides.common")
    return RawTables(log, {"common": common})


def max_entries_by_field(resolved: Resolved) -> dict[str, int]:
    """Return how many of the first entries of a list in `common` suffice, by field; other lists are read to the end.

    The first entries suffice if only bags (features with a list of ids) with `keep = "first"` and a `max_length` read
    the list; the longest of these bags counts.
    """
    max_length_by_key: dict[str, int] = {}
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag and feature.keep == "first" and feature.max_length is not None:
            max_length_by_key |= {f"sparse[{i}].value": feature.max_length, f"sparse[{i}].weights": feature.max_length}
    lengths_by_field: dict[str, list[int | None]] = {}
    for key, expression in resolved.parsed.items():
        for column in expression.columns:
            if column.startswith("common.f"):
                field = column.removeprefix("common.f").removesuffix("_weights")
                lengths_by_field.setdefault(field, []).append(
                    max_length_by_key.get(key) if expression.text == column else None
                )
    return {
        field: max(known)
        for field, lengths in lengths_by_field.items()
        if len(known := [n for n in lengths if n]) == len(lengths)
    }
