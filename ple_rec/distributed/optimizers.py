"""Optimizers: one fused into backward for the tables, one for everything else, and their common schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torchrec.optim as table_optimizers
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ple_rec.config.run import DenseOptimizerConfig, ScheduleConfig, TableOptimizerConfig
from ple_rec.distributed.planner import collections
from ple_rec.errors import UserError


def attach_table_optimizer(module: nn.Module, config: TableOptimizerConfig, device: torch.device) -> None:
    """Say, before sharding, which optimizer the tables' kernels run inside backward.

    Raises:
        UserError: Adam on a CPU, or a weight decay that the kernel would silently leave out.
    """
    if config.kind == "adam" and device.type == "cpu":
        raise UserError(
            "table_optimizer.kind",
            'got "adam" on a CPU',
            "FBGEMM's CPU kernels know sgd, adagrad and rowwise_adagrad",
            'set table_optimizer.kind = "rowwise_adagrad"',
        )
    if config.weight_decay and config.kind != "adam":
        raise UserError(
            "table_optimizer.weight_decay",
            f"got {config.weight_decay} with {config.kind}",
            "of FBGEMM's kernels that of adam applies it; the others would leave it out without a word",
            "set table_optimizer.weight_decay = 0",
        )
    classes = {
        "rowwise_adagrad": table_optimizers.RowWiseAdagrad,
        "adagrad": table_optimizers.Adagrad,
        "sgd": table_optimizers.SGD,
        "adam": table_optimizers.Adam,
    }
    arguments: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.kind != "sgd":
        arguments["eps"] = config.eps
    for collection in collections(module).values():
        apply_optimizer_in_backward(classes[config.kind], collection.parameters(), arguments)


class Optimizers:
    """Both optimizers of a sharded model under one learning-rate factor.

    Args:
        model: Sharded, with the tables' optimizer attached before.
        dense: Of the dense parameters.
        tables: Of the tables.
        schedule: The factor over steps.
        total_steps: The last step, where the decay ends.
        undecayed: Dense parameters that `dense.weight_decay` leaves alone.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        dense: DenseOptimizerConfig,
        tables: TableOptimizerConfig,
        schedule: ScheduleConfig,
        total_steps: int,
        undecayed: Iterable[nn.Parameter] = (),
    ) -> None:
        parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
        self.dense_parameters = list(parameters.values())
        self.clip_norm = dense.clip_norm
        self._base = (dense.learning_rate, tables.learning_rate)
        self._schedule, self._total_steps = schedule, total_steps
        spared = {id(parameter) for parameter in undecayed}
        self._dense = KeyedOptimizerWrapper(
            parameters, lambda values: _dense_optimizer(dense, _decay_groups(values, spared))
        )
        self._tables = model.fused_optimizer
        self.combined = CombinedOptimizer([self._tables, self._dense])

    @property
    def learning_rate(self) -> float:
        """Of the dense parameters, now."""
        return float(self._dense.param_groups[0]["lr"])

    @property
    def table_learning_rate(self) -> float | None:
        """Of the tables, now; None without tables."""
        groups = self._tables.param_groups
        return float(groups[0]["lr"]) if groups else None

    def init_state(self) -> None:
        """Make the dense optimizer's lazy state, so that a checkpoint can be loaded into it."""
        self._dense.init_state()

    def prepare(self, step: int) -> float:
        """Set the learning rates of step `step` (from 0) and clear the gradients; returns the schedule's factor.

        The tables' kernel reads its rate inside backward, so this comes before it.
        """
        factor = schedule_factor(self._schedule, step, self._total_steps)
        for optimizer, base in ((self._dense, self._base[0]), (self._tables, self._base[1])):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        self.combined.zero_grad()
        return factor

    def step(self) -> torch.Tensor:
        """Clip and apply the dense gradients; returns their norm before clipping (no host sync)."""
        gradients = [p.grad for p in self.dense_parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.dense_parameters, self.clip_norm, norm)
        self._dense.step()
        return norm


def schedule_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Factor of the learning rates at `step` (from 0).

    warm-up: (step + 1) / (warmup_steps + 1)
    linear:  1 - (1 - final) p,   cosine: final + (1 - final) (1 + cos(pi p)) / 2,   p the share of steps since
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    progress = (step - schedule.warmup_steps) / max(1, total_steps - 1 - schedule.warmup_steps)
    progress = min(1.0, progress)
    if schedule.decay == "linear":
        return 1 - (1 - schedule.final) * progress
    if schedule.decay == "cosine":
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    return 1.0


def _decay_groups(parameters: Iterable[torch.Tensor], spared: set[int]) -> list[dict[str, Any]]:
    """Parameters as one group, or two where some are spared the weight decay."""
    decayed = [p for p in parameters if id(p) not in spared]
    others = [p for p in parameters if id(p) in spared]
    return [{"params": decayed}, *([{"params": others, "weight_decay": 0.0}] if others else [])]


def _dense_optimizer(config: DenseOptimizerConfig, parameters: Any) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.kind == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    if config.kind == "adagrad":
        return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
