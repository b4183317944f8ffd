"""Ways out of a plan that does not fit, the smallest cluster, estimates and comparisons."""

from __future__ import annotations

from typing import Any

import pytest

from ple_rec.config.choices import DEVICES
from ple_rec.config.cluster import PRESETS, Cluster
from ple_rec.config.load import load_config
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.distributed.capacity import DoesNotFitError
from ple_rec.models.build import build_model
from ple_rec.planning.compare import format_comparison
from ple_rec.planning.estimate import DenseWork, dense_ms
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.planning.smallest import min_hosts, plan_fewest_hosts
from ple_rec.planning.suggestions import describe_suggestions, suggestions
from ple_rec.planning.text import imbalance
from tests.messages import logged
from tests.planning.samples import RECIPE, cluster, plan_of, planned
from tests.planning.test_planner import assert_sound


def _run(*overrides: str) -> RunConfig:
    return load_config(RunConfig, RECIPE, overrides)


def _ways(on: Cluster, *overrides: str) -> list[str]:
    config = _run(*overrides)
    described = describe_dataset(config)
    found = suggestions(config, described, on, lambda text: None)
    for way in found:
        assert_sound(way.plan)
        assert way.describe() in describe_suggestions(found)
    return [way.change for way in found]


def test_ways_out_are_tried_and_the_cheapest_come_first() -> None:
    forced = ("embeddings.dim=512", "embeddings.tables.user_id.kernel=fused", "embeddings.tables.user_id.hosts=[0]")
    on = cluster("a100-80", 1, 2, hbm_gib=20.0)
    assert _ways(on, *forced) == [
        "--set embeddings.tables.user_id.kernel= --set embeddings.tables.user_id.hosts=",
        "--set embeddings.tables.user_id.kernel= --set embeddings.tables.user_id.hosts= "
        "--set embeddings.kernel=fused_uvm_caching",
        "--set embeddings.dim=128",
    ]


def test_a_way_out_is_as_small_as_is_enough() -> None:
    on = cluster("cpu", 1, 2, host_memory_gib=2.4)  # the tables need 3.2
    found = _ways(on, "embeddings.sharding=row_wise")
    assert found == ["--set embeddings.dtype=fp16", "--set embeddings.dim=8", "--set topology.host_memory_gib=4.8"]
    on = cluster("cpu", 1, 2, host_memory_gib=0.4)
    found = _ways(on, "embeddings.sharding=row_wise", "embeddings.dtype=fp16", "embeddings.dim=4")
    assert found[:1] == ["--set topology.host_memory_gib=0.8"]
    assert found[1].startswith("--hosts ")


def test_more_hosts_are_the_fewest_that_fit() -> None:
    config, on = _run("embeddings.sharding=row_wise"), cluster("cpu", 1, 2, host_memory_gib=1.5)
    described = describe_dataset(config)
    said: list[str] = []
    with logged(said.append):
        plan = plan_fewest_hosts(config, described, on, None)
    assert plan is not None
    hosts = plan.cluster.hosts
    assert said[-1].split()[0] in (str(hosts), str(hosts - 1))
    assert_sound(plan)
    with pytest.raises(Exception, match="host memory"):
        plan_run(config, described, on.model_copy(update={"hosts": hosts - 1}))
    assert min_hosts(config, described, on, None, 512) in range(1, hosts + 1)


def test_the_fewest_hosts_for_a_rate() -> None:
    config, on = _run(), cluster("h100", 1, 2)
    described = describe_dataset(config)
    plan = plan_fewest_hosts(config, described, on, 11e6)
    assert plan is not None
    assert plan.estimate is not None
    assert plan.estimate.samples_per_second >= 11e6
    fewer = plan_run(config, described, on.model_copy(update={"hosts": plan.cluster.hosts - 1}))
    assert fewer.estimate is not None
    assert fewer.estimate.samples_per_second < 11e6
    assert plan_fewest_hosts(config, described, on, 1e12) is None


WORK = DenseWork(flops_per_sample=1_000_000, dense_parameters=250_000, precision="fp32", epoch_samples=10_000_000)


def test_dense_layers_of_a_cpu_share_its_hosts_peak() -> None:
    half = WORK.__class__(**{**vars(WORK), "precision": "bf16"})
    on = cluster("cpu", 1, 4, fp32_tflops=2.0, bf16_tflops=4.0)
    assert dense_ms(on, WORK, 1000) == pytest.approx(3e9 / (0.4 * 0.5e12) * 1e3)
    assert dense_ms(on, half, 1000) == pytest.approx(3e9 / (0.4 * 1e12) * 1e3)


def test_presets_differ_where_their_data_sheets_do() -> None:
    memory = {device: PRESETS[device].hbm_gib for device in DEVICES}
    assert memory == {
        "a100-40": 39.0,
        "a100-80": 79.0,
        "h100": 79.0,
        "h200": 139.0,
        "h20": 95.0,
        "l40s": 44.0,
        "b200": 178.0,
        "cpu": 0.0,
    }
    assert sorted(DEVICES, key=lambda device: PRESETS[device].hbm_gb_per_s) == [
        *("cpu", "l40s", "a100-40", "a100-80", "h100", "h20", "h200", "b200"),
    ]
    small, large, h100, h200 = (PRESETS[name] for name in ("a100-40", "a100-80", "h100", "h200"))
    assert (small.fp32_tflops, small.bf16_tflops) == (large.fp32_tflops, large.bf16_tflops)
    assert (h100.fp32_tflops, h100.bf16_tflops) == (h200.fp32_tflops, h200.bf16_tflops)
    assert PRESETS["l40s"].intra_host_gb_per_s == PRESETS["l40s"].hbm_to_host_gb_per_s  # no NVLink


@pytest.mark.parametrize(
    ("dim", "memory", "gpus"),
    [
        (1024, 79.0, "a100-80, h200 or b200"),
        pytest.param(2048, 139.0, "a100-80, h200 or b200", marks=pytest.mark.slow),
        (3072, 178.0, "h200 or b200"),
    ],
)
def test_larger_gpus_are_as_small_as_is_enough(dim: int, memory: float, gpus: str) -> None:
    config = _run("embeddings.kernel=fused", "embeddings.dtype=fp16", f"embeddings.dim={dim}")
    on = cluster("a100-80" if dim == 3072 else "a100-40", 1, 2, host_memory_gib=1.0)
    found = {way.change: way.price for way in suggestions(config, describe_dataset(config), on, lambda text: None)}
    assert found[f"--set topology.hbm_gib={memory}"] == f"GPUs with more memory: {gpus}"


def test_two_plans_are_compared_table_by_table() -> None:
    one, two = planned(cluster("h100", 1, 8)), planned(cluster("h100", 1, 8), "embeddings.sharding=row_wise")
    text = format_comparison(one, two, ("a.json", "b.json"))
    lines = text.splitlines()
    assert lines[0].split() == ["a.json", "b.json"]
    before, after = (next(line for line in lines if f"  {side}  46,926,001 x 16 fp32" in line) for side in "ab")
    assert "table_wise" in before
    assert "row_wise" in after
    assert after.endswith("0-7")
    assert f"{imbalance(two.costs):.2f}" in next(line for line in lines if line.startswith("imbalance"))
    assert "every table lies where it did" in format_comparison(one, one, ("a", "a"))


def test_tables_on_the_same_ranks_differ_where_their_shards_do() -> None:
    embeddings = EmbeddingsConfig(dim=16, sharding="column_wise")
    one = plan_of({"t": 100}, cluster("cpu", 1, 2), embeddings)
    (table,) = one.tables
    two = one.model_copy(update={"tables": (table.model_copy(update={"ranks": (1, 0)}),)})
    text = format_comparison(one, two, ("a", "b"))
    assert "1 of 1 tables differ:" in text
    assert "0-1 (rank 0: rows 0+100, columns 0+8; rank 1: rows 0+100, columns 8+8)" in text
    assert "0-1 (rank 1: rows 0+100, columns 0+8; rank 0: rows 0+100, columns 8+8)" in text


def test_a_batch_size_bounds_the_ranks_that_are_looked_at() -> None:
    config = _run("train.batch_size_per_rank=", "train.batch_size=64")
    plan = plan_fewest_hosts(config, describe_dataset(config), cluster("h100", 1, 8), None)
    assert plan is not None
    assert plan.cluster.hosts == 1
    found = _ways(
        cluster("h100", 1, 2, hbm_gib=0.8),
        "train.batch_size_per_rank=",
        "train.batch_size=64",
        "embeddings.kernel=fused",
    )
    assert "--set embeddings.kernel=" in found[0]


def test_what_cannot_help_is_not_tried() -> None:
    said: list[str] = []
    config, on = _run("embeddings.sharding=row_wise"), cluster("cpu", 1, 2, host_memory_gib=1.0)
    with logged(said.append):
        suggestions(config, describe_dataset(config), on)
    assert not [line for line in said if "batch_size" in line or "fp16" in line]  # the weights alone are too large
    config = _run("embeddings.dim=100000")
    with pytest.raises(DoesNotFitError) as caught:
        plan_run(config, describe_dataset(config), cluster("a100-80", 8, 8))
    assert str(caught.value).startswith(
        "embeddings.dim, model: the dense layers, which read all embeddings, take at least 80.1"
    )


def test_a_model_that_is_far_too_large_is_planned_without_building_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **named: Any) -> Any:
        assert args[0].embeddings.dim < 10**6, "a model of this size would take all memory"
        return build_model(*args, **named)

    monkeypatch.setattr("ple_rec.training.model.build_model", build)
    config = _run("embeddings.dim=4000000000000", "train.batch_size_per_rank=", "train.batch_size=64")
    on = cluster("cpu", 1, 2)
    described = describe_dataset(config)
    with pytest.raises(DoesNotFitError, match=r"^embeddings\.dim, model: the dense layers, "):
        plan_run(config, described, on)
    assert plan_fewest_hosts(config, described, on, 1e6) is None
    assert [way.change.partition("=")[0] for way in suggestions(config, described, on)] == ["--set embeddings.dim"]
