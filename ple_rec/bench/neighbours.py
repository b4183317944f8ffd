"""What else had the processors while a measurement ran: its neighbours on this host, and those on hosts beside it."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
_FIELDS = 8  # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user
_IDLE, _WAITS, _STEAL = 3, 4, 7


class Neighbours:
    """Counts from its making on.

    Args:
        stat: The kernel's counters.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._before, self._own = _ticks(stat), _own_seconds()

    def shares(self) -> dict[str, float]:
        """Of all processors' time since then.

        Returns:
            "steal": that the hypervisor gave to other machines; "others": that other processes of this one had, where
            the children of this process that have ended count as its own. Nothing where the kernel does not tell.
        """
        now = _ticks(self._stat)
        passed = [after - before for after, before in zip(now, self._before, strict=False)]
        if len(passed) < _FIELDS or (total := sum(passed)) <= 0:
            return {}
        busy = total - passed[_IDLE] - passed[_WAITS] - passed[_STEAL]
        own = (_own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
        return {"steal": passed[_STEAL] / total, "others": max(0.0, busy - own) / total}


def _ticks(stat: Path) -> list[int]:
    """Of all processors together."""
    try:
        words = stat.read_text(encoding="ascii").partition("\n")[0].split()
    except OSError:
        return []
    return [int(word) for word in words[1 : 1 + _FIELDS]]


def _own_seconds() -> float:
    return sum(os.times()[:4])  # with children that have ended
