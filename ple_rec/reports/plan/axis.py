"""The axis that every chart over ranks shares: rank 0 on the left, the hosts as bands below."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ple_rec.config.cluster import Cluster

RULER = 34.0  # CSS pixels: height of the labels of ranks, with the bands of hosts below
_LABEL, _HOST_LABEL, _BAND = 30.0, 58.0, 6.0  # least distances of two labels, and least width of a band
_ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class RankAxis:
    """Places of ranks in CSS pixels.

    Args:
        cluster: Cluster of the ranks.
        left: Start of rank 0.
        pitch: Width of a rank.
    """

    cluster: Cluster
    left: float
    pitch: float

    @property
    def width(self) -> float:
        """Width of all ranks."""
        return self.pitch * self.cluster.world_size

    def place(self, rank: float) -> float:
        """Return where a rank begins; its middle is `place(rank + .5)`."""
        return self.left + self.pitch * rank

    def label_every(self) -> int:
        """Return the ranks from one label to the next: whole hosts, or parts of a host that divide it."""
        ranks, hosts = self.cluster.ranks_per_host, self.cluster.hosts
        steps = _ROUND if hosts == 1 else range(1, ranks)
        parts = [n for n in steps if n < ranks and (hosts == 1 or ranks % n == 0)]
        return _first_wide([*parts, *(ranks << n for n in range(11))], self.pitch, _LABEL)

    def band_hosts(self) -> int:
        """Return the hosts of one band: one, unless bands would be too thin to see."""
        return _first_wide([1 << n for n in range(11)], self.pitch * self.cluster.ranks_per_host, _BAND)

    def edges(self) -> list[float]:
        """Return where one band ends and the next begins."""
        step = self.band_hosts() * self.cluster.ranks_per_host
        return [self.place(rank) for rank in range(step, self.cluster.world_size, step)]

    def ruler(self, top: float) -> Markup:
        """Draw labels of ranks, and below them the bands of hosts where there are several."""
        world, every = self.cluster.world_size, self.label_every()
        marks = [
            f'<text x="{self.place(rank + 0.5):.1f}" y="{top + 12}" text-anchor="middle">{rank}</text>'
            for rank in range(0, world, every)
        ]
        return Markup("".join(marks) + (self._bands(top + 18) if self.cluster.hosts > 1 else ""))

    def _bands(self, top: float) -> str:
        together, hosts, ranks = self.band_hosts(), self.cluster.hosts, self.cluster.ranks_per_host
        parts = []
        for shade in (0, 1):
            pieces = "".join(
                f"M{self.place(host * ranks):.1f} {top}H{self.place(min(host + together, hosts) * ranks):.1f}v3"
                f"H{self.place(host * ranks):.1f}z"
                for host in range(shade * together, hosts, 2 * together)
            )
            parts.append(f'<path class="band{shade}" d="{pieces}"/>')
        wide = ranks * self.pitch
        every = _first_wide([together << n for n in range(11)], wide, _HOST_LABEL)
        for host in range(0, hosts, every):
            middle = self.place((host + min(together, hosts - host) / 2) * ranks)
            start = wide * together < _HOST_LABEL and host == 0
            at, anchor = (self.place(0), "start") if start else (middle, "middle")
            parts.append(f'<text x="{at:.1f}" y="{top + 14}" text-anchor="{anchor}">host {host}</text>')
        return "".join(parts)


def _first_wide(steps: list[int], pitch: float, least: float) -> int:
    return next((step for step in steps if step * pitch >= least), steps[-1])
