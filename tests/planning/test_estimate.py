"""The estimate of a step: each part by hand, the bound, the range, and plans of before these figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.cluster import Cluster, assumed_figures
from ple_rec.config.plan import PlanFile, dump_plan, load_plan
from ple_rec.config.run import EmbeddingsConfig
from ple_rec.planning.estimate import DenseWork, all_reduce_ms, dense_ms, estimate_step, highest_rate, step_parts
from ple_rec.planning.text import format_estimate, measured_text
from tests.planning.samples import cluster, plan_of, planned

WORK = DenseWork(flops_per_sample=1_000_000, dense_parameters=250_000, precision="fp32", epoch_samples=10_000_000)
MEASURED: dict[str, Any] = {
    "dense_efficiency": 0.3,
    "lookup_efficiency": 0.6,
    "exchange_efficiency": 0.75,
    "host_ms_per_step": 3.5,
    "host_ms_per_sharding_type": 0.7,
    "intra_host_latency_us": 25.0,
    "inter_host_latency_us": 60.0,
    "loader_rows_per_s": 1e9,
}


def small_plan(on: Cluster, *, mixed: bool = False) -> PlanFile:
    """Plan of two tables, table-wise, or one of them row-wise."""
    tables = {"a": {"sharding": "table_wise"}, "b": {"sharding": "row_wise" if mixed else "table_wise"}}
    embeddings = EmbeddingsConfig.model_validate({"dim": 16, "tables": tables})
    return plan_of({"a": 1000, "b": 1000}, on, embeddings, batch=4096)


def test_each_part_is_that_of_its_formula() -> None:
    plan = small_plan(cluster("h100", 2, 4, **MEASURED))
    parts = step_parts(plan, WORK)
    busiest = max(plan.costs, key=lambda costs: costs.total())
    assert parts["host"] == pytest.approx(3.5 + 0.7)
    assert parts["lookup"] == pytest.approx(busiest.lookup + busiest.update)
    exchanged = busiest.ids + busiest.output + busiest.gradient
    assert parts["communication"] == pytest.approx(exchanged + 5 * 0.060)
    assert parts["dense"] == pytest.approx(3e6 * 4096 / (0.3 * 67e12) * 1e3)
    # 1 MB: 2 * 3/4 MB at 450 GB/s inside a host, 2 * 1/2 MB at 4 * 50 GB/s between two
    assert all_reduce_ms(plan.cluster, 250_000) == pytest.approx((1.5 / 450 + 1 / 200) / 0.75)
    assert parts["gradients"] == pytest.approx((1.5 / 450 + 1 / 200) / 0.75 + 0.060)
    assert parts["loader"] == pytest.approx(4096 / 1e6)


def test_a_second_sharding_type_has_host_time_and_collectives_of_its_own() -> None:
    on = cluster("h100", 1, 4, **MEASURED)
    one, two = small_plan(on), small_plan(on, mixed=True)
    assert (one.collectives, two.collectives) == (5, 10)
    assert step_parts(two, WORK)["host"] - step_parts(one, WORK)["host"] == pytest.approx(0.7)
    latencies = [
        step_parts(plan, WORK)["communication"] - max(plan.costs, key=lambda c: c.total()).communication_part_ms()
        for plan in (one, two)
    ]
    assert latencies == pytest.approx([5 * 0.025, 10 * 0.025])


def test_one_rank_exchanges_nothing() -> None:
    parts = step_parts(small_plan(cluster("h100", 1, 1, **MEASURED)), WORK)
    assert (parts["host"], parts["communication"], parts["gradients"]) == (3.5, 0.0, 0.0)


def test_on_gpus_the_step_is_the_longest_of_host_device_and_loader() -> None:
    def estimate(**figures: float) -> tuple[float, str]:
        plan = small_plan(cluster("h100", 1, 4, **{**MEASURED, **figures}))
        found = estimate_step(plan, WORK)
        assert found.samples_per_second == pytest.approx(4 * 4096 / found.step_ms * 1e3, rel=1e-5)
        assert found.epoch_seconds == pytest.approx(1e7 / found.samples_per_second, rel=1e-5)
        return found.step_ms, found.bound

    assert estimate() == (4.2, "host")
    assert estimate(loader_rows_per_s=1e5) == (40.96, "loader")
    parts = step_parts(small_plan(cluster("h100", 1, 4, **MEASURED)), WORK)
    device = sum(parts[name] for name in ("lookup", "communication", "dense", "gradients"))
    assert device < 4.2
    step, bound = estimate(host_ms_per_step=0.0)
    assert step == pytest.approx(device, rel=1e-5)
    assert bound == "dense"
    assert estimate(host_ms_per_step=0.0, hbm_gb_per_s=1.0)[1] == "lookup"
    assert estimate(host_ms_per_step=0.0, intra_host_gb_per_s=0.1)[1] == "communication"
    wide = replace(WORK, flops_per_sample=1, dense_parameters=10**9)
    assert estimate_step(small_plan(cluster("h100", 1, 4, **MEASURED)), wide).bound == "gradients"


def test_on_cpus_the_host_computes_the_other_parts_itself() -> None:
    plan = small_plan(cluster("cpu", 1, 2, **MEASURED))
    found, parts = estimate_step(plan, WORK), step_parts(plan, WORK)
    assert found.step_ms == pytest.approx(sum(parts.values()) - parts["loader"], rel=1e-5)
    assert found.step_ms > parts["host"]
    slow = estimate_step(small_plan(cluster("cpu", 1, 2, **{**MEASURED, "host_ms_per_step": 1000.0})), WORK)
    assert slow.bound == "host"
    assert "ms: host 1000.700  lookup" in format_estimate(plan, slow)


def test_the_highest_rate_is_that_of_dense_layers_host_or_loader_alone() -> None:
    on = cluster("h100", 1, 8, **MEASURED)
    assert highest_rate(on, WORK, 4096) == pytest.approx(8 * 4096 / 3.5 * 1e3)
    no_host = cluster("h100", 1, 8, **{**MEASURED, "host_ms_per_step": 0.0})
    assert highest_rate(no_host, WORK, 4096) == pytest.approx(8 * 4096 / dense_ms(no_host, WORK, 4096) * 1e3)


def test_the_range_is_a_step_with_the_assumed_figures_at_their_ends() -> None:
    plan = small_plan(cluster("h100", 1, 4, host_ms_per_step=0.0, host_ms_per_sharding_type=0.0, loader_rows_per_s=1e9))
    found = estimate_step(plan, WORK)
    ends = []
    for end in ("fast", "slow"):
        figures = {key: getattr(f, end) for key, f in assumed_figures(plan.cluster.hardware).items()}
        assert set(figures) == {
            *("dense_efficiency", "lookup_efficiency", "exchange_efficiency"),
            *("intra_host_latency_us", "inter_host_latency_us"),
        }
        changed = {**MEASURED, "host_ms_per_step": 0.0, "host_ms_per_sharding_type": 0.0, **figures}
        ends.append(estimate_step(small_plan(cluster("h100", 1, 4, **changed)), WORK).step_ms)
    # The costs of a plan are rounded to a nanosecond.
    assert [found.fastest_ms, found.slowest_ms] == pytest.approx(ends, rel=1e-3)
    assert ends[0] < found.step_ms < ends[1]


def test_figures_that_are_all_given_leave_no_range() -> None:
    plan = small_plan(cluster("h100", 1, 4, **MEASURED))
    found = estimate_step(plan, WORK)
    assert found.fastest_ms == found.slowest_ms == found.step_ms
    assert format_estimate(plan, found).startswith("step 4.200 ms, bound by host (issuing the operators of a step)\n")
    assumed = small_plan(cluster("h100", 1, 4))
    assert format_estimate(assumed, estimate_step(assumed, WORK)).startswith(
        "step 3.500 ms (1.5 to 6.5), bound by host ("
    )
    assert measured_text(assumed).startswith("nothing was measured: ")


def test_a_plan_without_the_new_figures_loads_and_is_that_of_no_host_and_no_latency(tmp_path: Path) -> None:
    raw = json.loads(dump_plan(planned(cluster("h100", 2, 4))))
    for key in MEASURED.keys() - {"dense_efficiency", "loader_rows_per_s"}:
        del raw["cluster"]["hardware"][key]
    for key in ("host_ms", "fastest_ms", "slowest_ms"):
        del raw["estimate"][key]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(raw))
    old = load_plan(file)
    assert old.estimate is not None
    assert (old.estimate.host_ms, old.estimate.fastest_ms) == (0.0, None)
    hardware = old.cluster.hardware
    assert (hardware.host_ms_per_step, hardware.inter_host_latency_us, hardware.lookup_efficiency) == (0.0, 0.0, 1.0)
    assert "host_ms_per_step" not in assumed_figures(hardware)
    assert " to " not in format_estimate(old, old.estimate).splitlines()[0]
