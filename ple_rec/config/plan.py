"""`plan.json`: where each row of each table lies, and what that takes. A table is one line of the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Literal, get_args

from pydantic import Field, model_validator

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_table import (
    WIDTH,
    AnyTablePlan,
    Costs,
    Memory,
    Shard,
    TableOptimizer,
    TablePlan,
    shard_memory,
    where_of,
)
from ple_rec.config.problems import ConfigError, check
from ple_rec.config.words import shortened
from ple_rec.errors import UserError
from ple_rec.storage import Location, short

PLAN_VERSION: Final = 3
_MOST_RANKS = 1 << 16
FEWEST_SAMPLES = 64  # Of a rank. With fewer, most of a step is latency, which no estimate counts.

Part = Literal["lookup", "communication", "dense", "gradients", "loader"]
PARTS: tuple[Part, ...] = get_args(Part)  # of a step
BUSY = PARTS[:-1]  # one after the other; the loader is beside them


class Estimate(Config):
    """What a step takes, and what follows; formulas in docs/planning.md. Milliseconds."""

    lookup_ms: NonNegativeFloat = Field(description="look-up, update and prefetch of the rows, busiest rank")
    communication_ms: NonNegativeFloat = Field(description="ids, pooled rows and gradients, busiest rank")
    dense_ms: NonNegativeFloat = Field(description="forward and backward of the dense layers")
    gradients_ms: NonNegativeFloat = Field(description="all-reduce of the dense gradients beyond their backward")
    loader_ms: NonNegativeFloat = Field(description="reading a batch, which overlaps with all else")
    step_ms: NonNegativeFloat
    bound: Part = Field(description="the largest part")
    samples_per_second: PositiveFloat
    epoch_samples: PositiveInt
    epoch_seconds: PositiveFloat

    def part_ms(self, name: str) -> float:
        """Return the milliseconds of a part, or of `step`."""
        return float(getattr(self, f"{name}_ms"))


class Reserved(Config):
    """Bytes of a rank that tables do not get."""

    hbm_bytes: NonNegativeInt = Field(description="the reserve of the topology")
    host_bytes: NonNegativeInt = Field(description="the same of the host's memory")
    dense_bytes: NonNegativeInt = Field(description="dense parameters, gradients, optimizer and their buckets")


class Plan(Config):
    """Every table of a run on every rank of a cluster."""

    version: Literal[3]
    cluster: Cluster
    batch_size_per_rank: PositiveInt
    optimizer: TableOptimizer
    reserved: Reserved
    rows_of: str = Field("", description="where the rows of the tables stand: a dataset directory, or a schema")
    tables: tuple[AnyTablePlan, ...]
    estimate: Estimate | None = None

    @model_validator(mode="after")
    def _can_be_built(self) -> Plan:
        cluster, names = self.cluster, [table.table for table in self.tables]
        if cluster.world_size > _MOST_RANKS:
            raise ValueError(f"cluster: {cluster.world_size:,} ranks; a plan has at most {_MOST_RANKS:,}")
        problems = [f"table {name!r} stands there twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for table in self.tables:
            problems += table.problems(cluster)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """Bytes of every rank."""
        found = [Memory()] * self.cluster.world_size
        for table in self.tables:
            for shard in table.shards(self.cluster):
                found[shard.rank] = found[shard.rank].plus(self.of_shard(table, shard))
        return tuple(found)

    def ranks_of(self, table: TablePlan) -> tuple[int, ...]:
        """Return the rank of each shard of a table, in their order."""
        return tuple(shard.rank for shard in table.shards(self.cluster))

    def of_shard(self, table: TablePlan, shard: Shard) -> Memory:
        """Return the bytes of one shard."""
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
        )

    def of_table(self, table: TablePlan) -> Memory:
        """Return the bytes of all shards of a table."""
        total = Memory()
        for shard in table.shards(self.cluster):
            total = total.plus(self.of_shard(table, shard))
        return total

    @cached_property
    def costs(self) -> tuple[Costs, ...]:
        """Milliseconds of every rank: the sums over its shards."""
        sums = [dict.fromkeys(Costs.model_fields, 0.0) for _ in range(self.cluster.world_size)]
        for table in self.tables:
            for shard in table.shards(self.cluster):
                for name, value in table.costs_ms if shard.rows else ():
                    sums[shard.rank][name] += value
        return tuple(Costs.model_validate(each) for each in sums)

    @property
    def rate(self) -> float | None:
        """Estimated samples a second of all ranks; None if a rank has too few samples for a rate."""
        too_few = self.batch_size_per_rank < FEWEST_SAMPLES
        return None if too_few or self.estimate is None else self.estimate.samples_per_second

    @property
    def allowed_hbm(self) -> int:
        """HBM of a rank that tables and their batches may take; 0 on a CPU."""
        return (
            max(0, self.cluster.hbm_bytes - self.reserved.hbm_bytes - self.reserved.dense_bytes)
            if self.cluster.cuda
            else 0
        )

    @property
    def allowed_host(self) -> int:
        """The same of its part of the host's memory."""
        dense = 0 if self.cluster.cuda else self.reserved.dense_bytes
        return max(0, self.cluster.ddr_bytes - self.reserved.host_bytes - dense)


def reserved_of(cluster: Cluster, dense_bytes: int) -> Reserved:
    """Return what tables do not get on a rank of this cluster."""
    share = cluster.hardware.reserve
    return Reserved(
        hbm_bytes=int(share * cluster.hbm_bytes), host_bytes=int(share * cluster.ddr_bytes), dense_bytes=dense_bytes
    )


def column_wise_remarks(plan: Plan) -> list[str]:
    """Return the remark on tables that are cut by columns while their optimizer has a state for each row."""
    cut = [table.table for table in plan.tables if table.sharding == "column_wise"]
    if not cut or plan.optimizer != "rowwise_adagrad":
        return []
    some = ", ".join(cut[:4]) + (f" and {len(cut) - 4} more" if len(cut) > 4 else "")
    return [
        f"column_wise with rowwise_adagrad is another optimizer: every shard of {some} keeps its own state of a "
        "row, and checkpoints fit the same cut only"
    ]


_LISTED_SHARDS = 2  # version whose tables list their shards


def dump_plan(plan: Plan) -> str:
    """Return the text of a plan."""
    content = plan.model_dump(mode="json", exclude={"tables"}, exclude_none=True)
    lines = [f'  "{key}": {_flat(value)}' for key, value in content.items()]
    tables = ",\n".join(f"    {json.dumps(table.model_dump(exclude_none=True))}" for table in plan.tables)
    lines.append(f'  "tables": [\n{tables}\n  ]' if plan.tables else '  "tables": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _flat(value: Any) -> str:
    """Return the text of a value of the plan's head: a table with a line a key."""
    text = json.dumps(value, indent=2)
    return text.replace("\n", "\n  ")


def placements(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `world_size` and `tables` of a run's `plan.json`, of any version, damaged or not.

    A table has `table`, `rows`, `dim`, `bytes`, `sharding`, `kernel` and `ranks` as far as the file tells.
    """
    cluster, tables = raw.get("cluster"), raw.get("tables")
    if not isinstance(cluster, dict):
        return dict(raw)
    hosts, ranks_per_host = cluster.get("hosts"), cluster.get("ranks_per_host")
    world = hosts * ranks_per_host if isinstance(hosts, int) and isinstance(ranks_per_host, int) else None
    listed = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return {"world_size": world, "tables": [_placement(table, raw) for table in listed]}


def _placement(table: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    plan, _ = _parsed({**raw, "tables": [table], "estimate": None})  # alone, for another may be damaged
    ranks = [] if plan is None else list(plan.ranks_of(plan.tables[0]))
    rows, dim, width = table.get("rows"), table.get("dim"), _WIDTHS.get(str(table.get("dtype")))
    taken = {}
    if isinstance(rows, int) and isinstance(dim, int) and width is not None:
        taken["bytes"] = rows * dim * width
    return {key: table.get(key) for key in ("table", "rows", "dim", "sharding", "kernel")} | taken | {"ranks": ranks}


_WIDTHS: Mapping[str, int] = {str(name): width for name, width in WIDTH.items()}


def _parsed(raw: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
    """Return the plan that a document makes, as far as it makes one, and every problem of the document."""
    if raw.get("version") != _LISTED_SHARDS:
        return check(Plan, raw)
    try:
        shards = [tuple(Shard(**shard) for shard in table["shards"]) for table in raw["tables"]]
        ranks_per_host = raw["cluster"]["ranks_per_host"]
        tables = [
            {key: value for key, value in table.items() if key != "shards"}
            | where_of(table["sharding"], [shard.rank for shard in own], ranks_per_host)
            for table, own in zip(raw["tables"], shards, strict=True)
        ]
    except (LookupError, TypeError, ArithmeticError):
        return None, [f"tables: in version {_LISTED_SHARDS}, each has a sharding and a list of shards"]
    plan, problems = check(Plan, {**raw, "version": PLAN_VERSION, "tables": tables})
    if plan is not None:
        problems += [
            f"table {table.table!r}, {table.sharding}: its shards are not as TorchRec builds them"
            for table, own in zip(plan.tables, shards, strict=True)
            if table.shards(plan.cluster) != own
        ]
    return plan, problems


def own_plan(file: Location) -> Plan | None:
    """Return the plan of a run directory; None where there is none, or one that is damaged or of version 1."""
    try:
        return load_plan(file)
    except UserError:
        return None


def load_plan(path: Location) -> Plan:
    """Read a plan: a file, or that of a run directory; an address of a store is either, too.

    Raises:
        UserError: the file cannot be read, is not JSON, or is of another version.
        ConfigError: every problem of its content, together.
    """
    again = "make it with `ple-rec plan --out`"
    file = path
    try:
        if path.is_dir():
            file = path / "plan.json"
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(str(file), error.strerror or short(error), "a plan is a readable JSON file", again) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"not JSON ({error})", "a plan is a JSON file", again) from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version not in (_LISTED_SHARDS, PLAN_VERSION):
        value = "no version" if version is None else f"version {shortened(version)}"
        rule = f"this ple_rec reads plans of versions {_LISTED_SHARDS} and {PLAN_VERSION}"
        raise UserError(str(file), value, rule, again)
    plan, problems = _parsed(raw)
    if plan is None or problems:
        raise ConfigError.of(str(file), problems)
    return plan
