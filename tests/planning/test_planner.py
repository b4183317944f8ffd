"""Properties of every plan, constraints that are kept, and what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from ple_rec.config.cluster import GIB, Cluster, Device
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import Dtype, TableOptimizer
from ple_rec.config.run import EmbeddingsConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.distributed.planner import ModelSizes, is_hopeless, make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.errors import UserError
from ple_rec.models.embeddings import table_configs
from tests.planning.samples import cluster, module_of, plan_of, planned


def assert_sound(plan: PlanFile) -> None:
    """No rank is over its cap, and every value of every table is on one rank."""
    for memory in plan.memory:
        assert memory.hbm <= plan.allowed_hbm
        assert memory.host <= plan.allowed_host
    for table in plan.tables:
        shards = table.shards(plan.cluster)
        columns = sorted({(s.column, s.columns) for s in shards})
        assert [c for c, _ in columns] == [sum(w for _, w in columns[:i]) for i in range(len(columns))]
        assert sum(width for _, width in columns) == table.dim
        for first, width in columns:
            rows = sorted((s.row, s.rows) for s in shards if (s.column, s.columns) == (first, width))
            assert [r for r, _ in rows] == [sum(n for _, n in rows[:i]) for i in range(len(rows))]
            assert sum(count for _, count in rows) == table.rows
            assert all(count > 0 for _, count in rows)


STATE_BYTES = {"rowwise_adagrad": 0, "sgd": 0, "adagrad": 4, "adam": 8}  # of each value of a table


@example(
    sizes=[(38027829, 64), (38027833, 64), (76057764, 64)],
    dtype="fp16",
    optimizer="adagrad",
    device="a100-80",
    hosts=1,
    ranks=1,
    memory=16.0,
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 10**8), st.sampled_from([4, 16, 64])), min_size=1, max_size=4),
    dtype=st.sampled_from(["fp32", "fp16"]),
    optimizer=st.sampled_from(["rowwise_adagrad", "adagrad", "sgd", "adam"]),
    device=st.sampled_from(["a100-80", "cpu"]),
    hosts=st.integers(1, 3),
    ranks=st.integers(1, 3),
    memory=st.sampled_from([1.0, 16.0, 79.0]),
)
def test_every_plan_is_sound(
    sizes: list[tuple[int, int]],
    dtype: Dtype,
    optimizer: TableOptimizer,
    device: Device,
    hosts: int,
    ranks: int,
    memory: float,
) -> None:
    on = cluster(device, hosts, ranks, hbm_gib=memory if device != "cpu" else 0.0, host_memory_gib=4 * memory)
    rows = {f"t{i}": count for i, (count, _) in enumerate(sizes)}
    tables = {f"t{i}": {"dim": dim} for i, (_, dim) in enumerate(sizes)}
    embeddings = EmbeddingsConfig.model_validate({"dim": 4, "dtype": dtype, "tables": tables})
    optimizer = "sgd" if optimizer == "adam" and device == "cpu" else optimizer
    refused: DoesNotFitError | None = None
    try:
        plan = plan_of(rows, on, embeddings, optimizer)
    except DoesNotFitError as error:
        refused = error
    if refused is not None:
        assert refused.shortfall is not None
        there = on.world_size * (refused.shortfall.plan.allowed_hbm + refused.shortfall.plan.allowed_host)
        bytes_of_value = (4 if dtype == "fp32" else 2) + STATE_BYTES[optimizer]
        needed = sum(rows[name] * table["dim"] for name, table in tables.items()) * bytes_of_value
        assert refused.shortfall.is_single_table or needed > 0.4 * there  # pieces that are not divided
        return
    assert [table.table for table in plan.tables] == sorted(rows)
    assert_sound(plan)


@pytest.mark.parametrize("device", ["h100", "cpu"])
def test_the_paper_at_eight_hosts(device: Device) -> None:
    plan = planned(cluster(device, 8, 8))
    assert len(plan.tables) == 24
    assert_sound(plan)
    assert {table.kernel for table in plan.tables} == {"fused"}


def test_plans_of_two_calls_are_equal() -> None:
    assert planned(cluster("h100", 2, 4)) == planned(cluster("h100", 2, 4))


def test_one_rank_has_whole_tables() -> None:
    for device in ("h100", "cpu"):
        plan = planned(cluster(device, 1, 1))
        assert plan.sharding_types == ("table_wise",)


def test_a_second_sharding_type_has_to_be_worth_its_cost() -> None:
    """The large table is faster on all ranks; the small one has fewer rows than ranks and stays whole."""
    rows, embeddings = (
        {"large": 40_000_000, "small": 3},
        EmbeddingsConfig.model_validate({"dim": 128, "tables": {"large": {"ids_per_sample": 50.0}}}),
    )
    free = {"host_ms_per_sharding_type": 0.0, "intra_host_latency_us": 0.0}
    cheap = plan_of(rows, cluster("h100", 1, 4, **free), embeddings, batch=8192)
    assert cheap.sharding_types == ("row_wise", "table_wise")
    costly = plan_of(rows, cluster("h100", 1, 4, **free | {"host_ms_per_sharding_type": 100.0}), embeddings, batch=8192)
    assert costly.sharding_types == ("table_wise",)
    assert cheap.tables_ms < costly.tables_ms - 100 < cheap.tables_ms + 100
    for plan in (cheap, costly):
        assert_sound(plan)


def test_a_second_sharding_type_comes_where_one_has_no_room() -> None:
    rows = {"large": 60_000_000, "small": 3}  # 3.8 GB of 4 GiB less the reserve
    plan = plan_of(rows, cluster("h100", 1, 4, hbm_gib=4.0, host_ms_per_sharding_type=100.0))
    assert {table.table: table.sharding for table in plan.tables} == {"large": "row_wise", "small": "table_wise"}
    assert {table.kernel for table in plan.tables} == {"fused"}
    assert_sound(plan)


def test_a_sharding_that_the_user_asks_for_stays_beside_the_one_type() -> None:
    embeddings = EmbeddingsConfig.model_validate({"dim": 16, "tables": {"a": {"sharding": "row_wise"}}})
    plan = plan_of(dict.fromkeys("abc", 10_000), cluster("h100", 2, 2), embeddings)
    assert {table.table: table.sharding for table in plan.tables}["a"] == "row_wise"
    assert len(plan.sharding_types) == 1


def test_uvm_kernels_come_where_hbm_has_no_room() -> None:
    rows = {"large": 200_000_000, "small": 1000}  # 12.9 GB and its state
    tight = cluster("a100-80", 1, 2, hbm_gib=6.0)
    plan = plan_of(rows, tight)
    kernels = {table.table: table.kernel for table in plan.tables}
    assert kernels["large"] in ("fused_uvm", "fused_uvm_caching")
    assert_sound(plan)
    roomy = plan_of(rows, cluster("a100-80", 1, 2))
    assert {table.kernel for table in roomy.tables} == {"fused"}


def test_constraints_are_kept() -> None:
    tables = {
        "a": {"sharding": "table_wise", "hosts": (1,)},
        "b": {"sharding": "table_row_wise", "hosts": (2,)},
        "c": {"hosts": (0, 2)},
        "d": {"kernel": "fused_uvm_caching"},
    }
    embeddings = EmbeddingsConfig.model_validate({"dim": 16, "tables": tables, "cache_load_factor": 0.05})
    on = cluster("h100", 3, 2)
    plan = plan_of(dict.fromkeys("abcde", 10_000), on, embeddings)
    found = {table.table: table for table in plan.tables}
    ranks = {name: plan.ranks_of(table) for name, table in found.items()}
    assert on.hosts_of_ranks(ranks["a"]) == (1,)
    assert ranks["b"] == (4, 5)
    assert set(on.hosts_of_ranks(ranks["c"])) <= {0, 2}
    assert (found["d"].kernel, found["d"].cache_load_factor) == ("fused_uvm_caching", 0.05)
    assert found["e"].kernel == "fused"
    assert found["e"].cache_load_factor is None
    assert_sound(plan)


def test_many_tables_are_kept_on_one_host() -> None:
    tables = {f"t{i}": {"hosts": (1,)} for i in range(6)}
    embeddings = EmbeddingsConfig.model_validate({"dim": 16, "tables": tables, "sharding": "table_wise"})
    plan = plan_of({f"t{i}": 1000 + i for i in range(9)}, cluster("h100", 2, 2), embeddings)
    ranks = {table.table: plan.ranks_of(table)[0] for table in plan.tables}
    assert sorted(ranks[table] for table in tables) == [2, 2, 2, 3, 3, 3]
    assert set(ranks.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("tables", "on", "message"),
    [
        (
            {"a": {"hosts": (0, 2)}},
            cluster("h100", 2, 1),
            "embeddings.tables.a.hosts: names host 2; the hosts of 2 hosts x 1 h100 are 0 to 1. Fix: list hosts of the "
            "cluster, or remove the key",
        ),
        (
            {"a": {"hosts": (0,), "sharding": "row_wise"}},
            cluster("h100", 2, 1),
            "embeddings.tables.a.sharding: got row_wise with hosts = [0]; a row-wise table has a shard on every rank "
            "of every host. Fix: remove embeddings.tables.a.hosts, or set table_row_wise or table_wise for it",
        ),
        (
            {"a": {"kernel": "fused_uvm"}},
            cluster("cpu", 1, 2),
            'embeddings.tables.a.kernel: got "fused_uvm" on CPU hosts; UVM kernels let a GPU read host memory; on CPU '
            'hosts, all tables lie in host memory. Fix: remove the key, or set it to "fused"',
        ),
    ],
)
def test_what_cannot_be_is_refused(tables: dict[str, object], on: Cluster, message: str) -> None:
    embeddings = EmbeddingsConfig.model_validate({"dim": 16, "tables": tables})
    with pytest.raises(UserError) as caught:
        plan_of({"a": 1000}, on, embeddings)
    assert str(caught.value) == message


def test_a_table_that_does_not_fit_is_named_with_its_limit() -> None:
    embeddings = EmbeddingsConfig(dim=64, sharding="table_wise", kernel="fused")
    with pytest.raises(DoesNotFitError) as caught:
        plan_of({"user": 46_926_000, "video": 10}, cluster("a100-80", 1, 2, hbm_gib=10.0), embeddings)
    shortfall = caught.value.shortfall
    assert shortfall is not None
    assert (shortfall.is_certain, shortfall.table, shortfall.is_single_table, shortfall.memory) == (
        True,
        "user",
        True,
        "HBM",
    )
    assert shortfall.needed == 46_926_000 * (64 * 4 + 4) + 256 * 2 * (8 + 64 * 4)
    assert shortfall.allowed == int(10 * GIB) - int(0.15 * 10 * GIB)
    assert str(caught.value).startswith(
        "embeddings.dim: table user takes 11.36 GiB of HBM on each rank, of 8.50 GiB allowed: 2.86 GiB too much "
        "(table_wise, fused, its smallest layout); weights, optimizer state and batch of a rank's shards must fit its "
        "10.00 GiB of HBM less 1.50 GiB in reserve and 0.0 MiB for the dense layers (1 host x 2 a100-80). Fix: "
    )


def test_a_rank_needs_room_for_the_largest_share_of_a_row_wise_table() -> None:
    embeddings = EmbeddingsConfig(dim=16, sharding="row_wise", kernel="fused")
    with pytest.raises(DoesNotFitError) as caught:
        plan_of({"user": 46_926_001}, cluster("a100-80", 1, 3, hbm_gib=1.0), embeddings)
    assert caught.value.shortfall is not None
    assert caught.value.shortfall.needed == 15_642_001 * (16 * 4 + 4) + 256 * (8 + 3 * 16 * 4)


@pytest.mark.parametrize("device", ["a100-80", "cpu"])
def test_dense_layers_take_their_memory_from_the_tables(device: Device) -> None:
    memory = "hbm_gib" if device != "cpu" else "host_memory_gib"
    on = cluster(device, 1, 1, **{memory: 4.0})
    embeddings = EmbeddingsConfig(dim=16, kernel="fused")
    tables = module_of({"user": 46_926_000}, embeddings, "sgd", on)  # 2.8 GiB of the 3.4 that are no reserve
    dense = nn.Linear(8192, 8192, bias=False, device="meta")  # 1.25 GiB with gradients and Adam
    request = PlanningInputs(embeddings, "sgd", on, 256, {})
    assert_sound(make_plan(tables, request))
    with pytest.raises(DoesNotFitError) as caught:
        make_plan(nn.ModuleDict({"tables": tables, "dense": dense}), request)
    assert caught.value.shortfall is not None
    assert caught.value.shortfall.allowed == 4 * GIB - int(0.15 * 4 * GIB) - 20 * 8192 * 8192
    rows = {f"t{i}": 30_000_000 for i in range(5)}  # 1.9 GiB each, 9.4 in all
    on = cluster("cpu", 1, 2, host_memory_gib=8.0)
    with pytest.raises(DoesNotFitError) as caught:
        plan_of(rows, on)
    shortfall = caught.value.shortfall
    assert shortfall is not None
    assert (shortfall.is_certain, shortfall.is_single_table, shortfall.memory) == (True, False, "host memory")
    assert "all tables take 4.7" in str(caught.value)
    embeddings = EmbeddingsConfig(dim=16)
    features = [SparseFeature(name=name, table=name) for name in rows]
    sizes = ModelSizes(table_configs(embeddings, features, rows), 0)
    assert is_hopeless(sizes, PlanningInputs(embeddings, "rowwise_adagrad", on, 256, {}))
    more = cluster("cpu", 2, 2, host_memory_gib=8.0)
    assert not is_hopeless(sizes, PlanningInputs(embeddings, "rowwise_adagrad", more, 256, {}))
    assert_sound(plan_of(rows, more))


def test_tables_that_no_assignment_places() -> None:
    embeddings = EmbeddingsConfig(dim=16, sharding="table_wise")
    with pytest.raises(DoesNotFitError) as caught:  # three of 1.9 GiB on two ranks of 2.1
        plan_of({f"t{i}": 30_000_000 for i in range(3)}, cluster("cpu", 1, 2, host_memory_gib=7.4), embeddings)
    shortfall = caught.value.shortfall
    assert shortfall is not None
    assert not shortfall.is_certain
    assert "no assignment of their shards was found" in str(caught.value)
