"""Which checkpoints there are; needs no torch."""

from __future__ import annotations

import re

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.checkpoint.place import Place, is_there, names_in, reading

_STEP = re.compile("step-[0-9]+")


def is_step(name: str) -> bool:
    """Whether it is the name of a checkpoint, whole or not."""
    return _STEP.fullmatch(name) is not None


def finished_steps(directory: Place) -> list[int]:
    """Steps of the checkpoints in a directory whose manifest is written, ascending.

    Raises:
        UserError: the directory cannot be read.
    """
    with reading(directory):
        return sorted(
            int(name.removeprefix("step-"))
            for name in names_in(directory)
            if is_step(name) and is_there(directory / name / MANIFEST)
        )
