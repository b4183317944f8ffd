"""Where every table goes: TorchRec's planner, what it may choose from, and the wrapped model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from ple_rec.config.run import EmbeddingsConfig
from ple_rec.errors import UserError
from ple_rec.parallel.agree import on_main
from ple_rec.parallel.host import usable_memory_bytes
from ple_rec.parallel.process_group import Ranks
from ple_rec.parallel.table_init import initial_bound, uniform_rows_


class TableSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder with the layouts that keep one optimizer: table-wise, row-wise, table-row-wise.

    Row-wise works on CPU though the stock sharder does not offer it there. Data-parallel is left out: it moves small
    tables into the dense optimizer, so that mathematics and checkpoint keys would depend on the plan. Column-wise is
    left out unless asked for: with row-wise Adagrad each column shard keeps its own state, which is another optimizer.
    """

    def __init__(self, asked_for: set[str]) -> None:
        super().__init__()
        self.asked_for = asked_for

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Sharding types that the planner may choose from."""
        types = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        if compute_device_type == "cuda":
            types.append(ShardingType.TABLE_ROW_WISE.value)
        return types + sorted(self.asked_for - set(types))


def _allowed(config: EmbeddingsConfig, table: str, rows: int, ranks: Ranks) -> list[str]:
    """Sharding types that the planner may choose from for one table: the forced one, or the usual ones.

    On a CPU a row-wise table whose last rank gets no row is left out: FBGEMM 1.8 may read past its tables there, and
    then ends the backward with "more than 2B rows".
    """
    usual = TableSharder(set()).sharding_types(ranks.device.type)
    own = config.tables.get(table)
    forced: str | None = own.sharding if own is not None else None
    wanted: list[str] = [forced] if forced else [config.sharding] if config.sharding else usual
    row_wise = ShardingType.ROW_WISE.value
    per_rank = -(-rows // ranks.world_size)
    if ranks.device.type != "cpu" or row_wise not in wanted or per_rank * (ranks.world_size - 1) < rows:
        return wanted
    if forced:
        raise UserError(
            f"embeddings.tables.{table}.sharding",
            f"got row_wise for {rows} row(s) on {ranks.world_size} ranks",
            f"shards of {per_rank} row(s) leave the last rank without one, which FBGEMM's CPU kernels do not survive",
            "leave the choice to the planner, or set table_wise",
        )
    return [sharding for sharding in wanted if sharding != row_wise] or [ShardingType.TABLE_WISE.value]


def plan_tables(
    module: nn.Module, config: EmbeddingsConfig, ranks: Ranks, batch_size_per_rank: int
) -> tuple[ShardingPlan, TableSharder]:
    """Decide a sharding, kernel and ranks for every table of `module`; rank 0 decides and tells the others.

    Args:
        module: Holds the collection, on the meta device, with the optimizer attached to its parameters.
        config: `sharding` per table or for all, where the user forces it.
        ranks: The cluster.
        batch_size_per_rank: B, for the cost model.

    Raises:
        UserError: no plan fits; a PeerError on the other ranks.
    """
    tables = [c for m in collections(module).values() for c in m.embedding_bag_configs()]
    allowed = {table.name: _allowed(config, table.name, table.num_embeddings, ranks) for table in tables}
    sharder = TableSharder({sharding for types in allowed.values() for sharding in types})
    # A layout that one table asks for is the sharder's, so every other table is told to keep to its own.
    constraints = {table: ParameterConstraints(sharding_types=types) for table, types in allowed.items()}
    planner = EmbeddingShardingPlanner(
        topology=_topology(ranks), batch_size=batch_size_per_rank, constraints=constraints, debug=False
    )

    def decide() -> ShardingPlan:
        try:
            return planner.plan(module, [sharder])
        except PlannerError as error:
            raise UserError(
                "embeddings",
                f"no sharding of {len(tables)} tables fits {ranks.world_size} rank(s): {' '.join(str(error).split())}",
                "weights, optimizer state and activations of every shard must fit its rank's memory",
                "use more ranks, a smaller embeddings.dim or batch, or relax embeddings.sharding",
            ) from error

    decided = [on_main(decide)]
    dist.broadcast_object_list(decided, src=0)
    assert decided[0] is not None
    return decided[0], sharder


def _topology(ranks: Ranks) -> Topology:
    cuda = ranks.device.type == "cuda"
    return TopologyFactory.create_topology(
        trainer_config=TrainerConfig(
            world_size=ranks.world_size,
            local_world_size=ranks.local_world_size,
            hbm_cap_bytes=torch.cuda.get_device_properties(ranks.device).total_memory if cuda else None,
            ddr_cap_bytes=usable_memory_bytes() // ranks.local_world_size,
        ),
        kernel_config=KernelConfig(compute_device=ranks.device.type),
    )


def collections(module: nn.Module) -> dict[str, EmbeddingBagCollection]:
    """The unsharded embedding collections in `module`, by dotted name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, EmbeddingBagCollection)}


def shard(
    module: nn.Module, config: EmbeddingsConfig, ranks: Ranks, batch_size_per_rank: int, seed: int
) -> DistributedModelParallel:
    """`module` with its tables sharded by a plan and the rest data-parallel; tables initialised from the seed.

    Raises:
        UserError: no plan fits.
    """
    rows = {c.name: c.num_embeddings for m in collections(module).values() for c in m.embedding_bag_configs()}
    plan, sharder = plan_tables(module, config, ranks, batch_size_per_rank)
    model = DistributedModelParallel(
        module,
        device=ranks.device,
        plan=plan,
        sharders=[sharder],
        # Not static: a rank whose batches hold no sample of a task still runs the same graph, and evaluation runs none.
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    initialise_tables(model, rows, config.init_scale, seed)
    return model


def local_shards(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int, int]]:
    """(table, local storage, first row, first column, dim) of every table shard that this rank holds."""
    for key, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for piece in value.local_shards():
                row, column = piece.metadata.shard_offsets
                yield key.split(".")[-2], piece.tensor, row, column, value.size(1)


def initialise_tables(model: nn.Module, rows: Mapping[str, int], scale: float, seed: int) -> None:
    """Fill every table with U(-scale/sqrt(rows), scale/sqrt(rows)), the same values at every world size and plan."""
    with torch.no_grad():
        for table, shard_RD, row, column, dim in local_shards(model):
            bound = initial_bound(rows[table], scale)
            uniform_rows_(shard_RD, bound, seed=seed, table=table, first_row=row, first_column=column, dim=dim)


def describe_plan(model: DistributedModelParallel, configs: Mapping[str, tuple[int, int, int]]) -> list[dict[str, Any]]:
    """`plan.json`'s tables: where each one went.

    Args:
        model: The sharded model.
        configs: (rows, dim, bytes per value) by table.
    """
    tables = []
    for module_plan in model.plan.plan.values():
        for table, parameter in module_plan.items():
            rows, dim, width = configs[table]
            tables.append(
                {
                    "table": table,
                    "rows": rows,
                    "dim": dim,
                    "bytes": rows * dim * width,
                    "sharding": parameter.sharding_type,
                    "kernel": parameter.compute_kernel,
                    "ranks": list(parameter.ranks or []),
                }
            )
    return sorted(tables, key=lambda entry: str(entry["table"]))
