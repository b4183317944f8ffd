"""Which checkpoints there are; needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.checkpoint.place import Place, is_there, names_in, reached, short
from ple_rec.errors import UserError

_STEP = re.compile("step-[0-9]+")


def finished_steps(directory: Place) -> list[int]:
    """Steps of the checkpoints in a directory whose manifest is written, ascending.

    Raises:
        UserError: the directory cannot be read.
    """
    with reading(directory):
        return sorted(
            int(name.removeprefix("step-"))
            for name in names_in(directory)
            if _STEP.fullmatch(name) and is_there(directory / name / MANIFEST)
        )


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Turn what a file system or an object store raises into a UserError about `path`."""
    try:
        with reached():
            yield
    except OSError as error:
        raise UserError(
            str(path),
            f"cannot be read ({short(error)})",
            "checkpoints are looked for there",
            "correct the address, the permission, or the store's credentials and endpoint in the environment",
        ) from error
