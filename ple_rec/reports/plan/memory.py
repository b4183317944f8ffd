"""Memory per rank: a stacked bar a rank with the cap, and what the least, the middle and the fullest rank hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from markupsafe import Markup

from ple_rec.config.plan import Plan
from ple_rec.config.plan_memory import Memory
from ple_rec.html.units import short_bytes
from ple_rec.reports.plan.bars import Layer, Look, Mark, rank_bars
from ple_rec.reports.plan.words import percent

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


class RoomView(NamedTuple):
    """One of the two memories on the page.

    Args:
        name: Name of the memory.
        over: Ranks above what is allowed.
        allowed: Bytes that tables of a rank may take.
        total: Bytes of a rank.
        reserve: Bytes in reserve.
        dense: Bytes for the dense layers; empty where there are none.
        few: Whether figures stand beside the chart.
        layers: Name and CSS class of each layer, from below.
        chart: Bar of every rank.
        rows: What a rank holds: least, median and most over the ranks.
        shares: Their shares of what is allowed; none where nothing is.
    """

    name: str
    over: int
    allowed: str
    total: str
    reserve: str
    dense: str
    few: bool
    layers: Sequence[Layer]
    chart: Markup
    rows: list[tuple[str, list[str]]]
    shares: list[str]


def memory(plan: Plan) -> list[RoomView]:
    """Return a chart and a summary for each of the two memories that tables use."""
    return [_view(plan, room) for room in rooms(plan)]


def _view(plan: Plan, room: Room) -> RoomView:
    taken = room.taken
    parts = [(layer.name, layer.values) for layer in room.layers] + [("together", taken)]
    return RoomView(
        room.name,
        sum(each > room.allowed for each in taken),
        short_bytes(room.allowed),
        short_bytes(room.total),
        short_bytes(room.reserve),
        short_bytes(room.dense) if room.dense else "",
        plan.cluster.world_size <= _FEW,
        room.layers,
        _chart(plan, room),
        [(name, [short_bytes(each(values)) for each in (min, median, max)]) for name, values in parts],
        [percent(each(taken) / room.allowed) for each in (min, median, max)] if room.allowed else [],
    )


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
