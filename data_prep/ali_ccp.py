"""The raw files of Ali-CCP for `ple-rec prep ali-ccp`; `data_prep.sources.ali_ccp` reads their lines."""

from __future__ import annotations

from pathlib import Path

from data_prep.pipeline import Raw
from data_prep.progress import Progress
from data_prep.resolve import Resolved
from data_prep.sources.ali_ccp import raw_tables
from ple_rec.errors import UserError


def ali_ccp(resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True) -> Raw:
    """The log, and the side table `common`; they are digested whether or not that is asked for.

    Raises:
        UserError: No folder is named, a file is missing, or the configuration reads a column that is not there.
        DataError: A line is malformed.
    """
    if source is None:
        raise UserError(
            "ali-ccp",
            "no --from",
            "its files are not fetched",
            "download them, and name the folder of sample_skeleton_*.csv and common_features_*.csv",
        )
    log, common = raw_tables(source, staging, progress.say)
    log.check_columns(resolved.log_columns, resolved.place)
    common.check_columns(resolved.side_columns["common"], f"{resolved.place}: sides.common")
    return Raw(log, {"common": common})
