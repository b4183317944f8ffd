"""Shardings and kernels that a table may have: those that keep one optimizer and leave no rank out, or the user's."""

from __future__ import annotations

import pytest
import torch

from ple_rec.config.cluster import GIB, PRESETS, TopologyConfig
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.distributed.layouts import (
    SearchSpace,
    TableSharder,
    allowed_kernels,
    allowed_shardings,
    search_spaces,
    table_constraints,
)
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.topology import detect_cluster, torchrec_topology
from ple_rec.errors import UserError
from ple_rec.runtime.host import usable_memory_bytes
from tests.planning.samples import cluster

CPU = torch.device("cpu")


def test_a_gpu_may_use_rows_over_the_ranks_of_a_host_too() -> None:
    assert TableSharder(set()).sharding_types("cpu") == ["table_wise", "row_wise"]
    assert TableSharder(set()).sharding_types("cuda") == ["table_wise", "row_wise", "table_row_wise"]
    assert TableSharder({"column_wise", "row_wise"}).sharding_types("cpu") == ["table_wise", "row_wise", "column_wise"]


def test_a_row_wise_table_leaves_no_rank_without_a_row() -> None:
    three = cluster("cpu", 1, 3)
    both = ("table_wise", "row_wise")
    assert [allowed_shardings(EmbeddingsConfig(), "t", rows, three) for rows in (2, 3, 4, 5, 6)] == [
        ("table_wise",),
        both,
        ("table_wise",),  # 2 + 2 + 0
        both,
        both,
    ]
    row_wise = EmbeddingsConfig(sharding="row_wise")
    assert [allowed_shardings(row_wise, "t", rows, three) for rows in (3, 4)] == [("row_wise",), ("table_wise",)]
    forced = EmbeddingsConfig(tables={"t": TableConfig(sharding="row_wise")})
    assert allowed_shardings(forced, "t", 3, three) == ("row_wise",)
    with pytest.raises(UserError) as caught:
        allowed_shardings(forced, "t", 4, three)
    assert str(caught.value) == (
        "embeddings.tables.t.sharding: got row_wise for 4 row(s) on 3 ranks; shards of 2 row(s) leave the last rank "
        "without rows; FBGEMM's CPU kernels may crash on such a rank, and GPUs exchange data with it for nothing. Fix: "
        "remove the key, so that the planner chooses, or set table_wise"
    )


def test_rows_over_one_host_need_a_row_for_each_of_its_ranks_only() -> None:
    on = cluster("h100", 4, 2)
    assert allowed_shardings(EmbeddingsConfig(), "t", 4, on) == ("table_wise", "table_row_wise")
    assert allowed_shardings(EmbeddingsConfig(), "t", 1, on) == ("table_wise",)
    assert allowed_shardings(EmbeddingsConfig(), "t", 8, on) == ("table_wise", "row_wise", "table_row_wise")
    kept = EmbeddingsConfig(tables={"t": TableConfig(hosts=(1,))})
    assert allowed_shardings(kept, "t", 8, on) == ("table_wise", "table_row_wise")


def test_kernels_in_the_hosts_memory_come_when_asked_for_or_needed() -> None:
    on = cluster("h100", 1, 2)
    assert allowed_kernels(EmbeddingsConfig(), "t", on, uvm=False) == ("fused",)
    assert allowed_kernels(EmbeddingsConfig(), "t", on, uvm=True) == ("fused", "fused_uvm", "fused_uvm_caching")
    forced = EmbeddingsConfig(kernel="fused_uvm", tables={"a": TableConfig(kernel="fused")})
    assert allowed_kernels(forced, "t", on, uvm=True) == ("fused_uvm",)
    assert allowed_kernels(forced, "a", on, uvm=True) == ("fused",)
    assert allowed_kernels(EmbeddingsConfig(kernel="fused"), "t", cluster("cpu"), uvm=False) == ("fused",)
    with pytest.raises(UserError, match=r'embeddings\.kernel: got "fused_uvm" on CPU hosts'):
        allowed_kernels(forced, "t", cluster("cpu"), uvm=False)


@pytest.mark.parametrize(("dim", "ranks", "width"), [(16, 1, 16), (16, 2, 8), (16, 3, 8), (64, 64, 4), (12, 2, 12)])
def test_columns_are_cut_as_finely_as_there_are_ranks(dim: int, ranks: int, width: int) -> None:
    found = table_constraints(
        EmbeddingsConfig(),
        "t",
        100,
        dim,
        (1.0,),
        cluster("cpu", 1, ranks),
        SearchSpace(allows_row_wise=True, uvm=False),
    )
    assert found.min_partition == width


def test_the_cluster_of_ranks_has_what_its_host_has() -> None:
    here = detect_cluster(Ranks(0, 4, 2, CPU, 1))
    assert (here.hosts, here.ranks_per_host, here.cuda) == (2, 2, False)
    assert here.ddr_bytes == pytest.approx(usable_memory_bytes() / 2, abs=1)
    assert here.hardware.host_memory_gb_per_s == PRESETS["cpu"].host_memory_gb_per_s
    told = detect_cluster(Ranks(0, 4, 2, CPU, 1), TopologyConfig(host_memory_gib=8.0, reserve=0.5))
    assert told.ddr_bytes == 4 * GIB
    assert told.hardware.reserve == 0.5
    with pytest.raises(UserError, match=r'topology.device: got "h100", but the ranks run on cpu'):
        detect_cluster(Ranks(0, 4, 2, CPU, 1), TopologyConfig(device="h100"))


def test_torchrec_sees_the_share_of_the_bandwidths_that_is_reached_in_bytes_a_millisecond() -> None:
    on = cluster("h100", 2, 8, lookup_efficiency=0.5, exchange_efficiency=0.25)
    topology = torchrec_topology(on, 3 * GIB, 5 * GIB)
    assert (topology.world_size, topology.local_world_size) == (16, 8)
    assert {(d.storage.hbm, d.storage.ddr) for d in topology.devices} == {(3 * GIB, 5 * GIB)}
    assert topology.hbm_mem_bw == 3350e6 / 2
    assert topology.ddr_mem_bw == 600e6 / 8 / 2
    assert topology.intra_host_bw == 450e6 / 4
    assert topology.inter_host_bw == 50e6 / 4


def test_table_row_wise_is_a_default_only_where_it_differs_from_row_wise() -> None:
    free = EmbeddingsConfig()
    assert allowed_shardings(free, "t", 1000, cluster("h100", 1, 1)) == ("table_wise",)
    assert allowed_shardings(free, "t", 1000, cluster("h100", 1, 8)) == ("table_wise", "row_wise")
    assert allowed_shardings(free, "t", 1000, cluster("h100", 2, 1)) == ("table_wise", "row_wise", "table_row_wise")
    on_host = EmbeddingsConfig(tables={"t": TableConfig(hosts=(0,))})
    assert allowed_shardings(on_host, "t", 1000, cluster("h100", 1, 8)) == ("table_wise", "table_row_wise")
    asked = EmbeddingsConfig(sharding="table_row_wise")
    assert allowed_shardings(asked, "t", 1000, cluster("h100", 1, 1)) == ("table_row_wise",)


def test_past_64_ranks_tables_are_split_over_all_only_where_a_host_has_no_room() -> None:
    both = [SearchSpace(allows_row_wise=True, uvm=False), SearchSpace(allows_row_wise=True, uvm=True)]
    assert list(search_spaces(cluster("h100", 8, 8))) == both
    assert list(search_spaces(cluster("h100", 9, 8))) == [SearchSpace(allows_row_wise=False, uvm=False), *both]
    assert list(search_spaces(cluster("cpu", 128, 8))) == [SearchSpace(allows_row_wise=True, uvm=False)]
    on = cluster("h100", 9, 8)
    assert allowed_shardings(EmbeddingsConfig(), "t", 1000, on, allows_row_wise=False) == (
        "table_wise",
        "table_row_wise",
    )
    assert allowed_shardings(EmbeddingsConfig(sharding="row_wise"), "t", 1000, on, allows_row_wise=False) == (
        "row_wise",
    )
    with pytest.raises(UserError, match=r"embeddings\.tables\.t\.hosts: got row_wise with hosts = \[0\]"):
        allowed_shardings(EmbeddingsConfig(sharding="row_wise", tables={"t": TableConfig(hosts=(0,))}), "t", 1000, on)


def test_columns_are_cut_for_the_hosts_that_a_table_is_kept_on() -> None:
    kept = EmbeddingsConfig(sharding="column_wise", tables={"t": TableConfig(hosts=(1,))})
    found = table_constraints(
        kept, "t", 100, 16, (1.0,), cluster("cpu", 4, 2), SearchSpace(allows_row_wise=True, uvm=False)
    )
    assert found.min_partition == 8
