"""Cores and memory that this process may use under affinity and container limits, without torch.

A control group's limit holds for every group below it, so the smallest limit from the process's own group up to the
root counts. Inside a container the root is often its own group, and the path of the process does not exist there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """min(cores of the affinity mask, quota / period of each control group), rounded down, at least 1.

    Args:
        mount: Where control groups are mounted: version 2 itself, version 1 with a folder per controller.
        membership: The control groups of this process, a line `id:controllers:path` each.
    """
    cores = float(len(os.sched_getaffinity(0)))
    for folder in _folders(mount, membership, "cpu"):
        limit = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0].isdecimal() and float(limit[1]) > 0:  # no quota is "max", and -1 in version 1
            cores = min(cores, float(limit[0]) / float(limit[1]))
    return max(1, int(cores))


def default_threads(processes: int = 1) -> int:
    """Return the CPU threads of a process that no option says: `OMP_NUM_THREADS`, else its share of the usable cores.

    Args:
        processes: Processes on this host that share its cores.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one number a nesting level
    return int(said) if said.isdecimal() and int(said) else max(1, usable_cores() // processes)


def physical_memory_bytes() -> int:
    """Memory of this host, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory_bytes(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """min(physical memory, limit of each control group), in bytes; arguments as of `usable_cores`."""
    memory = physical_memory_bytes()
    for folder in _folders(mount, membership, "memory"):
        limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        if limit and limit[0].isdecimal():  # no limit is "max", and a huge number in version 1
            memory = min(memory, int(limit[0]))
    return memory


def _folders(mount: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Folders that may hold this process's limits: of its group and all above it, in either version."""
    yield from (mount, mount / controller)
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        root = mount if not names else mount / controller if controller in names.split(",") else None
        parts = PurePosixPath(path.lstrip("/"))
        if root is not None and ".." not in parts.parts:  # a group outside the container's own view
            yield from (root / part for part in (parts, *parts.parents))


def _words(file: Path) -> list[str]:
    """The words of a control file, none where it cannot be read."""
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


# Parameters of mallopt(3), and what they are set to.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = (
    # The largest that glibc takes. Tables and the like are larger: they come and go with their pages as before.
    (_MMAP_THRESHOLD, 32 << 20),
    (_TRIM_THRESHOLD, 1 << 30),  # free bytes at the end of the heap that are kept
    (_TOP_PAD, 64 << 20),
)


def keep_pages() -> bool:
    """Set it for this process; whether the C library knows how (glibc does, musl does not)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([bool(mallopt(parameter, value)) for parameter, value in _SETTINGS])
