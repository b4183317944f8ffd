"""Whether other hosts can see a path, as far as this one knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("ramfs", "tmpfs")
_OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm")


def only_here(path: Path, mounts: Iterable[str] | None = None) -> str | None:
    """Why no other host can see a path; None where one may.

    What is plainly of one host: a file system in memory, and the folders for temporary files, unless something is
    mounted below them. A disk may be another host's mount, so it is believed.

    Args:
        path: That is there or is to be.
        mounts: Lines of /proc/mounts; None to read it, where there is one.
    """
    if mounts is None:
        mounts = MOUNTS.read_text().splitlines() if MOUNTS.is_file() else []
    place = path.absolute().resolve()
    kinds = {Path(_unescaped(point)): kind for _, point, kind, *_ in (line.split(" ") for line in mounts)}
    point = max((point for point in kinds if place.is_relative_to(point)), key=lambda one: len(one.parts), default=None)
    if point is not None and kinds[point] in _IN_MEMORY:
        return f"lies in this host's memory ({kinds[point]} at {point})"
    for folder in _OF_ONE_HOST:
        mounted = point is not None and point != Path(folder) and point.is_relative_to(folder)
        if place.is_relative_to(folder) and not mounted:
            return f"lies below {folder}, which every host has for itself"
    return None


def _unescaped(point: str) -> str:
    """A mount point as it is; /proc/mounts writes a space as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
