"""Runs on the fake device, and the same runs on the CPU: whole trainings, and steps of each variant's dense layers.

`main` writes the events of each scenario and its results on both devices as JSON.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from pydantic import TypeAdapter

from ple_rec.config.model import ModelConfig
from ple_rec.config.plan_table import Kernel
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.distributed import process_group
from ple_rec.models.losses import StepLoss, cross_entropy, mse
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import objective
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.training.run import train
from tests.gpu_proofs.device_path import device_path
from tests.gpu_proofs.fake_cuda.stand_ins import replace_cuda
from tests.gpu_proofs.fake_cuda.tensors import DEVICE, FakeDevice
from tests.reports.without_charts import without_charts
from tests.training.small import small_config, write_small
from tests.training.test_every_variant import MODELS, TOWER
from tests.vectors import write_vectors

# Phase of a training by the function that it is in.
PHASES = {
    "Trainer._step": "step",
    "backward pass": "step",
    "Trainer._report": "report",
    "Trainer._evaluate_and_save": "save",
    "Trainer._evaluate": "evaluation",
    "evaluate": "evaluation",
}
STEPS, STOP = 6, 4
PRECISIONS = ("fp32", "bf16")
ROWS, DENSE = 37, 11
TASKS = ("click", "watch")
LOSSES = [cross_entropy(TaskConfig(name="click")), mse(TaskConfig(name="watch"))]
# Operations on tensors `x` and `mask` of the device, by the kinds of the events, or the error, that they should cause.
OPERATIONS = {
    "x.sum().item()": "read",
    "x.tolist()": "read",
    "bool(x.sum() > 0)": "read",
    "x.cpu()": "read",
    "x.to('cpu', non_blocking=True)": "read",
    "torch.empty(2, pin_memory=True).copy_(x)": "read",
    "torch.empty(2, pin_memory=True).copy_(x, non_blocking=True)": "",
    "mask.nonzero()": "read",
    "x[mask]": "read",
    "x.unique()": "read",
    "torch.equal(x, x)": "read",
    "x.masked_fill(mask, 0)": "",
    "torch.where(mask, x, 0.0)": "",
    "torch.ones(2).to(x.device, non_blocking=True)": "copy",
    "torch.ones(2).pin_memory().to(x.device)": "copy",
    "torch.ones(2).pin_memory().to(x.device, non_blocking=True)": "",
    "torch.tensor([1, 0], device=x.device)": "copy",
    "torch.ones(2, device=x.device)": "",
    "x * torch.tensor(2.0)": "mixed",
    "x * 2.0": "",
    "x[torch.tensor([0])]": "mixed",
    "x[0]": "",
    "x + torch.ones(2)": "RuntimeError",
    "torch.where(torch.ones(2) > 0, x, x)": "RuntimeError",
    "torch.cat([x, torch.ones(2)])": "RuntimeError",
    "x.numpy()": "TypeError",
}


class Scenario(NamedTuple):
    """Training on a dataset.

    Args:
        data: Dataset directory.
        changes: Changes of `small_config`, by section.
        kernel: Kernel of the tables on the device: "fused", or "fused_uvm" for tables in the host's memory.
    """

    data: Path
    changes: dict[str, Any]
    kernel: Kernel


def everything(folder: Path) -> Scenario:
    """Return a training in fp32 with all kinds of features but vectors, and asynchronous saves."""
    changes = {
        "train": {"loss_weighting": "uncertainty", "precision": "fp32", "pipeline": "none"},
        "dense_optimizer": {"kind": "adam", "clip_norm": 1.0},
        "embeddings": {"sharding": "table_wise", "tables": {"item": {"pooling": "mean"}, "tag": {"pooling": "mean"}}},
        "evaluation": {"slices": ["user"]},
        "checkpoint": {"asynchronous": True},
    }
    return Scenario(write_small(folder / "everything", subgroup=True), changes, "fused")


def requests(folder: Path) -> Scenario:
    """Return a training in bf16 with requests, vectors, id dropout and overlapping steps."""
    changes = {
        "data": {"request_features": ["user", "taste"], "shuffle": "requests"},
        "train": {"precision": "bf16", "pipeline": "sparse_dist"},
        "dense_optimizer": {"kind": "sgd"},
        "table_optimizer": {"kind": "sgd"},
        "embeddings": {"sharding": "row_wise", "dtype": "fp16", "tables": {"user": {"id_dropout": 0.2}}},
    }
    return Scenario(write_vectors(folder / "requests"), changes, "fused_uvm")


def several_ranks(data: Path) -> Scenario:
    """Return a training on several ranks with two kinds of sharding, on a dataset that `write_small` has written."""
    changes = {
        "train": {"loss_weighting": "uncertainty", "pipeline": "sparse_dist"},
        "dense_optimizer": {"clip_norm": 1.0},
        "embeddings": {"sharding": "row_wise", "tables": {"item": {"sharding": "table_wise"}}},
    }
    return Scenario(data, changes, "fused")


def configuration(scenario: Scenario, device: str, steps: int) -> RunConfig:
    """Return the configuration of a run with reports, and an evaluation and a save before its end."""
    # A compiler would make kernels for a GPU.
    train_section = {"steps": steps, "report_every": 2, "evaluate_every": STOP, "compile": "off"}
    kernel = scenario.kernel if device == "cuda" else "fused"
    sections = {"train": train_section, "embeddings": {"kernel": kernel}, "runtime": {"device": device, "threads": 1}}
    changes = {name: section | sections.get(name, {}) for name, section in scenario.changes.items()}
    return small_config(scenario.data, sections | changes)


def train_on_cpu(scenario: Scenario, run_dir: Path) -> Any:
    """Train all steps with the operators of a GPU, and return the metrics on the test split."""
    with device_path():
        return train(configuration(scenario, "cpu", STEPS), run_dir)["test"]


def train_on_device(scenario: Scenario, run_dir: Path) -> Any:
    """Train some steps, resume the run from its checkpoint, and return the metrics on the test split."""
    with patch.object(process_group, "installed_version", lambda name: "1.9.0"):
        train(configuration(scenario, "cuda", STOP), run_dir)
        return train(configuration(scenario, "cuda", STEPS), run_dir, resume=True)["test"]


def compare(name: str, scenario: Scenario, folder: Path, result: dict[str, Any]) -> None:
    """Train on the CPU and on the device, and add the metrics and the events to `result`."""
    with without_charts():
        result["cpu"][name] = train_on_cpu(scenario, folder / f"{name}-cpu")
        with FakeDevice(PHASES) as device:
            result["cuda"][name] = train_on_device(scenario, folder / f"{name}-cuda")
    result["events"][name] = [asdict(event) for event in device.events]


def train_rank(folder: Path) -> None:
    """Train one of several ranks on the device, and write its events and metrics."""
    # A process of torchrun can join one process group only, so there is no second training to compare.
    config = configuration(several_ranks(folder / "data"), "cuda", STOP)
    cuda_wheel = patch.object(process_group, "installed_version", lambda name: "1.9.0")
    with without_charts(), cuda_wheel, FakeDevice(PHASES) as device:
        metrics = train(config, folder / "run")["test"]
    result = {"events": [asdict(event) for event in device.events], "metrics": metrics}
    (folder / f"result-{os.environ['RANK']}.json").write_text(json.dumps(result))


def train_dense(variant: str, precision: str, device: torch.device) -> list[Any]:
    """Return logits and loss sums of two steps of the dense layers of a variant."""
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(
        {"variant": variant, "tower": TOWER, **MODELS[variant]}, strict=False
    )
    torch.manual_seed(0)
    model = MultiTaskModel(config, TASKS, None, [DenseStatistics("none")] * DENSE, precision).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    host_tensors = (torch.randn(ROWS, DENSE), torch.randint(2, (ROWS, len(TASKS))).float())
    x_BD, labels_BK = (tensor.pin_memory().to(device, non_blocking=True) for tensor in host_tensors)
    counts_K = torch.full((len(TASKS),), float(ROWS), device=device)
    outputs = []

    def dense_step() -> None:
        loss = StepLoss(LOSSES, labels_BK, torch.ones_like(labels_BK), lambda: counts_K)
        logits_BK, sums_K = model.train_score(x_BD, loss)
        objective(model, sums_K, counts_K, torch.ones_like(counts_K)).backward()
        optimizer.step()
        optimizer.zero_grad()
        outputs.extend([logits_BK, sums_K.detach()])

    for _ in range(2):
        dense_step()
    return outputs


def try_operation(code: str) -> str:
    """Return the kinds of the events of an operation on tensors `x` and `mask`, or the name of the error it raises."""
    with FakeDevice():
        x, mask = torch.tensor([1.0, 2.0], device=DEVICE), torch.tensor([True, False], device=DEVICE)
    with FakeDevice() as device:
        try:
            eval(code, {"torch": torch, "x": x, "mask": mask})
        except (RuntimeError, TypeError) as error:
            return type(error).__name__
    return " ".join(event.kind for event in device.events)


def main(folder: Path) -> None:
    """Run all scenarios of one rank, or in a process of torchrun that of several ranks, and write what happened."""
    replace_cuda()
    result: dict[str, Any] = {"events": {}, "cpu": {}, "cuda": {}}
    if "RANK" in os.environ:
        train_rank(folder)
        return
    for scenario in (everything, requests):
        compare(scenario.__name__, scenario(folder), folder, result)
    for variant in MODELS:
        for precision in PRECISIONS:
            name = f"{variant} {precision}"
            with device_path():
                cpu = train_dense(variant, precision, torch.device("cpu"))
            with FakeDevice({"train_dense.<locals>.dense_step": "step", "backward pass": "step"}) as device:
                cuda = train_dense(variant, precision, DEVICE)
            result["events"][name] = [asdict(event) for event in device.events]
            for kind, outputs in (("cpu", cpu), ("cuda", cuda)):
                result[kind][name] = [output.tolist() for output in outputs]
    result["operations"] = {code: (expected, try_operation(code)) for code, expected in OPERATIONS.items()}
    (folder / "result.json").write_text(json.dumps(result))
