"""The hardware that a run plans for: presets by the names of GPUs, what `[topology]` changes, and unknown GPUs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from torch import nn

from ple_rec.config.cluster import GIB, PRESETS, Cluster, Device, TopologyConfig
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.topology import detect_cluster, gpu_preset
from ple_rec.errors import UserError
from ple_rec.runtime.host import usable_memory_bytes
from ple_rec.training import context
from tests.training.small import small_config, write_small


def on_gpu(monkeypatch: pytest.MonkeyPatch, name: str, memory_gib: float, config: TopologyConfig | None) -> Cluster:
    """Return the cluster of eight ranks with such GPUs."""
    gpu = SimpleNamespace(name=name, total_memory=int(memory_gib * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    return detect_cluster(Ranks(0, 8, 8, torch.device("cuda", 0), 1), config)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_known_gpu_has_its_preset(name: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = on_gpu(monkeypatch, name, 31.5, None).hardware
    memory = {"hbm_gib": 31.5, "host_memory_gib": usable_memory_bytes() / GIB}
    assert hardware == PRESETS[device].model_copy(update=memory)


def test_a_pcie_board_has_no_nvlink() -> None:
    small, large = (
        gpu_preset(f"NVIDIA {name}", 39.0, TopologyConfig()) for name in ("A100-PCIE-40GB", "A100 80GB PCIe")
    )
    assert small == PRESETS["a100-40"].model_copy(update={"intra_host_gb_per_s": 32.0})
    assert large == PRESETS["a100-80"].model_copy(update={"intra_host_gb_per_s": 32.0, "hbm_gb_per_s": 1935.0})


UNKNOWN = ["Tesla V100-SXM2-32GB", "NVIDIA GH200 480GB", "NVIDIA H20-3e", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_gpu_is_refused_with_a_topology_that_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        on_gpu(monkeypatch, name, 31.7324, None)
    said, _, lines = str(caught.value).partition("\n")
    assert said.startswith(f"topology.device: missing; the GPU is {name} with 31.73 GiB; presets exist for")
    file = tmp_path / "run.toml"
    file.write_text(f'base = "tencent-ple"\n{lines}\n')
    config = load_config(RunConfig, str(file), ())
    assert config.topology is not None
    hardware = on_gpu(monkeypatch, name, 31.7324, config.topology).hardware
    memory = {"hbm_gib": 31.73, "host_memory_gib": usable_memory_bytes() / GIB}
    assert hardware == PRESETS["a100-40"].model_copy(update=memory)  # the nearest in memory


def test_the_refusal_keeps_the_figures_that_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    given = TopologyConfig(hbm_gb_per_s=900.0, host_memory_gib=100.0)
    with pytest.raises(UserError) as caught:
        on_gpu(monkeypatch, "Tesla V100-SXM2-32GB", 31.7324, given)
    lines = str(caught.value).partition("\n")[2]
    topology = tomllib.loads(lines)["topology"]
    assert (topology["hbm_gb_per_s"], topology["host_memory_gib"], topology["bf16_tflops"]) == (900.0, 100.0, 312.0)


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-32GB"])
def test_the_device_of_the_topology_is_the_preset_of_any_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = on_gpu(monkeypatch, name, 50.0, TopologyConfig(device="h200", bf16_tflops=125.0)).hardware
    changed = {"bf16_tflops": 125.0, "hbm_gib": 50.0, "host_memory_gib": usable_memory_bytes() / GIB}
    assert hardware == PRESETS["h200"].model_copy(update=changed)
    own = TopologyConfig(device="l40s", hbm_gib=20.0, host_memory_gib=64.0)
    hardware = on_gpu(monkeypatch, name, 50.0, own).hardware
    assert hardware == PRESETS["l40s"].model_copy(update={"hbm_gib": 20.0, "host_memory_gib": 64.0})


def test_a_topology_of_cpus_is_refused_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r'topology.device: got "cpu", but the ranks run on cuda'):
        on_gpu(monkeypatch, "NVIDIA H200", 139.8, TopologyConfig(device="cpu"))


class _PlannedError(Exception):
    """Ends the assembly of a run once it is known what is planned for."""


def test_training_plans_for_the_device_of_the_topology(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def plan(module: nn.Module, request: PlanningInputs, given: object) -> NoReturn:
        raise _PlannedError(request.cluster)

    gpu = SimpleNamespace(name="Tesla V100-SXM2-32GB", total_memory=32 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(context, "build_unsharded_model", lambda *_: nn.Linear(1, 1))  # there is no GPU to hold a model
    monkeypatch.setattr(context, "agreed_plan", plan)
    monkeypatch.setattr(context, "run_on_rank_zero", lambda action: action())  # there is no process group
    changes = {"topology": {"device": "h200", "inter_host_gb_per_s": 12.5}, "train": {"precision": "fp32"}}
    config = small_config(write_small(tmp_path / "data"), changes)
    with pytest.raises(_PlannedError) as caught:
        context.build_evaluation_context(config, Ranks(0, 8, 8, torch.device("cuda", 0), 1))
    hardware = caught.value.args[0].hardware
    changed = {"inter_host_gb_per_s": 12.5, "hbm_gib": 32.0, "host_memory_gib": usable_memory_bytes() / GIB}
    assert hardware == PRESETS["h200"].model_copy(update=changed)
