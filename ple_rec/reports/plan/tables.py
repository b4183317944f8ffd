"""Every table with its shards: where it lies, what it takes, how long it takes."""

from __future__ import annotations

from typing import Any

from ple_rec.config.plan import Plan
from ple_rec.config.plan_table import Memory
from ple_rec.reports.plan.placement import by_size, ranks_of
from ple_rec.reports.plan.words import short_ms
from ple_rec.text.units import joined_spans

_MANY = 60  # more than this are folded away


def tables(plan: Plan) -> dict[str, Any]:
    """Return the tables, the largest first, with a total; bytes are of all shards together."""
    entries = [(entry, plan.of_table(entry)) for entry in by_size(plan)]
    kinds = {"weights": "weights", "optimizer state": "optimizer", "cache": "hbm_cache", "batch": "batch"}
    if not any(held.hbm_cache for _, held in entries):
        del kinds["cache"]
    total = Memory()
    for _, held in entries:
        total = total.plus(held)
    return {
        "kinds": list(kinds),
        "tables": [
            {
                "plan": entry,
                "sizes": [getattr(held, kind) for kind in kinds.values()],
                "ranks": joined_spans(ranks_of(plan, entry)),
                "ms": short_ms(entry.costs_ms.total()).removesuffix(" ms"),
            }
            for entry, held in entries
        ],
        "total": "1 table" if len(entries) == 1 else f"{len(entries)} tables",
        "rows": sum(entry.rows for entry, _ in entries),
        "sizes": [getattr(total, kind) for kind in kinds.values()],
        "folded": len(entries) > _MANY,
    }
