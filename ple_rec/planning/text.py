"""Text of a plan on a terminal: its tables, ranks, estimate and remarks. docs/planning.md explains every column."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ple_rec.config.cluster import PRESETS, assumed_figures
from ple_rec.config.plan import STEP_PARTS, PlanFile, StepEstimate, column_wise_remarks, sequential_parts
from ple_rec.config.plan_table import Costs, TablePlan
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.data.order import rows_per_shard
from ple_rec.errors import UserError
from ple_rec.text import align_columns
from ple_rec.text.units import join_spans, short_bytes, short_count, short_duration

# With more ranks, only the fullest, the busiest and the median are listed.
_MANY_RANKS = 16
# Of more tables, the largest ones are listed.
_MANY_TABLES = 40
# A list of ranks with more characters is replaced by their number.
_RANKS_WIDTH = 24
# If the busiest rank takes this many times the mean or longer, a remark names the small tables that are the cause.
_MIN_IMBALANCE = 1.5
# Largest number of names in a remark.
_MAX_NAMES = 4
# Ids are int32, so tables with more rows cannot be trained.
_MAX_ROWS = 1 << 31


def format_plan(plan: PlanFile, config: RunConfig, *, show_all: bool = False) -> str:
    """Return a plan as text: its tables, ranks, estimate, and remarks.

    Args:
        plan: Plan, with or without an estimate.
        config: Configuration that was planned.
        show_all: True to list every table and every rank, however many there are.
    """
    parts = [_head(plan, config.name), _table_list(plan, show_all), _rank_list(plan, show_all)]
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


def _table_list(plan: PlanFile, show_all: bool) -> str:
    ordered = sorted(plan.tables, key=lambda table: -table.bytes)
    listed_tables = ordered if show_all else ordered[:_MANY_TABLES]
    head = ["table", "rows", "dim", "bytes", "sharding", "kernel", "ranks", "weights", "optimizer", "batch", "ms"]
    lines = [head, *(_table_line(plan, table) for table in listed_tables)]
    more = (
        [f"and {len(ordered) - len(listed_tables)} smaller tables (--all)"] if len(listed_tables) < len(ordered) else []
    )
    return "\n".join([*align_columns(lines, left_columns=(0, 4, 5, 6)), *more])


def _table_line(plan: PlanFile, table: TablePlan) -> list[str]:
    memory = plan.memory_of_table(table)
    ranks = plan.ranks_of(table)
    spans = join_spans(ranks)
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


def _rank_list(plan: PlanFile, show_all: bool) -> str:
    world, memory, costs = plan.cluster.world_size, plan.memory, plan.costs
    head = ["rank", *(["HBM", "of allowed"] if plan.cluster.cuda else []), "host memory", "of allowed"]
    head += ["lookup ms", "communication ms", "total ms"]

    def line(name: str, hbm: float, host: float, lookup: float, communication: float, total: float) -> list[str]:
        in_hbm = [short_bytes(hbm), _share(hbm, plan.allowed_hbm)] if plan.cluster.cuda else []
        times = [ms_text(value) for value in (lookup, communication, total)]
        return [name, *in_hbm, short_bytes(host), _share(host, plan.allowed_host), *times]

    def values(rank: int) -> tuple[float, float, float, float, float]:
        c = costs[rank]
        return memory[rank].hbm, memory[rank].host, c.lookup_part_ms(), c.communication_part_ms(), c.total()

    if show_all or world <= _MANY_RANKS:
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
        [*align_columns([head, *lines]), f"imbalance {imbalance(costs):.2f} (time of the busiest rank over the mean)"]
    )


def ms_text(value: float) -> str:
    """Return milliseconds without the unit, with three decimals, below 0.1 with three digits: `12.346`, `0.0123`."""
    return f"{value:.3g}" if 0 < value < 0.1 else f"{value:.3f}"


def imbalance(costs: Sequence[Costs]) -> float:
    """Return the time of the busiest rank's tables divided by the mean over ranks; 1 if there are no tables."""
    totals = [each.total() for each in costs]
    mean = sum(totals) / len(totals)
    return max(totals) / mean if mean else 1.0


def _share(value: float, allowed: int) -> str:
    return f"{100 * value / allowed:.1f} %" if allowed else "-"


def format_estimate(plan: PlanFile, estimate: StepEstimate) -> str:
    """Return the time of a step and of its parts, the part that bounds it, the rate, and what was measured.

    Args:
        plan: Plan of the run.
        estimate: Estimate of the plan.
    """
    sequential = sequential_parts(plan.cluster)
    parts, beside = (
        "  ".join(f"{name} {ms_text(estimate.part_ms(name))}" for name in STEP_PARTS if (name in sequential) is chosen)
        for chosen in (True, False)
    )
    epoch = f"an epoch of {estimate.epoch_samples:,} samples takes {short_duration(estimate.epoch_seconds)}"
    return "\n".join(
        [
            f"step {ms_text(estimate.step_ms)} ms{range_text(estimate)}, "
            f"bound by {estimate.bound} ({_PART_MEANINGS[estimate.bound]})",
            f"  ms: {parts}; at the same time: {beside}",
            f"{short_count(estimate.samples_per_second)} samples/s; {epoch}",
            measured_text(plan),
        ]
    )


def range_text(estimate: StepEstimate) -> str:
    """Return the range of a step: ` (1.5 to 9.2)`; an empty text if no figure is assumed, or the range is not known."""
    fastest, slowest = estimate.fastest_ms, estimate.slowest_ms
    if fastest is None or slowest is None or fastest == slowest:
        return ""
    return f" ({fastest:.3g} to {slowest:.3g})"


def measured_text(plan: PlanFile) -> str:
    """Return a line that says which figures of the estimate were measured, or how to measure them."""
    if plan.cluster.calibration is not None:
        assumed = assumed_figures(plan.cluster.hardware)
        rest = f"; assumed: {', '.join(assumed)}" if assumed else ""
        return f"measured: {plan.cluster.calibration}{rest}"
    return (
        "nothing was measured: efficiencies, latencies and host time are assumed; "
        "measure with `python -m benchmarks.calibrate`, then --calibration FILE"
    )


def rate_text(plan: PlanFile) -> str:
    """Return the estimated rate."""
    assert plan.rate is not None  # Plans of a search have an estimate.
    return f"{plan.rate:,.0f} samples/s"


# Work in each part of a step.
_PART_MEANINGS = {
    "host": "issuing the operators of a step",
    "lookup": "looking up and updating rows",
    "communication": "exchanging ids, pooled rows and their gradients",
    "dense": "the dense layers",
    "gradients": "the all-reduce of the dense gradients",
    "loader": "reading batches",
}


def _remarks(plan: PlanFile, config: RunConfig) -> list[str]:
    """Return a list of one text, with a line for each remark on a plan; an empty list if there are none."""
    embeddings = config.embeddings
    remarks = column_wise_remarks(plan)
    by_planner = tables_in_uvm_by_planner(plan, embeddings)
    by_user = [table for table in plan.tables if table.kernel != "fused" and table not in by_planner]
    for tables, why in ((by_user, "as the configuration asks"), (by_planner, "since HBM has no room for all tables")):
        if tables:
            remarks.append(f"{uvm_text(tables)}, {why}")
    unpooled = [table for table in plan.tables if table.unpooled]
    if unpooled:
        ids = sum(sum(table.ids_per_sample) for table in unpooled)
        names = _first_names([table.table for table in unpooled])
        remarks.append(f"unpooled, since attention reads single rows, {ids:.4g} a sample: {names}")
    # The planner deviates from `embeddings.sharding` only for tables that cannot have it.
    others = [
        table
        for table in plan.tables
        if embeddings.sharding not in (None, table.sharding) and _has_free_sharding(embeddings, table.table)
    ]
    without_single_rows = [t.table for t in others if t.unpooled and embeddings.sharding == "table_row_wise"]
    if without_single_rows:
        remarks.append(f"not table_row_wise, which returns no single rows: {_first_names(without_single_rows)}")
    too_small = [table.table for table in others if table.table not in without_single_rows]
    if too_small:
        names = _first_names(too_small)
        remarks.append(f"not {embeddings.sharding}, since that would leave a rank without a row: {names}")
    remarks += [
        f"train will refuse table {table.table}: {table.rows:,} rows; ids are int32, so it has at most {_MAX_ROWS:,}"
        for table in plan.tables
        if table.rows > _MAX_ROWS
    ]
    remarks += _small_table_remarks(plan) + _data_shard_remarks(plan, config)
    if plan.reserved.frozen_bytes:
        size = short_bytes(plan.cluster.ranks_per_host * plan.reserved.frozen_bytes)
        remarks.append(f"frozen tables of vectors take {size} of each host's memory (each rank has a copy)")
    if plan.cluster.hardware == PRESETS["cpu"]:
        remarks.append("the hosts are a guess at a common CPU server: give the figures of yours in [topology]")
    return ["\n".join(remarks)] if remarks else []


def tables_in_uvm_by_planner(plan: PlanFile, embeddings: EmbeddingsConfig) -> list[TablePlan]:
    """Return the tables that the planner, not the configuration, has put into the hosts' memory (UVM).

    Args:
        plan: Plan of the tables.
        embeddings: Configuration of the tables.
    """
    # The kernels other than "fused" keep a table in the hosts' memory.
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


def _has_free_sharding(embeddings: EmbeddingsConfig, table: str) -> bool:
    """Return True if the configuration does not fix the sharding of this table by name."""
    own = embeddings.tables.get(table)
    return own is None or own.sharding is None


def _data_shard_remarks(plan: PlanFile, config: RunConfig) -> list[str]:
    """Return a remark if training would refuse the number of ranks for the batch and `data.virtual_shards`."""
    world = plan.cluster.world_size
    try:
        # Called for its error.
        rows_per_shard(plan.batch_size_per_rank * world, config.data.virtual_shards, world)
    except UserError as error:
        return [f"train will refuse {world} ranks: {error}"]
    return []


def _small_table_remarks(plan: PlanFile) -> list[str]:
    """Return a remark if ranks are imbalanced and the busiest ones have tables with fewer rows than there are ranks.

    Such a table cannot be split over all ranks, so it lies on one of them.
    """
    world = plan.cluster.world_size
    totals = [costs.total() for costs in plan.costs]
    idle, busiest = totals.count(0.0), {rank for rank in range(world) if totals[rank] == max(totals)}
    small = [t.table for t in plan.tables if t.rows < world and busiest.issuperset(plan.ranks_of(t))]
    if imbalance(plan.costs) < _MIN_IMBALANCE or not small:
        return []
    idle_ranks = f"; {idle} of {world} ranks hold no table" if idle else ""
    ranks = "the busiest rank has" if len(busiest) == 1 else "the busiest ranks have"
    return [f"{ranks} {_first_names(small)}, which cannot be split: fewer rows than ranks{idle_ranks}"]


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
