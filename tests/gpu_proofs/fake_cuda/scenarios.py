"""Runs on the fake device, and the same runs on the CPU: whole trainings, and steps of each variant's dense layers.

`main` writes `result.json`: the events of each scenario, and its results on both devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pydantic import TypeAdapter

from ple_rec.config.model import ModelConfig
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
Changes = dict[str, Any]


def everything(folder: Path) -> tuple[Path, Changes]:
    """Return a dataset of all kinds of features but vectors, and a configuration in fp32 with asynchronous saves."""
    changes = {
        "train": {"loss_weighting": "uncertainty", "precision": "fp32", "pipeline": "none"},
        "dense_optimizer": {"kind": "adam", "clip_norm": 1.0},
        "embeddings": {"tables": {"item": {"pooling": "mean"}, "tag": {"pooling": "mean"}}},
        "evaluation": {"slices": ["user"]},
        "checkpoint": {"asynchronous": True},
    }
    return write_small(folder / "everything", subgroup=True), changes


def requests(folder: Path) -> tuple[Path, Changes]:
    """Return a dataset of requests with vectors, and a configuration in bf16 with dropout and overlapping steps."""
    changes = {
        "data": {"request_features": ["user", "taste"], "shuffle": "requests"},
        "train": {"precision": "bf16", "pipeline": "sparse_dist"},
        "dense_optimizer": {"kind": "sgd"},
        "table_optimizer": {"kind": "sgd"},
        "embeddings": {"dtype": "fp16", "tables": {"user": {"id_dropout": 0.2}}},
    }
    return write_vectors(folder / "requests"), changes


SCENARIOS: tuple[Callable[[Path], tuple[Path, Changes]], ...] = (everything, requests)


def configuration(data: Path, changes: Changes, device: str, steps: int) -> RunConfig:
    """Return the configuration of a run with a report in the middle, and an evaluation and a save at its end."""
    train = {"steps": steps, "report_every": 2, "evaluate_every": STOP}
    sections = {"train": {}, "runtime": {}} | changes
    sections["train"] = sections["train"] | train
    return small_config(data, sections | {"runtime": {"device": device, "threads": 1}})


def train_on_cpu(data: Path, changes: Changes, run_dir: Path) -> Any:
    """Train all steps with the operators of a GPU, and return the metrics on the test split."""
    with device_path():
        return train(configuration(data, changes, "cpu", STEPS), run_dir)["test"]


def train_on_device(data: Path, changes: Changes, run_dir: Path) -> Any:
    """Train some steps, resume the run from its checkpoint, and return the metrics on the test split."""
    with patch.object(process_group, "installed_version", lambda name: "1.9.0"):
        train(configuration(data, changes, "cuda", STOP), run_dir)
        return train(configuration(data, changes, "cuda", STEPS), run_dir, resume=True)["test"]


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
    """Run all scenarios, and write their events and results."""
    replace_cuda()
    result: dict[str, Any] = {"events": {}, "cpu": {}, "cuda": {}}
    for scenario in SCENARIOS:
        name = scenario.__name__
        data, changes = scenario(folder)
        with without_charts():
            result["cpu"][name] = train_on_cpu(data, changes, folder / f"{name}-cpu")
            with FakeDevice(PHASES) as device:
                result["cuda"][name] = train_on_device(data, changes, folder / f"{name}-cuda")
        result["events"][name] = [asdict(event) for event in device.events]
    for variant in MODELS:
        for precision in PRECISIONS:
            with device_path():
                cpu = train_dense(variant, precision, torch.device("cpu"))
            with FakeDevice({"train_dense.<locals>.dense_step": "step", "backward pass": "step"}) as device:
                cuda = train_dense(variant, precision, DEVICE)
            result["events"][f"{variant} {precision}"] = [asdict(event) for event in device.events]
            for name, outputs in (("cpu", cpu), ("cuda", cuda)):
                result[name][f"{variant} {precision}"] = [output.tolist() for output in outputs]
    result["operations"] = {code: (expected, try_operation(code)) for code, expected in OPERATIONS.items()}
    (folder / "result.json").write_text(json.dumps(result))
