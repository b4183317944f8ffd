"""Every table with its shards: where it lies, what it takes, how long it takes."""

from __future__ import annotations

from typing import NamedTuple

from ple_rec.config.plan import Plan, TablePlan
from ple_rec.config.plan_memory import Memory
from ple_rec.html.units import joined_spans, short_bytes
from ple_rec.reports.plan.placement import by_size, ranks_of
from ple_rec.reports.plan.words import short_ms

_MANY = 60  # more than this are folded away
_KINDS = ("weights", "optimizer", "cache", "batch")


class Row(NamedTuple):
    """A table: its bytes by kind, its ranks, and the time of its costliest shard."""

    plan: TablePlan
    sizes: list[str]
    ranks: str
    ms: str


class Tables(NamedTuple):
    """The tables, the largest first, with a total; bytes are of all shards together.

    Args:
        kinds: What bytes are for.
        tables: One row each.
        total: How many there are.
        rows: Rows of all tables.
        sizes: Bytes of all tables by kind.
        summary: The total and its weights, in words.
        folded: Whether they are folded away, since they are many.
    """

    kinds: list[str]
    tables: list[Row]
    total: str
    rows: str
    sizes: list[str]
    summary: str
    folded: bool


def tables(plan: Plan) -> Tables:
    """Return a row per table."""
    entries = [(entry, plan.of_table(entry)) for entry in by_size(plan)]
    kinds = [kind for kind in _KINDS if kind != "cache" or any(held.hbm_cache for _, held in entries)]
    total = Memory()
    for _, held in entries:
        total = total.plus(held)
    name = "1 table" if len(entries) == 1 else f"{len(entries)} tables"
    return Tables(
        ["optimizer state" if kind == "optimizer" else kind for kind in kinds],
        [_row(entry, held, kinds) for entry, held in entries],
        name,
        f"{sum(entry.rows for entry, _ in entries):,}",
        _sizes(total, kinds),
        f"{name}, {short_bytes(total.weights)} of weights",
        len(entries) > _MANY,
    )


def _row(entry: TablePlan, held: Memory, kinds: list[str]) -> Row:
    ms = short_ms(entry.costs_ms.total()).removesuffix(" ms")
    return Row(entry, _sizes(held, kinds), joined_spans(ranks_of(entry)), ms)


def _sizes(held: Memory, kinds: list[str]) -> list[str]:
    return [short_bytes(held.hbm_cache if kind == "cache" else getattr(held, kind)) for kind in kinds]
