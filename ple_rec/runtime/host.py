"""Cores and memory that this process may use, and `keep_pages`, by which it keeps the memory that it frees.

CPU affinity and the limits of a container restrict them. The limit of a control group (cgroup) holds for all groups
below it, so the smallest limit from the process's own group up to the root counts. Inside a container, the container's
group is often mounted as the root, and the path of the process's group does not exist there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """Return the number of cores that this process may use, at least 1.

    It is min(cores of the affinity mask, quota / period of each control group), rounded down.

    Args:
        mount: Folder where control groups are mounted; version 1 has a folder per controller in it.
        membership: File with the control groups of this process, a line `id:controllers:path` each.
    """
    cores = float(len(os.sched_getaffinity(0)))
    for folder in _limit_folders(mount, membership, "cpu"):
        limit = _read_words(folder / "cpu.max") or _read_words(folder / "cpu.cfs_quota_us") + _read_words(
            folder / "cpu.cfs_period_us"
        )
        # Without a quota the limit is "max", or -1 in version 1.
        if len(limit) == 2 and limit[0].isdecimal() and float(limit[1]) > 0:
            cores = min(cores, float(limit[0]) / float(limit[1]))
    return max(1, int(cores))


def default_threads(processes: int = 1) -> int:
    """Return the default number of CPU threads of a process: `OMP_NUM_THREADS`, else its share of the usable cores.

    Args:
        processes: Number of processes on this host that share its cores.
    """
    # The variable may be a list with a number for each level of nested parallelism; the first one counts.
    configured = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(configured) if configured.isdecimal() and int(configured) else max(1, usable_cores() // processes)


def physical_memory_bytes() -> int:
    """Return the memory of this host in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory_bytes(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int:
    """Return the memory in bytes that this process may use: min(physical memory, limit of each control group).

    Args:
        mount: Folder where control groups are mounted; version 1 has a folder per controller in it.
        membership: File with the control groups of this process, a line `id:controllers:path` each.
    """
    memory = physical_memory_bytes()
    for folder in _limit_folders(mount, membership, "memory"):
        limit = _read_words(folder / "memory.max") or _read_words(folder / "memory.limit_in_bytes")
        # Without a limit the value is "max", or a huge number in version 1.
        if limit and limit[0].isdecimal():
            memory = min(memory, int(limit[0]))
    return memory


def _limit_folders(mount: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield folders that may hold limits of this process: those of its group and of all groups above it.

    Control groups of version 1 and 2 have different folders; a folder may not exist.
    """
    yield from (mount, mount / controller)
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        root = mount if not names else mount / controller if controller in names.split(",") else None
        parts = PurePosixPath(path.lstrip("/"))
        # A path with ".." belongs to a group outside of the container, which is not mounted.
        if root is not None and ".." not in parts.parts:
            yield from (root / part for part in (parts, *parts.parents))


def _read_words(file: Path) -> list[str]:
    """Return the words of a control file; an empty list if it cannot be read."""
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


# Parameters of mallopt(3), whose values below are in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = (
    # Allocations above this size, such as tables, still return their pages; glibc accepts no larger threshold.
    (_MMAP_THRESHOLD, 32 << 20),
    # Free bytes at the end of the heap up to this size are kept.
    (_TRIM_THRESHOLD, 1 << 30),
    # The heap grows by this number of bytes more than is asked for.
    (_TOP_PAD, 64 << 20),
)


def keep_pages() -> bool:
    """Make this process keep the memory pages that it frees, so that the next step reuses them.

    Returns:
        False if the C library has no such setting, for example musl, or refuses a value.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([bool(mallopt(parameter, value)) for parameter, value in _SETTINGS])
