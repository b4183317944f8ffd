"""Differences between two plans as text: clusters, sums, estimates, and every table that is placed differently."""

from __future__ import annotations

from collections.abc import Iterator

from ple_rec.config.plan import STEP_PARTS, PlanFile
from ple_rec.config.plan_table import TablePlan
from ple_rec.planning.text import imbalance, ms_text, range_text
from ple_rec.text import align_columns
from ple_rec.text.units import join_spans, short_bytes, short_count

# Largest number of shards of a table that are shown.
_MAX_SHARDS = 3


def format_comparison(a: PlanFile, b: PlanFile, names: tuple[str, str]) -> str:
    """Return the sums and estimates of two plans side by side, then the tables that differ.

    Args:
        a: One plan.
        b: The other plan.
        names: Headings of the two plans.
    """
    lines = [["", *names], *([key, *values] for key, values in _summary_rows(a, b))]
    differing = list(_differing_rows(a, b))
    if not differing:
        return "\n".join([*align_columns(lines), "", "every table lies where it did"])
    head = ["table", "", "rows x dim", "sharding", "kernel", "ranks"]
    count = len({line[0] for line in differing if line[0]})
    title = f"{count} of {len({t.table for t in (*a.tables, *b.tables)})} tables differ:"
    return "\n".join(
        [*align_columns(lines), "", title, *align_columns([head, *differing], left_columns=(0, 1, 2, 3, 4, 5))]
    )


def _summary_rows(a: PlanFile, b: PlanFile) -> Iterator[tuple[str, tuple[str, str]]]:
    def summarise(key: str, show: object) -> tuple[str, tuple[str, str]]:
        assert callable(show)
        return key, (show(a), show(b))

    yield summarise("cluster", lambda p: p.cluster.describe())
    yield summarise("samples a rank", lambda p: f"{p.batch_size_per_rank:,}")
    yield summarise("optimizer", lambda p: p.optimizer)
    yield summarise("weights", lambda p: short_bytes(sum(m.weights for m in p.memory)))
    if a.cluster.cuda or b.cluster.cuda:
        yield summarise("HBM, fullest rank", lambda p: short_bytes(max(m.hbm for m in p.memory)))
        yield summarise("HBM allowed", lambda p: short_bytes(p.allowed_hbm))
    yield summarise("host memory, fullest rank", lambda p: short_bytes(max(m.host for m in p.memory)))
    yield summarise("host memory allowed", lambda p: short_bytes(p.allowed_host))
    yield summarise("imbalance", lambda p: f"{imbalance(p.costs):.2f}")
    for key in (*STEP_PARTS, "step"):
        yield summarise(f"{key} ms", lambda p, key=key: "-" if p.estimate is None else ms_text(p.estimate.part_ms(key)))
    yield summarise(
        "range of step ms", lambda p: "-" if p.estimate is None else range_text(p.estimate).strip(" ()") or "-"
    )
    yield summarise("bound by", lambda p: "-" if p.estimate is None else p.estimate.bound)
    yield summarise("samples/s", lambda p: "-" if p.rate is None else short_count(p.rate))


def _differing_rows(a: PlanFile, b: PlanFile) -> Iterator[list[str]]:
    before, after = ({table.table: table for table in plan.tables} for plan in (a, b))
    for name in dict.fromkeys([*before, *after]):
        tables = ((a, before.get(name)), (b, after.get(name)))
        rows = [_placement_cells(*each) for each in tables]
        # Shards and cache have no columns; if they alone differ, they are added to the last cell.
        if rows[0] == rows[1] and _shards_and_cache(*tables[0]) != _shards_and_cache(*tables[1]):
            rows = [[*row[:-1], f"{row[-1]} ({_shards_text(*each)})"] for row, each in zip(rows, tables, strict=True)]
        if rows[0] != rows[1]:
            yield [name, "a", *rows[0]]
            yield ["", "b", *rows[1]]


def _shards_and_cache(plan: PlanFile, table: TablePlan | None) -> object:
    return None if table is None else (table.shards(plan.cluster), table.cache_load_factor)


def _shards_text(plan: PlanFile, table: TablePlan | None) -> str:
    """Return the share of rows in the cache, if any, and the first shards; `rows 5+10` are 10 rows from row 5 on."""
    if table is None:
        return ""
    load = "" if table.cache_load_factor is None else f"cached {table.cache_load_factor:g}, "
    shards = table.shards(plan.cluster)
    texts = [f"rank {s.rank}: rows {s.row}+{s.rows}, columns {s.column}+{s.columns}" for s in shards[:_MAX_SHARDS]]
    return load + "; ".join(texts) + ("; ..." if len(shards) > _MAX_SHARDS else "")


def _placement_cells(plan: PlanFile, table: TablePlan | None) -> list[str]:
    if table is None:
        return ["none", "", "", ""]
    size = f"{table.rows:,} x {table.dim} {table.dtype}"
    return [size, table.sharding, table.kernel, join_spans(plan.ranks_of(table))]
