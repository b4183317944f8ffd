"""An export is made of a model on any device; what it writes, and is checked with, is for the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ple_rec.inference.export import _without_tf32
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.program import DenseProgram
from ple_rec.inference.ranker import Ranker
from tests.analysis.trained import train_tiny
from tests.inference.exported import export_run
from tests.training.devices import devices, in_new_process
from tests.training.small import write_small


def test_a_program_has_its_weights_on_the_cpu_wherever_those_of_the_model_are(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is not there: it refuses operations whose arguments are on two devices."""
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", True)
    model = ranker._model
    kept = [(part, part._parameters.copy(), part._buffers.copy()) for part in model.modules()]
    with FakeTensorMode():
        try:
            for part, parameters, buffers in kept:
                part._parameters |= {name: nn.Parameter(_on_gpu(x)) for name, x in parameters.items() if x is not None}
                part._buffers |= {name: _on_gpu(x) for name, x in buffers.items() if x is not None}
            program = DenseProgram(model, ranker.signature)
            scores_BK, _ = program(*program.example_inputs())
            assert {x.device.type for x in model.parameters()} == {"cuda"}
        finally:
            for part, parameters, buffers in kept:
                part._parameters, part._buffers = parameters, buffers
    assert scores_BK.device.type == "cpu"


def test_an_export_leaves_tf32_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with _without_tf32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def _on_gpu(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda")


def _exported(device: str, folder: Path) -> dict[str, Any]:
    write_small(folder / "data")
    run = train_tiny(folder, {"runtime": {"device": device, "threads": 1}})
    model = export_run(run, folder / "model")
    Ranker(latest_version(model), threads=1)
    described: dict[str, Any] = json.loads((latest_version(model) / "model.json").read_text())
    return described


@pytest.mark.parametrize("device", devices())
def test_an_export_on_a_device_says_what_the_run_said(device: str, tmp_path: Path) -> None:
    check = in_new_process(_exported, device, tmp_path)["card"]["check"]
    assert max(task["largest"] for task in check["tasks"].values()) <= check["tolerance"] == 1e-5
