"""`ple-rec verify`."""

from __future__ import annotations

from typing import Annotated

from ple_rec.cli.console import show
from ple_rec.cli.options import place, verb
from ple_rec.errors import DataError
from ple_rec.storage import Location
from ple_rec.text.units import short_bytes

app = verb("verify")


@app.default
def verify(
    dataset: Annotated[Location, place("dataset directory, as `ple-rec prep` writes one", "", name="DATA")], /
) -> int:
    """Hold every file of a dataset directory to the digests that its preparation wrote.

    Every row and vocabulary is held to the rules that training and serving check. Exit code 3 where something is
    wrong; all of it is listed.
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
        show(f"{dataset}: every row keeps the rules; it has no digests, so whether bytes changed is not known")
    return 0
