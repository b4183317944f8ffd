"""Memory per rank: a stacked bar a rank with the cap, and what the least, the middle and the fullest rank hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ple_rec.config.plan import Plan
from ple_rec.config.plan_memory import Memory
from ple_rec.html.markup import absent, table, text
from ple_rec.planning.page.bars import Layer, Look, Mark, rank_bars
from ple_rec.planning.page.words import percent
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
    """HBM and the host's memory, each where tables are in it."""
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


def memory(plan: Plan) -> str:
    """A chart and a summary for each of the two memories that tables use."""
    shown = rooms(plan)
    return "".join(_room(plan, room) for room in shown) if shown else absent("No rank holds a row of a table.")


def _room(plan: Plan, room: Room) -> str:
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
    over = sum(each > room.allowed for each in taken)
    chart = rank_bars(plan.cluster, room.layers, marks, look)
    return (
        f"<h3>{room.name} of each rank</h3>{_notice(over, room)}"
        f'<div class="ranks{" few" * (world <= _FEW)}">'
        f'<figure>{keys(room.layers)}<div class="scroll">{chart}</div></figure>'
        f"<div>{_summary(room)}{_kept(room)}</div></div>"
    )


def keys(layers: Sequence[Layer]) -> str:
    """Which colour is what, in the order of the bars from below."""
    return f'<p class="keys">{"".join(f"<span class={layer.kind!r}>{text(layer.name)}</span>" for layer in layers)}</p>'


def _between(taken: Sequence[int]) -> str:
    low, high = short_bytes(min(taken)), short_bytes(max(taken))
    return low if low == high else f"{low} to {high}"


def _notice(over: int, room: Room) -> str:
    if not over:
        return ""
    words = f"{over} rank{'s' * (over > 1)} above the {short_bytes(room.allowed)} allowed: such a plan does not train."
    return f'<aside class="notice"><p>{words}</p></aside>'


def _summary(room: Room) -> str:
    """Least, median and most over the ranks, of every layer and of all together."""
    columns = ("least", "median", "most")
    head = ['<th class="text" scope="col">a rank holds</th>', *(f'<th scope="col">{name}</th>' for name in columns)]
    body = [_row(layer.name, layer.values) for layer in room.layers]
    taken = room.taken
    foot = _row("together", taken)
    if room.allowed:
        shares = "".join(f"<td>{text(percent(each(taken) / room.allowed))}</td>" for each in (min, median, max))
        body.append(foot)
        foot = f'<tr><th class="text" scope="row">of {short_bytes(room.allowed)} allowed</th>{shares}</tr>'
    return table(head, body, foot)


def _row(name: str, values: Sequence[float]) -> str:
    cells = "".join(f"<td>{short_bytes(each(values))}</td>" for each in (min, median, max))
    return f'<tr><th class="text" scope="row">{text(name)}</th>{cells}</tr>'


def _kept(room: Room) -> str:
    """How the allowed bytes follow from the device."""
    dense = f", {short_bytes(room.dense)} for the dense layers" if room.dense else ""
    less = f"less {short_bytes(room.reserve)} in reserve{dense}"
    return f'<p class="absent">Allowed: {short_bytes(room.total)} a rank {less}.</p>'
