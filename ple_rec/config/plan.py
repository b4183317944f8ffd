"""`PlanFile`: the content of `plan.json`, which places embedding tables on the ranks of a cluster.

It may also hold the estimated time of a step. The memory of each rank is not saved but computed from the placement.
`ple-rec plan --out` and each training run write the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Literal, get_args

from pydantic import Field, model_validator

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import (
    BYTES_PER_VALUE,
    AnyTablePlan,
    Costs,
    Memory,
    Shard,
    Sharding,
    TableOptimizer,
    TablePlan,
    placement_keys,
    shard_memory,
)
from ple_rec.config.problems import ConfigError, parse_document
from ple_rec.config.words import short_value
from ple_rec.errors import UserError
from ple_rec.storage import Location, short_message

PLAN_VERSION: Final = 3
_MAX_RANKS = 1 << 16  # A damaged file could name far more, and each rank takes memory here.

StepPart = Literal["host", "lookup", "communication", "dense", "gradients", "loader"]
STEP_PARTS: tuple[StepPart, ...] = get_args(StepPart)
# Collectives of a step for the tables of a sharding type: numbers of ids, lengths and ids; rows and their gradients,
# which table-row-wise tables exchange in two stages.
_COLLECTIVES: Mapping[Sharding, int] = {"table_wise": 5, "row_wise": 5, "column_wise": 5, "table_row_wise": 7}


def sequential_parts(cluster: Cluster) -> tuple[StepPart, ...]:
    """Return the parts of a step that follow one another; the other parts run at the same time as these.

    A GPU computes while its host issues the next operators. On CPUs the host itself computes.
    """
    return STEP_PARTS[1:-1] if cluster.cuda else STEP_PARTS[:-1]


class StepEstimate(Config):
    """Estimated time of a training step, and the samples per second that follow; docs/planning.md has the formulas."""

    host_ms: NonNegativeFloat = Field(
        0.0, description="issue of the step's operators, which on GPUs overlaps with all other parts"
    )
    lookup_ms: NonNegativeFloat = Field(description="look-up, update and prefetch of the rows on the busiest rank")
    communication_ms: NonNegativeFloat = Field(
        description="exchange of ids, pooled rows and gradients on the busiest rank, with the latencies"
    )
    dense_ms: NonNegativeFloat = Field(description="forward and backward of the dense layers")
    gradients_ms: NonNegativeFloat = Field(description="all-reduce of the dense gradients after backward")
    loader_ms: NonNegativeFloat = Field(description="reading of a batch, which overlaps with all other parts")
    step_ms: NonNegativeFloat
    fastest_ms: NonNegativeFloat | None = Field(None, description="step with every assumed figure at its best")
    slowest_ms: NonNegativeFloat | None = Field(None, description="step with every assumed figure at its worst")
    bound: StepPart = Field(description="the largest part")
    samples_per_second: PositiveFloat
    epoch_samples: PositiveInt
    epoch_seconds: PositiveFloat

    def part_ms(self, name: str) -> float:
        """Return the milliseconds of a part, one of `STEP_PARTS`, or of the whole step, `step`."""
        return float(getattr(self, f"{name}_ms"))


class Reserved(Config):
    """Bytes of a rank's memory that tables cannot use."""

    hbm_bytes: NonNegativeInt = Field(description="part of the GPU's memory that stays free of tables")
    host_bytes: NonNegativeInt = Field(description="part of the rank's share of host memory that stays free of tables")
    dense_bytes: NonNegativeInt = Field(
        description="dense parameters, their gradients, optimizer state and all-reduce buckets"
    )
    frozen_bytes: NonNegativeInt | None = Field(
        None, description="frozen tables of vectors, which each rank reads into host memory; default: none"
    )


class PlanFile(Config):
    """Placement of every table of a run on the ranks of a cluster."""

    version: Literal[3]
    cluster: Cluster
    batch_size_per_rank: PositiveInt
    optimizer: TableOptimizer
    reserved: Reserved
    rows_of: str = Field("", description="source of the tables' sizes: a dataset directory or a schema")
    tables: tuple[AnyTablePlan, ...]
    estimate: StepEstimate | None = None

    @model_validator(mode="after")
    def _can_be_built(self) -> PlanFile:
        cluster, names = self.cluster, [table.table for table in self.tables]
        if cluster.world_size > _MAX_RANKS:
            raise ValueError(f"cluster: {cluster.world_size:,} ranks; a plan has at most {_MAX_RANKS:,}")
        problems = [f"table {name!r} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for table in self.tables:
            problems += table.problems(cluster)
        cut = [table for table in self.tables if table.unpooled and table.sharding == "column_wise"]
        if len({len(table.shards(cluster)) for table in cut}) > 1:
            cut_names = ", ".join(repr(table.table) for table in cut)
            problems.append(f"tables {cut_names}, unpooled and column_wise, have different numbers of shards")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """Memory of every rank."""
        memory = [Memory()] * self.cluster.world_size
        for table in self.tables:
            for shard in table.shards(self.cluster):
                memory[shard.rank] = memory[shard.rank].plus(self.memory_of_shard(table, shard))
        return tuple(memory)

    def ranks_of(self, table: TablePlan) -> tuple[int, ...]:
        """Return the rank of each shard of a table, in the order of the shards."""
        return tuple(shard.rank for shard in table.shards(self.cluster))

    def memory_of_shard(self, table: TablePlan, shard: Shard) -> Memory:
        """Return the memory of one shard."""
        return shard_memory(
            rows=shard.rows,
            columns=shard.columns,
            dtype=table.dtype,
            ids_per_sample=table.ids_per_sample,
            sharding=table.sharding,
            kernel=table.kernel,
            cache_load_factor=table.cache_load_factor,
            optimizer=self.optimizer,
            cluster=self.cluster,
            batch_size_per_rank=self.batch_size_per_rank,
            unpooled=table.unpooled,
        )

    def memory_of_table(self, table: TablePlan) -> Memory:
        """Return the memory of all shards of a table."""
        total = Memory()
        for shard in table.shards(self.cluster):
            total = total.plus(self.memory_of_shard(table, shard))
        return total

    @cached_property
    def costs(self) -> tuple[Costs, ...]:
        """Costs of every rank: the sum over its shards.

        Each shard has the costs of the costliest shard of its table; one without rows costs nothing.
        """
        sums = [dict.fromkeys(Costs.model_fields, 0.0) for _ in range(self.cluster.world_size)]
        for table in self.tables:
            for shard in table.shards(self.cluster):
                for name, value in table.costs_ms if shard.rows else ():
                    sums[shard.rank][name] += value
        return tuple(map(Costs.model_validate, sums))

    @property
    def sharding_types(self) -> tuple[Sharding, ...]:
        """Distinct sharding types of pooled tables, then those of unpooled tables, which are exchanged apart."""
        return tuple(sharding for _, sharding in sorted({(table.unpooled, table.sharding) for table in self.tables}))

    @property
    def sharding_host_ms(self) -> float:
        """Host's milliseconds a step for the sharding types; 0 on one rank, where `host_ms_per_step` contains them."""
        types = len(self.sharding_types) if self.cluster.world_size > 1 else 0
        return types * self.cluster.hardware.host_ms_per_sharding_type

    @property
    def collectives(self) -> int:
        """Number of collectives a step for the tables, one after another; 0 on one rank."""
        return sum(_COLLECTIVES[kind] for kind in self.sharding_types) if self.cluster.world_size > 1 else 0

    @property
    def tables_ms(self) -> float:
        """Milliseconds a step for the tables: busiest rank, latencies and host. The planner makes it small."""
        latency = self.collectives * self.cluster.latency_ms
        return max(Costs.total(costs) for costs in self.costs) + latency + self.sharding_host_ms

    @property
    def rate(self) -> float | None:
        """Estimated samples per second of all ranks; None without an estimate."""
        return None if self.estimate is None else self.estimate.samples_per_second

    @property
    def allowed_hbm(self) -> int:
        """Bytes of a rank's HBM that tables and their batches may use; 0 on a CPU."""
        return (
            max(0, self.cluster.hbm_bytes - self.reserved.hbm_bytes - self.reserved.dense_bytes)
            if self.cluster.cuda
            else 0
        )

    @property
    def allowed_host(self) -> int:
        """Bytes of a rank's share of host memory that tables and their batches may use."""
        dense = 0 if self.cluster.cuda else self.reserved.dense_bytes
        return max(0, self.cluster.ddr_bytes - self.reserved.host_bytes - (self.reserved.frozen_bytes or 0) - dense)


def reserved_memory(cluster: Cluster, dense_bytes: int, frozen_bytes: int = 0) -> Reserved:
    """Return the bytes that tables cannot use on a rank of a cluster.

    Args:
        cluster: Cluster with the memory of its hosts.
        dense_bytes: Bytes of the dense layers in training.
        frozen_bytes: Bytes of the frozen tables of vectors.
    """
    share = cluster.hardware.reserve
    return Reserved(
        hbm_bytes=int(share * cluster.hbm_bytes),
        host_bytes=int(share * cluster.ddr_bytes),
        dense_bytes=dense_bytes,
        frozen_bytes=frozen_bytes or None,
    )


def column_wise_remarks(plan: PlanFile) -> list[str]:
    """Return a remark if column-wise sharding changes what row-wise Adagrad computes; else no remark."""
    names = [table.table for table in plan.tables if table.sharding == "column_wise"]
    if not names or plan.optimizer != "rowwise_adagrad":
        return []
    names_text = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return [
        f"column_wise with rowwise_adagrad is another optimizer: every shard of {names_text} keeps its own state of a "
        "row, and checkpoints can be loaded only into the same column shards"
    ]


_VERSION_WITH_SHARDS = 2  # In this older version, each table lists its shards.


def dump_plan(plan: PlanFile) -> str:
    """Return the text of `plan.json`, with one line for each table."""
    content = plan.model_dump(mode="json", exclude={"tables"}, exclude_none=True)
    lines = [f'  "{key}": {_indented_json(value)}' for key, value in content.items()]
    tables = ",\n".join(f"    {json.dumps(table.model_dump(exclude_none=True))}" for table in plan.tables)
    lines.append(f'  "tables": [\n{tables}\n  ]' if plan.tables else '  "tables": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _indented_json(value: Any) -> str:
    """Return a value of the top level as JSON; an object has a line for each key."""
    return json.dumps(value, indent=2).replace("\n", "\n  ")


def read_placements(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `world_size` and `tables` of a run's `plan.json`, which may be of any version or damaged.

    `world_size` is None if it is damaged. A table has the keys `table`, `rows`, `dim`, `sharding` and `kernel` with the
    values of the file (None for a missing one), `ranks`, which is empty if the table is damaged, and `bytes` if it can
    be computed. Entries that are no tables are left out. A file without a cluster is returned as it is: version 1 has
    `world_size` and `tables` itself.
    """
    cluster, tables = raw.get("cluster"), raw.get("tables")
    if not isinstance(cluster, dict):
        return dict(raw)
    hosts, ranks_per_host = cluster.get("hosts"), cluster.get("ranks_per_host")
    world = hosts * ranks_per_host if isinstance(hosts, int) and isinstance(ranks_per_host, int) else None
    valid = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return {"world_size": world, "tables": [_placement(table, raw) for table in valid]}


def _placement(table: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    # The table is parsed without the others, which may be damaged.
    plan, _ = _parse({**raw, "tables": [table], "estimate": None})
    ranks = [] if plan is None else list(plan.ranks_of(plan.tables[0]))
    rows, dim, width = table.get("rows"), table.get("dim"), _BYTES_BY_DTYPE_NAME.get(str(table.get("dtype")))
    size = {}
    if isinstance(rows, int) and isinstance(dim, int) and width is not None:
        size["bytes"] = rows * dim * width
    return {key: table.get(key) for key in ("table", "rows", "dim", "sharding", "kernel")} | size | {"ranks": ranks}


_BYTES_BY_DTYPE_NAME: Mapping[str, int] = {str(name): width for name, width in BYTES_PER_VALUE.items()}


def _parse(raw: Mapping[str, Any]) -> tuple[PlanFile | None, list[str]]:
    """Return the plan of a document, or None if it cannot be built, and every problem of the document."""
    if raw.get("version") != _VERSION_WITH_SHARDS:
        return parse_document(PlanFile, raw)
    try:
        shards = [tuple(Shard(**shard) for shard in table["shards"]) for table in raw["tables"]]
        ranks_per_host = raw["cluster"]["ranks_per_host"]
        tables = [
            {key: value for key, value in table.items() if key != "shards"}
            | placement_keys(table["sharding"], [shard.rank for shard in table_shards], ranks_per_host)
            for table, table_shards in zip(raw["tables"], shards, strict=True)
        ]
    except (LookupError, TypeError, ArithmeticError):
        return None, [f"tables: in version {_VERSION_WITH_SHARDS}, each has a sharding and a list of shards"]
    plan, problems = parse_document(PlanFile, {**raw, "version": PLAN_VERSION, "tables": tables})
    if plan is not None:
        problems += [
            f"table {table.table!r}, {table.sharding}: its shards are not those that TorchRec builds"
            for table, table_shards in zip(plan.tables, shards, strict=True)
            if table.shards(plan.cluster) != table_shards
        ]
    return plan, problems


def load_valid_plan(file: Location) -> PlanFile | None:
    """Return the plan in a file; None if the file is missing, damaged or of an unsupported version."""
    try:
        return load_plan(file)
    except UserError:
        return None


def load_plan(path: Location) -> PlanFile:
    """Return the plan in a file.

    Args:
        path: Path or address of the file, or of a run directory that holds one.

    Raises:
        UserError: The file cannot be read, is not JSON, or is of a version other than 2 and 3.
        ConfigError: The content has problems, which are all listed.
    """
    fix = "make it with `ple-rec plan --out`"
    file = path
    try:
        if path.is_dir():
            file = path / "plan.json"
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            str(file), error.strerror or short_message(error), "a plan is a readable JSON file", fix
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"not JSON ({error})", "a plan is a JSON file", fix) from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version not in (_VERSION_WITH_SHARDS, PLAN_VERSION):
        value = "no version" if version is None else f"version {short_value(version)}"
        rule = f"this ple_rec reads plans of versions {_VERSION_WITH_SHARDS} and {PLAN_VERSION}"
        raise UserError(str(file), value, rule, fix)
    plan, problems = _parse(raw)
    if plan is None or problems:
        raise ConfigError.from_problems(str(file), problems)
    return plan
