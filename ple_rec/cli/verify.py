"""`ple-rec verify`: exit code and output of the check of a dataset directory by `ple_rec.data.verify`."""

from __future__ import annotations

from typing import Annotated

from ple_rec.cli.console import show
from ple_rec.cli.options import location_flag, verb_app
from ple_rec.errors import DataError
from ple_rec.storage import Location
from ple_rec.text.units import short_bytes

app = verb_app("verify")


@app.default
def verify(
    dataset: Annotated[Location, location_flag("dataset directory of `ple-rec prep`", "", name="DATA")], /
) -> int:
    """Verify every file of a dataset directory by the digests that its preparation wrote, if it has any.

    Every row and vocabulary is checked by the rules of training and serving. All problems are listed; exit code 3 if
    there are any.
    """
    from ple_rec.data.integrity import Digests
    from ple_rec.data.verify import dataset_problems

    problems = list(dataset_problems(dataset))
    if problems:
        show("\n".join([f"{dataset}: DAMAGED", *(f"  {error}" for error in problems)]))
        return DataError.exit_code
    files = Digests.read(dataset).files
    if files:
        size = short_bytes(sum(file.bytes for file in files.values()))
        show(f"{dataset}: whole: {len(files)} files, {size}, as they were prepared, and every row keeps the rules")
    else:
        show(f"{dataset}: every row keeps the rules; it has no digests, so changed bytes cannot be detected")
    return 0
