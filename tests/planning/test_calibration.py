"""Calibration files: written, read back, refused, and the figures that follow from their measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ple_rec
from ple_rec.cli import main
from ple_rec.config.calibration import (
    Calibration,
    ExchangeTimes,
    GemmTime,
    StepTime,
    TablesTime,
    TransferTime,
    dump_calibration,
    load_calibration,
)
from ple_rec.config.cluster import PRESETS, Device, TopologyConfig, assumed_figures
from ple_rec.config.plan import load_plan
from ple_rec.config.problems import ConfigError
from ple_rec.errors import UserError
from ple_rec.planning.calibrate import calibrated, measured_figures
from tests.planning.samples import cluster, planned

PLAN = ["plan", "--config", "tencent-ple", "--device", "h100"]


def calibration(device: Device = "h100", **changes: Any) -> Calibration:
    """Measurements in round numbers: .001 ms a sample on the device, of which the tables take .0002."""
    on_gpu = device != "cpu"
    content: dict[str, Any] = {
        "version": 1,
        "device": device,
        "device_name": "NVIDIA H100 80GB HBM3" if on_gpu else "a CPU",
        "host": "a CPU, 8 cores",
        "versions": {"torch": "2"},
        "measured_at": "2026-12-01 15:00",
        "recipe": "tencent-ple",
        "precision": "fp32",
        "flops_per_sample": 2_000_000,
        "steps": tuple(
            StepTime(samples=n, ms=max(3.0, 0.1 + n / 1000), host_ms=3.0, device_ms=0.1 + n / 1000)
            if on_gpu
            else StepTime(samples=n, ms=3.0 + n / 1000, host_ms=3.0 + n / 1000)
            for n in (100, 8100)
        ),
        "tables": tuple(
            TablesTime(
                samples=n, tables=24, rows=24_000, dim=16, ids=24.0, forward_ms=1 + n / 1e4, backward_ms=1 + n / 1e4
            )
            for n in (100, 8100)
        ),
        "gemms": (GemmTime(m=4096, k=392, n=256, ms=0.01),),
        "copies": (TransferTime(bytes=1000, ms=0.01), TransferTime(bytes=10_000_000, ms=0.2)) if on_gpu else (),
        "loader_rows_per_s": 1.5e6,
    }
    return Calibration.model_validate({**content, **changes})


EXCHANGES = ExchangeTimes(
    ranks=2,
    all_to_all=(TransferTime(bytes=1_000_000, ms=0.5), TransferTime(bytes=11_000_000, ms=5.5)),
    steps=(StepTime(samples=100, ms=8.1, host_ms=8.1), StepTime(samples=8100, ms=16.1, host_ms=16.1)),
)


def test_a_file_comes_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    for content in (calibration(), calibration("cpu", exchanges=EXCHANGES)):
        file.write_text(dump_calibration(content))
        assert load_calibration(file) == content


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory; --calibration is a JSON file of measurements. Fix: make it by"),
        ("{", "not JSON ("),
        ("[]", "version None; this ple_rec reads version 1"),
        ('{"version": 2}', "version 2; this ple_rec reads version 1"),
    ],
)
def test_a_file_of_no_measurements_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "calibration.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_calibration(file)
    assert str(caught.value).startswith(f"{file}: {said}")


def test_every_problem_of_a_file_is_named(tmp_path: Path) -> None:
    raw = json.loads(dump_calibration(calibration()))
    raw["steps"][0]["ms"], raw["loader_rows_per_s"], raw["extra"] = -1.0, 0.0, 1
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        load_calibration(file)
    for problem in ("steps[0].ms: got -1.0", "loader_rows_per_s: got 0.0", "extra: unknown key"):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("version", True, "version: got true (bool); expected an int"),
        ("version", 1.0, "version: got 1.0 (float); expected an int"),
        ("steps.1.samples", 100, "steps[1].samples: got 100 a second time; each number of samples is measured once"),
        ("tables.1.samples", 100, "tables[1].samples: got 100 a second time; each number of samples is measured once"),
        ("exchanges.steps.1.samples", 100, "exchanges.steps[1].samples: got 100 a second time; each number of"),
        ("tables.0.dim", 7, "tables[0].dim: got 7; must be > 0 and a multiple of 4"),
        (
            "tables.0.rows",
            10**15,
            f"tables[0].rows: got {10**15}; 24 tables have at most {24 * (2**31 - 1)} rows, since",
        ),
        ("steps.0.device_ms", 2.0, "steps[0].device_ms: got 2.0; steps on a CPU have no GPU kernels"),
        ("device", "h100", "exchanges.steps[1].device_ms: missing; every step on a GPU has the time of its kernels"),
    ],
)
def test_measurements_that_give_no_figures_are_refused(tmp_path: Path, path: str, value: object, problem: str) -> None:
    raw = part = json.loads(dump_calibration(calibration("cpu", exchanges=EXCHANGES)))
    *parents, key = [int(key) if key.isdigit() else key for key in path.split(".")]
    for parent in parents:
        part = part[parent]
    part[key] = value
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        load_calibration(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert f"\n  {problem}" in str(caught.value)


def test_a_step_of_a_gpu_without_the_time_of_its_kernels_is_refused(tmp_path: Path) -> None:
    raw = json.loads(dump_calibration(calibration()))
    del raw["steps"][1]["device_ms"]
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        load_calibration(file)
    assert str(caught.value) == (
        f"{file}: 1 problem\n  steps[1].device_ms: missing; every step on a GPU has the time of its kernels"
    )


def test_measured_tables_may_be_larger_than_the_memory_of_a_gpu() -> None:
    tables = tuple(each.model_copy(update={"rows": 24 * (2**31 - 1)}) for each in calibration().tables)
    hardware = PRESETS["h100"]
    assert measured_figures(calibration(tables=tables), hardware) == measured_figures(calibration(), hardware)


def test_the_figures_of_a_gpu_follow_from_its_kernels_and_its_host() -> None:
    hardware = PRESETS["h100"]
    figures = measured_figures(calibration(), hardware)
    assert figures["loader_rows_per_s"] == 1.5e6
    assert figures["host_ms_per_step"] == 3.0
    assert figures["hbm_to_host_gb_per_s"] == pytest.approx(50.0)
    # Of .001 ms a sample, the tables take .0002. The peak is 67 TFLOP/s.
    assert figures["dense_efficiency"] == pytest.approx(6e6 / (67e12 * 0.8e-6), rel=1e-3)
    # The cost model, with this efficiency, gives the tables what they took.
    plan = planned(cluster("h100", 1, 1, lookup_efficiency=figures["lookup_efficiency"]))
    assert plan.costs[0].lookup_part_ms() == pytest.approx(0.0002 * plan.batch_size_per_rank, rel=1e-2)
    kernels = tuple(StepTime(samples=n, ms=9.0, host_ms=3.0, device_ms=4.0 + n / 1000) for n in (100, 8100))
    assert measured_figures(calibration(steps=kernels), hardware)["host_ms_per_step"] == pytest.approx(4.1)


def test_the_figures_of_cpus_and_of_their_exchanges_follow_from_whole_steps() -> None:
    figures = measured_figures(calibration("cpu", exchanges=EXCHANGES), PRESETS["cpu"])
    assert figures["host_ms_per_step"] == 3.0
    assert figures["dense_efficiency"] == 1.0  # 6 MFLOP in .8 us would be above the peak, 2 TFLOP/s
    assert figures["exchange_efficiency"] == pytest.approx(2.0 / 5.0)  # 10 MB in 5 ms, of 5 GB/s
    assert figures["intra_host_latency_us"] == 500.0
    # 8.1 ms less .1 for the samples, 3 of one rank, and six latencies
    assert figures["host_ms_per_sharding_type"] == pytest.approx(8.0 - 3.0 - 6 * 0.5)
    assert "hbm_to_host_gb_per_s" not in figures


@pytest.mark.parametrize(("samples", "ms"), [(128, 9.4), (4096, 207.8)])
def test_a_plan_by_measured_steps_takes_as_long_as_they_did(samples: int, ms: float) -> None:
    steps = tuple(StepTime(samples=n, ms=3.0 + n / 20, host_ms=3.0 + n / 20) for n in (100, 8100))
    on = calibrated(cluster("cpu", 1, 1), calibration("cpu", steps=steps, flops_per_sample=2_001_632), "file.json")
    plan = planned(on, f"train.batch_size_per_rank={samples}", "train.precision=fp32")
    assert plan.estimate is not None
    assert plan.estimate.step_ms == pytest.approx(ms, rel=0.01)


def test_a_time_that_does_not_grow_gives_no_figure() -> None:
    flat = tuple(StepTime(samples=n, ms=3.0, host_ms=3.0, device_ms=1.0) for n in (100, 8100))
    assert "dense_efficiency" not in measured_figures(calibration(steps=flat), PRESETS["h100"])


def test_measured_figures_replace_assumed_ones_but_not_those_of_the_user() -> None:
    # The preset has the same figure, which the user has confirmed.
    topology = TopologyConfig(host_ms_per_step=PRESETS["h100"].host_ms_per_step)
    on = calibrated(cluster("h100", 1, 8), calibration(), "file.json", topology)
    assert on.hardware.host_ms_per_step == PRESETS["h100"].host_ms_per_step != 3.0
    assert on.hardware.loader_rows_per_s == 1.5e6
    assert on.calibration == "file.json (NVIDIA H100 80GB HBM3, 1 rank, tencent-ple in fp32, 2026-12-01 15:00)"
    assert set(assumed_figures(on.hardware)) == {
        *("host_ms_per_step", "exchange_efficiency", "host_ms_per_sharding_type"),
        *("intra_host_latency_us", "inter_host_latency_us"),
    }


def test_plan_reads_a_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "calibration.json", tmp_path / "plan.json"
    file.write_text(dump_calibration(calibration()))
    assert main([*PLAN, "--gpus-per-host", "1"]) == 0
    assert "nothing was measured: " in capsys.readouterr().out
    assert main([*PLAN, "--gpus-per-host", "1", "--calibration", str(file), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "nothing was measured" not in text
    assert f"measured: {file} (NVIDIA H100 80GB HBM3, 1 rank, tencent-ple in fp32, 2026-12-01 15:00); assumed: " in text
    plan = load_plan(out)
    assert plan.estimate is not None
    assert (plan.estimate.host_ms, plan.estimate.bound) == (3.0, "host")
    made = ple_rec.plan("tencent-ple", device="h100", ranks_per_host=1, calibration=file)
    assert made.content == plan
    argv = [*PLAN, "--gpus-per-host", "1", "--calibration", str(file), "--out", str(out)]
    assert main([*argv, "--set", "topology.host_ms_per_step=2.5"]) == 0
    of_user = load_plan(out)
    assert of_user.cluster.hardware.host_ms_per_step == 2.5
    made = ple_rec.plan(
        "tencent-ple",
        device="h100",
        ranks_per_host=1,
        calibration=file,
        overrides={"topology.host_ms_per_step": 2.5},
    )
    assert made.content == of_user
    capsys.readouterr()
    assert main(["plan", "--compare", str(out), str(out), "--calibration", str(file)]) == 2
    assert "--compare --calibration: both given" in capsys.readouterr().err


def test_measurements_of_another_device_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(dump_calibration(calibration("cpu")))
    assert main([*PLAN, "--calibration", str(file)]) == 2
    assert capsys.readouterr().err == (
        f"ple-rec: {file}: measured on cpu (a CPU); the plan is for h100; a plan takes measurements of its own device "
        "only. Fix: measure on such a host, plan with --device cpu, or leave out --calibration\n"
    )
