"""Whether prep takes the file that `ple-rec init` has written, by the rows that were looked at."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data_prep.dry_run import bad_rows_of
from data_prep.init.log import Log
from data_prep.run import read_recipe
from data_prep.transforms.resolve import resolve
from ple_rec.errors import PleRecError


def problem_of(file: Path, log: Log) -> str:
    """Return why prep refuses a file, as far as a sample of its log tells; empty where it does not.

    Args:
        file: The file.
        log: The log.
    """
    try:
        config, place, _ = read_recipe(str(file.absolute()))
        resolved = resolve(config, place)
        resolved.check_columns(log.sampled.table)
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
            bad = bad_rows_of(resolved, {"log": log.sampled}, Path(folder) / "dataset")
    except PleRecError as error:
        return str(error)
    return "; ".join(" ".join(line.split()) for line in bad)
