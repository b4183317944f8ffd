"""Plans of tables whose rows are returned one by one: layouts, bytes by hand, times, files, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import PlanFile, dump_plan
from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.layouts import UnpooledTableSharder, allowed_shardings
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.plan_check import SavedPlan, fitting_plan
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.errors import UserError
from ple_rec.models.embeddings import embedding_collection
from tests.planning.samples import cluster

DIM, BATCH, LENGTH = 16, 256, 50
META = torch.device("meta")


def _module(rows: dict[str, int], on: Cluster, optimizer: TableOptimizer, *, unpooled: bool = True) -> nn.Module:
    """Tables that a target and a history read, pooled or not, and a pooled table of one feature."""
    device = torch.device("cuda" if on.cuda else "cpu")
    features = [SparseFeature(name="user", table="user")]
    pooled = {"user": 1000}
    sequences = [
        EmbeddingConfig(name=name, num_embeddings=count, embedding_dim=DIM, feature_names=[name, f"h_{name}"])
        for name, count in rows.items()
    ]
    modules: dict[str, nn.Module] = {}
    if unpooled:
        modules["sequences"] = EmbeddingCollection(tables=sequences, device=META)
    else:
        features += [SparseFeature(name=name, table=t.name) for t in sequences for name in t.feature_names]
        pooled |= rows
    collection = embedding_collection(EmbeddingsConfig(dim=DIM), features, pooled, META)
    assert collection is not None
    module = nn.ModuleDict({"embeddings": collection} | modules)
    attach_table_optimizer(module, TableOptimizerConfig(kind=optimizer), device)
    return module


def _inputs(on: Cluster, changes: dict[str, Any], optimizer: TableOptimizer, lengths: float = LENGTH) -> PlanningInputs:
    config = EmbeddingsConfig.model_validate_json(json.dumps({"dim": DIM} | changes))
    ids = {"h_item": lengths, "h_tab": lengths}
    return PlanningInputs(config, optimizer, on, BATCH, ids)


def _plan(
    rows: dict[str, int],
    on: Cluster,
    changes: dict[str, Any] | None = None,
    optimizer: TableOptimizer = "rowwise_adagrad",
    *,
    lengths: float = LENGTH,
    unpooled: bool = True,
) -> PlanFile:
    module = _module(rows, on, optimizer, unpooled=unpooled)
    return make_plan(module, _inputs(on, changes or {}, optimizer, lengths))


# A table of 1,000 rows x 16 that a target (1 id) and a history (50 ids) read, 256 samples a rank, on two ranks. fp32
# weights are 64,000 bytes; a sample has 51 ids (8 bytes each), and as many returned rows (4 bytes a value).
IDS, RETURNED = 256 * 51 * 8, 256 * 51 * 16 * 4
BY_HAND: dict[str, tuple[TableOptimizer, list[int]]] = {
    "table_wise": ("rowwise_adagrad", [64_000 + 4_000 + 2 * IDS + 2 * RETURNED, 0]),  # the ids of two ranks
    "row_wise": ("adagrad", [32_000 + 32_000 + IDS + RETURNED] * 2),
    "column_wise": ("sgd", [32_000 + 2 * IDS + RETURNED] * 2),  # half the columns of the rows of two ranks
}


@pytest.mark.parametrize("sharding", BY_HAND)
def test_bytes_are_those_by_hand(sharding: str) -> None:
    optimizer, expected = BY_HAND[sharding]
    plan = _plan({"item": 1000}, cluster("h100", 1, 2), {"sharding": sharding}, optimizer)
    (table,) = (table for table in plan.tables if table.unpooled)
    assert (table.table, table.sharding, table.ids_per_sample) == ("item", sharding, (1.0, 50.0))
    found = [0, 0]
    for shard in table.shards(plan.cluster):
        found[shard.rank] += plan.memory_of_shard(table, shard).hbm
    assert sorted(found) == sorted(expected)


def test_rows_over_one_host_are_not_for_single_rows() -> None:
    assert UnpooledTableSharder({"table_row_wise"}).sharding_types("cuda") == ["table_wise", "row_wise"]
    assert UnpooledTableSharder({"column_wise"}).sharding_types("cpu") == ["table_wise", "row_wise", "column_wise"]
    on = cluster("h100", 2, 2)
    assert allowed_shardings(EmbeddingsConfig(), "t", 100, on, unpooled=True) == ("table_wise", "row_wise")
    asked = EmbeddingsConfig(sharding="table_row_wise")
    assert allowed_shardings(asked, "t", 100, on, unpooled=True) == ("table_wise",)
    plan = _plan({"item": 1000, "tab": 8}, on, {"sharding": "table_row_wise"})
    assert {table.table: table.sharding for table in plan.tables} == {
        "user": "table_row_wise",
        "item": "table_wise",
        "tab": "table_wise",
    }
    with pytest.raises(UserError) as caught:
        _plan({"item": 1000}, on, {"tables": {"item": {"sharding": "table_row_wise"}}})
    assert str(caught.value) == (
        'embeddings.tables.item.sharding: got table_row_wise with model.history = "din"; attention needs the row of '
        "each event, and TorchRec has no table_row_wise sharding that returns single rows. Fix: remove the key, or set "
        "row_wise, table_wise or column_wise"
    )


def test_columns_of_unpooled_tables_have_one_width_whatever_their_hosts_are() -> None:
    on = cluster("h100", 2, 1)
    changes = {"sharding": "column_wise", "tables": {"item": {"hosts": [1]}}}
    plan = _plan({"item": 1000, "tab": 8}, on, changes)
    shards = {table.table: [(s.rank, s.columns) for s in table.shards(on)] for table in plan.tables if table.unpooled}
    assert shards["item"] == [(1, 8), (1, 8)]
    assert [columns for _, columns in shards["tab"]] == [8, 8]
    cut = [table.model_dump() for table in plan.tables]
    for table in cut:
        if table["table"] == "tab":
            table["ranks"] = (0,)
    with pytest.raises(ValidationError, match="'item', 'tab', unpooled and column_wise, have different numbers"):
        PlanFile.model_validate(plan.model_dump() | {"tables": tuple(cut)})


def test_single_rows_of_a_long_history_cost_more_than_its_sum() -> None:
    on = cluster("h100", 1, 4)
    short, long = (_plan({"item": 100_000}, on, lengths=length) for length in (5, 50))
    pooled = _plan({"item": 100_000}, on, lengths=50, unpooled=False)

    def exchange(plan: PlanFile) -> float:
        return sum(t.costs_ms.output + t.costs_ms.gradient for t in plan.tables if t.table == "item")

    for plan in (short, long, pooled):  # as many bytes for a rank that holds its share
        assert {table.sharding for table in plan.tables} <= {"table_wise", "row_wise"}
    assert exchange(long) > 5 * exchange(short)
    assert exchange(long) > 5 * exchange(pooled)


def test_unpooled_tables_have_collectives_of_their_own() -> None:
    on = cluster("h100", 1, 2)
    plan = _plan({"item": 1000}, on, {"sharding": "row_wise"})
    assert plan.sharding_types == ("row_wise", "row_wise")
    assert plan.collectives == 10
    assert _plan({"item": 1000}, on, {"sharding": "row_wise"}, unpooled=False).collectives == 5


def test_a_plan_of_pooled_tables_is_not_used_for_unpooled_ones_nor_the_reverse() -> None:
    on, changes = cluster("h100", 1, 2), {"sharding": "row_wise"}
    plans = {unpooled: _plan({"item": 1000}, on, changes, unpooled=unpooled) for unpooled in (False, True)}
    assert '"unpooled": true' in dump_plan(plans[True])
    assert "unpooled" not in dump_plan(plans[False])
    assert PlanFile.model_validate_json(dump_plan(plans[True])) == plans[True]
    for unpooled, plan in plans.items():
        saved = SavedPlan(plan, "plan.json", strict=True)
        inputs = _inputs(on, changes, "rowwise_adagrad")
        assert fitting_plan(saved, _module({"item": 1000}, on, "rowwise_adagrad", unpooled=unpooled), inputs) == plan
        was, now = ("unpooled", "pooled") if unpooled else ("pooled", "unpooled")
        message = rf"plan\.json: table item was {was}, is {now} \(model\.history\); a plan can be used only"
        with pytest.raises(UserError, match=message):
            fitting_plan(saved, _module({"item": 1000}, on, "rowwise_adagrad", unpooled=not unpooled), inputs)
    table = next(table for table in plans[True].tables if table.unpooled)
    forged = table.model_dump() | {"sharding": "table_row_wise", "host": 0}
    with pytest.raises(ValidationError, match="unpooled and table_row_wise; TorchRec cannot shard it so"):
        PlanFile.model_validate(plans[True].model_dump() | {"tables": (forged,)})


def test_tables_that_are_too_large_are_refused_with_the_bytes_of_single_rows() -> None:
    on = cluster("h100", 1, 2, hbm_gib=1.0)
    with pytest.raises(UserError, match=r"table item takes .* of HBM on each rank"):
        _plan({"item": 1000}, on, {"kernel": "fused"}, lengths=10**6)
