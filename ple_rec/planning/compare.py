"""Differences between two plans: clusters, sums, and every table whose placement differs."""

from __future__ import annotations

from collections.abc import Iterator

from ple_rec.config.plan import PARTS, PlanFile
from ple_rec.config.plan_table import TablePlan
from ple_rec.planning.text import imbalance, ms_text
from ple_rec.text import aligned
from ple_rec.text.units import joined_spans, short_bytes, short_count

# A table that differs in its shards alone shows this many of them.
_SHARDS = 3


def format_comparison(a: PlanFile, b: PlanFile, names: tuple[str, str]) -> str:
    """Return the sums of two plans side by side, then the tables that differ."""
    lines = [["", *names], *([key, *values] for key, values in _sums(a, b))]
    differing = list(_tables(a, b))
    if not differing:
        return "\n".join([*aligned(lines), "", "every table lies where it did"])
    head = ["table", "", "rows x dim", "sharding", "kernel", "ranks"]
    count = len({line[0] for line in differing if line[0]})
    title = f"{count} of {len({t.table for t in (*a.tables, *b.tables)})} tables differ:"
    return "\n".join([*aligned(lines), "", title, *aligned([head, *differing], left=(0, 1, 2, 3, 4, 5))])


def _sums(a: PlanFile, b: PlanFile) -> Iterator[tuple[str, tuple[str, str]]]:
    def both(key: str, show: object) -> tuple[str, tuple[str, str]]:
        assert callable(show)
        return key, (show(a), show(b))

    yield both("cluster", lambda p: p.cluster.describe())
    yield both("samples a rank", lambda p: f"{p.batch_size_per_rank:,}")
    yield both("optimizer", lambda p: p.optimizer)
    yield both("weights", lambda p: short_bytes(sum(m.weights for m in p.memory)))
    if a.cluster.cuda or b.cluster.cuda:
        yield both("HBM, fullest rank", lambda p: short_bytes(max(m.hbm for m in p.memory)))
        yield both("HBM allowed", lambda p: short_bytes(p.allowed_hbm))
    yield both("host memory, fullest rank", lambda p: short_bytes(max(m.host for m in p.memory)))
    yield both("host memory allowed", lambda p: short_bytes(p.allowed_host))
    yield both("imbalance", lambda p: f"{imbalance(p.costs):.2f}")
    for key in (*PARTS, "step"):
        yield both(f"{key} ms", lambda p, key=key: "-" if p.estimate is None else ms_text(p.estimate.part_ms(key)))
    yield both("bound by", lambda p: "-" if p.estimate is None else p.estimate.bound)
    yield both("samples/s", lambda p: "-" if p.rate is None else short_count(p.rate))


def _tables(a: PlanFile, b: PlanFile) -> Iterator[list[str]]:
    before, after = ({table.table: table for table in plan.tables} for plan in (a, b))
    for name in dict.fromkeys([*before, *after]):
        tables = ((a, before.get(name)), (b, after.get(name)))
        rows = [_line(*each) for each in tables]
        if rows[0] == rows[1] and _placement(*tables[0]) != _placement(*tables[1]):
            rows = [[*row[:-1], f"{row[-1]} ({_shards(*each)})"] for row, each in zip(rows, tables, strict=True)]
        if rows[0] != rows[1]:
            yield [name, "a", *rows[0]]
            yield ["", "b", *rows[1]]


def _placement(plan: PlanFile, table: TablePlan | None) -> object:
    return None if table is None else (table.shards(plan.cluster), table.cache_load_factor)


def _shards(plan: PlanFile, table: TablePlan | None) -> str:
    """Return the first shards of a table, to show beside a table that differs in nothing else."""
    if table is None:
        return ""
    load = "" if table.cache_load_factor is None else f"cached {table.cache_load_factor:g}, "
    shards = table.shards(plan.cluster)
    texts = [f"rank {s.rank}: rows {s.row}+{s.rows}, columns {s.column}+{s.columns}" for s in shards[:_SHARDS]]
    return load + "; ".join(texts) + ("; ..." if len(shards) > _SHARDS else "")


def _line(plan: PlanFile, table: TablePlan | None) -> list[str]:
    if table is None:
        return ["none", "", "", ""]
    size = f"{table.rows:,} x {table.dim} {table.dtype}"
    return [size, table.sharding, table.kernel, joined_spans(plan.ranks_of(table))]
