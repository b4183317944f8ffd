"""Memory per rank: a stacked bar a rank with the cap, and what the least, the middle and the fullest rank hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from ple_rec.config.plan import Plan
from ple_rec.config.plan_table import Memory
from ple_rec.reports.plan.bars import Layer, Look, Mark, rank_bars
from ple_rec.reports.plan.words import percent
from ple_rec.text.units import short_bytes

_HIDDEN = 5.0  # a cap beyond so many times the fullest rank leaves bars too low to read: it is named, not drawn
_FEW = 4  # up to so many ranks, figures stand beside their chart
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_KINDS = ("weights", "optimizer", "cache", "batch")
_NAMES = {"optimizer": "optimizer state"}


@dataclass(frozen=True)
class Room:
    """One of the two memories of a rank, in bytes."""

    name: str
    layers: tuple[Layer, ...]
    allowed: int
    total: int
    reserve: int
    dense: int

    @property
    def taken(self) -> list[int]:
        """By the tables of every rank."""
        return [int(sum(values)) for values in zip(*(layer.values for layer in self.layers), strict=True)]


def rooms(plan: Plan) -> list[Room]:
    """Return HBM and the host's memory, each where tables are in it."""
    reserved, cluster = plan.reserved, plan.cluster
    dense = reserved.dense_bytes
    found = []
    for prefix, name, allowed, total, reserve, dense_bytes in (
        ("hbm", "HBM", plan.allowed_hbm, cluster.hbm_bytes, reserved.hbm_bytes, dense),
        (
            "host",
            "Host memory",
            plan.allowed_host,
            cluster.ddr_bytes,
            reserved.host_bytes,
            0 if cluster.cuda else dense,
        ),
    ):
        layers = [_layer(plan.memory, prefix, kind) for kind in _KINDS if f"{prefix}_{kind}" in Memory._fields]
        used = tuple(layer for layer in layers if any(layer.values))
        found += [Room(name, used, allowed, total, reserve, dense_bytes)] * bool(used)
    return found


def _layer(memory: Sequence[Memory], prefix: str, kind: str) -> Layer:
    return Layer(_NAMES.get(kind, kind), kind, [getattr(rank, f"{prefix}_{kind}") for rank in memory])


def memory(plan: Plan) -> list[dict[str, Any]]:
    """Return a chart and a summary for each of the two memories that tables use."""
    return [_view(plan, room) for room in rooms(plan)]


def _view(plan: Plan, room: Room) -> dict[str, Any]:
    """Return the chart, and what the least, the middle and the fullest rank hold of each layer and of all together."""
    taken = room.taken
    parts = [(layer.name, layer.values) for layer in room.layers] + [("together", taken)]
    return {
        "room": room,
        "over": sum(each > room.allowed for each in taken),
        "few": plan.cluster.world_size <= _FEW,
        "layers": room.layers,
        "chart": _chart(plan, room),
        "rows": [(name, [each(values) for each in (min, median, max)]) for name, values in parts],
        "shares": [percent(each(taken) / room.allowed) for each in (min, median, max)] if room.allowed else [],
    }


def _chart(plan: Plan, room: Room) -> Markup:
    taken = room.taken
    most, world = max(taken), plan.cluster.world_size
    visible = room.allowed <= _HIDDEN * most
    ends = [most, room.total if visible else 0, room.allowed if visible else 0]
    times = room.allowed / most
    where = (
        f"{short_bytes(room.allowed)} allowed: {f'{times:.3g}' if times < 100 else f'{times:,.0f}'} x the fullest rank"
    )
    look = Look(
        f"{room.name} of {world} ranks: {_between(taken)} of {short_bytes(room.allowed)} allowed",
        short_bytes,
        next(unit for unit in _UNITS if unit[0] * 0.9995 <= max(ends)),
        max(ends) * (1.02 if visible else 1.1),
        "" if visible else where,
        (room.total - room.reserve, room.total) if visible and room.reserve else None,
    )
    marks = []
    if visible:
        marks.append(Mark(room.allowed, f"{short_bytes(room.allowed)} allowed", "cap"))
        marks.append(Mark(room.total, f"{short_bytes(room.total)} in all", "whole"))
    return rank_bars(plan.cluster, room.layers, marks, look)


def _between(taken: Sequence[int]) -> str:
    low, high = short_bytes(min(taken)), short_bytes(max(taken))
    return low if low == high else f"{low} to {high}"
