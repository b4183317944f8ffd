"""A plan on a terminal. docs/planning.md explains every column."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ple_rec.config.cluster import PRESETS
from ple_rec.config.plan import PARTS, PlanFile, StepEstimate, column_wise_remarks
from ple_rec.config.plan_table import Costs, TablePlan
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.data.order import rows_per_shard
from ple_rec.errors import UserError
from ple_rec.text import aligned
from ple_rec.text.units import joined_spans, short_bytes, short_count, short_duration

_MANY_RANKS = 16
_MANY_TABLES = 40
_RANKS_WIDTH = 24
# Remarks mention an imbalance from this one on.
_UNEVEN = 1.5
# Remarks list this many names.
_NAMES = 4
# Ids are int32, so larger tables cannot be trained.
_MOST_ROWS = 1 << 31
# What the estimate leaves out takes longer than what it counts if a step is shorter than this.
_SHORTEST_MS = 0.5


def format_plan(plan: PlanFile, config: RunConfig, *, everything: bool = False) -> str:
    """Return a plan as text: its tables, ranks, estimate, and remarks.

    Args:
        plan: Plan with its estimate.
        config: Configuration that was planned.
        everything: True to list every table and every rank, however many there are.
    """
    parts = [_head(plan, config.name), _tables(plan, everything), _ranks(plan, everything)]
    if plan.estimate is not None:
        parts.append(format_estimate(plan, plan.estimate))
    return "\n\n".join([*parts, *_remarks(plan, config)])


def _head(plan: PlanFile, title: str) -> str:
    rows, size = sum(t.rows for t in plan.tables), sum(t.bytes for t in plan.tables)
    return (
        f"{title}: {len(plan.tables)} tables, {rows:,} rows, {short_bytes(size)}, {plan.optimizer}; "
        f"{plan.cluster.describe()} = {plan.cluster.world_size:,} ranks, {plan.batch_size_per_rank:,} samples each"
        + (f"\nrows of {plan.rows_of}" if plan.rows_of else "")
    )


def _tables(plan: PlanFile, everything: bool) -> str:
    ordered = sorted(plan.tables, key=lambda table: -table.bytes)
    shown = ordered if everything else ordered[:_MANY_TABLES]
    head = ["table", "rows", "dim", "bytes", "sharding", "kernel", "ranks", "weights", "optimizer", "batch", "ms"]
    lines = [head, *(_table_line(plan, table) for table in shown)]
    more = [f"and {len(ordered) - len(shown)} smaller tables (--all)"] if len(shown) < len(ordered) else []
    return "\n".join([*aligned(lines, left=(0, 4, 5, 6)), *more])


def _table_line(plan: PlanFile, table: TablePlan) -> list[str]:
    memory = plan.memory_of_table(table)
    ranks = plan.ranks_of(table)
    spans = joined_spans(ranks)
    return [
        table.table,
        f"{table.rows:,}",
        str(table.dim),
        short_bytes(table.bytes),
        table.sharding,
        table.kernel,
        spans if len(spans) <= _RANKS_WIDTH else f"{len(set(ranks))} ranks",
        *(short_bytes(value) for value in (memory.weights, memory.optimizer, memory.batch)),
        ms_text(table.costs_ms.total()),
    ]


def _ranks(plan: PlanFile, everything: bool) -> str:
    world, memory, costs = plan.cluster.world_size, plan.memory, plan.costs
    head = ["rank", *(["HBM", "of allowed"] if plan.cluster.cuda else []), "host memory", "of allowed"]
    head += ["lookup ms", "communication ms", "total ms"]

    def line(name: str, hbm: float, host: float, lookup: float, communication: float, total: float) -> list[str]:
        in_hbm = [short_bytes(hbm), _share(hbm, plan.allowed_hbm)] if plan.cluster.cuda else []
        times = [ms_text(value) for value in (lookup, communication, total)]
        return [name, *in_hbm, short_bytes(host), _share(host, plan.allowed_host), *times]

    def values(rank: int) -> tuple[float, float, float, float, float]:
        c = costs[rank]
        return memory[rank].hbm, memory[rank].host, c.lookup_ms(), c.communication_ms(), c.total()

    if everything or world <= _MANY_RANKS:
        lines = [line(str(rank), *values(rank)) for rank in range(world)]
    else:
        fullest = max(range(world), key=lambda rank: (memory[rank].hbm, memory[rank].host))
        busiest = max(range(world), key=lambda rank: costs[rank].total())
        middle = [statistics.median(each) for each in zip(*map(values, range(world)), strict=True)]
        lines = [
            line(f"{fullest} (fullest)", *values(fullest)),
            line(f"{busiest} (busiest)", *values(busiest)),
            line("median of all", middle[0], middle[1], middle[2], middle[3], middle[4]),
        ]
    return "\n".join(
        [*aligned([head, *lines]), f"imbalance {imbalance(costs):.2f} (time of the busiest rank over the mean)"]
    )


def ms_text(value: float) -> str:
    """Return milliseconds with three decimals, or with three digits if below .1: `12.346`, `0.0123`."""
    return f"{value:.3g}" if 0 < value < 0.1 else f"{value:.3f}"


def imbalance(costs: Sequence[Costs]) -> float:
    """Return the time of the busiest rank's tables divided by the mean over ranks; 1 if there are no tables."""
    totals = [each.total() for each in costs]
    mean = sum(totals) / len(totals)
    return max(totals) / mean if mean else 1.0


def _share(value: float, allowed: int) -> str:
    return f"{100 * value / allowed:.1f} %" if allowed else "-"


def format_estimate(plan: PlanFile, estimate: StepEstimate) -> str:
    """Return the parts of a step, what bounds it, and the rate that follows.

    Args:
        plan: Plan of the run.
        estimate: Estimate of the plan.
    """
    parts = "  ".join(f"{name} {ms_text(estimate.part_ms(name))}" for name in PARTS)
    few = f"{plan.batch_size_per_rank:,} samples a rank are few; raise the batch size"
    lines = [
        f"step {ms_text(estimate.step_ms)} ms, bound by {estimate.bound} ({_BOUNDS[estimate.bound]})",
        f"  ms: {parts} (overlaps)",
    ]
    if plan.rate is None:
        lines.append(f"no samples/s: most of a step would be latency, which is not counted, since {few}")
    else:
        epoch = f"an epoch of {estimate.epoch_samples:,} samples takes {short_duration(estimate.epoch_seconds)}"
        lines.append(f"{short_count(plan.rate)} samples/s; {epoch}")
        if estimate.step_ms < _SHORTEST_MS:
            lines.append(f"  an upper bound: no latency is counted, and {few}")
    return "\n".join(lines)


def rate_text(plan: PlanFile) -> str:
    """Return the estimated rate, or the batch of a rank if that is too small for an estimate of the rate."""
    return f"{plan.batch_size_per_rank:,} samples a rank" if plan.rate is None else f"{plan.rate:,.0f} samples/s"


_BOUNDS = {
    "lookup": "looking up and updating rows",
    "communication": "exchanging ids, pooled rows and their gradients",
    "dense": "the dense layers",
    "gradients": "the all-reduce of the dense gradients",
    "loader": "reading batches",
}


def _remarks(plan: PlanFile, config: RunConfig) -> list[str]:
    embeddings = config.embeddings
    remarks = column_wise_remarks(plan)
    by_planner = tables_in_uvm_by_planner(plan, embeddings)
    by_user = [table for table in plan.tables if table.kernel != "fused" and table not in by_planner]
    for tables, why in ((by_user, "as the configuration asks"), (by_planner, "since HBM has no room for all tables")):
        if tables:
            remarks.append(f"{uvm_text(tables)}, {why}")
    too_small = [
        t.table for t in plan.tables if embeddings.sharding not in (None, t.sharding) and _free(embeddings, t.table)
    ]
    if too_small:
        names = _first_names(too_small)
        remarks.append(f"not {embeddings.sharding}, since that would leave a rank without a row: {names}")
    remarks += [
        f"train will refuse table {table.table}: {table.rows:,} rows; ids are int32, so it has at most {_MOST_ROWS:,}"
        for table in plan.tables
        if table.rows > _MOST_ROWS
    ]
    remarks += _small_tables(plan) + _shards_of_data(plan, config)
    if plan.cluster.hardware == PRESETS["cpu"]:
        remarks.append("the hosts are a guess at a common CPU server: give the figures of yours in [topology]")
    return ["\n".join(remarks)] if remarks else []


def tables_in_uvm_by_planner(plan: PlanFile, embeddings: EmbeddingsConfig) -> list[TablePlan]:
    """Return the tables that the planner, not the configuration, has put into the hosts' memory.

    Args:
        plan: Plan of the tables.
        embeddings: Configuration of the tables.
    """
    forced = {name for name, own in embeddings.tables.items() if own.kernel is not None}
    if embeddings.kernel is not None:
        return []
    return [table for table in plan.tables if table.kernel != "fused" and table.table not in forced]


def uvm_text(tables: Sequence[TablePlan]) -> str:
    """Return size and names of tables, such as `2.8 GiB in the hosts' memory (UVM): user_id`.

    Args:
        tables: Tables that lie in the hosts' memory.
    """
    size = short_bytes(sum(table.bytes for table in tables))
    return f"{size} in the hosts' memory (UVM): {_first_names([table.table for table in tables])}"


def _free(embeddings: EmbeddingsConfig, table: str) -> bool:
    """Return True if the configuration does not force the sharding of this very table."""
    own = embeddings.tables.get(table)
    return own is None or own.sharding is None


def _shards_of_data(plan: PlanFile, config: RunConfig) -> list[str]:
    """Return a remark if training would refuse to read its data on so many ranks."""
    world = plan.cluster.world_size
    try:
        rows_per_shard(plan.batch_size_per_rank * world, config.data.virtual_shards, world)
    except UserError as error:
        return [f"train will refuse {world} ranks: {error}"]
    return []


def _small_tables(plan: PlanFile) -> list[str]:
    """Return a remark if the busiest rank has tables that cannot be split, since they have fewer rows than ranks."""
    world = plan.cluster.world_size
    totals = [costs.total() for costs in plan.costs]
    idle, busiest = totals.count(0.0), max(range(world), key=lambda rank: totals[rank])
    small = [t.table for t in plan.tables if t.rows < world and plan.ranks_of(t) == (busiest,)]
    if imbalance(plan.costs) < _UNEVEN or not small:
        return []
    idle_ranks = f"; {idle} of {world} ranks hold no table" if idle else ""
    return [f"the busiest rank has {_first_names(small)}, which cannot be split: fewer rows than ranks{idle_ranks}"]


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
