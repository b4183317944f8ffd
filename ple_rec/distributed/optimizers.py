"""Optimizers of a run: one for the embedding tables, one for the dense layers, and their learning-rate schedule.

FBGEMM's kernels update the tables during the backward pass, so their optimizer has no step of its own. The dense layers
are all layers but the tables; a usual PyTorch optimizer updates them after the backward pass.
"""

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
from ple_rec.distributed.gradients import GradientAverage
from ple_rec.distributed.planning_inputs import embedding_collections
from ple_rec.errors import UserError


def attach_table_optimizer(module: nn.Module, config: TableOptimizerConfig, device: torch.device) -> None:
    """Attach to the tables the optimizer that their kernels run in the backward pass. Call this before sharding.

    Args:
        module: Model with unsharded tables.
        config: Configuration of the optimizer of the tables.
        device: Device of the rank.

    Raises:
        UserError: The optimizer is Adam and the device a CPU, or the optimizer's kernel would silently ignore the
            weight decay.
    """
    if config.kind == "adam" and device.type == "cpu":
        raise UserError(
            "table_optimizer.kind",
            'got "adam" on a CPU',
            "FBGEMM's CPU kernels support only sgd, adagrad and rowwise_adagrad",
            'set table_optimizer.kind = "rowwise_adagrad"',
        )
    if config.weight_decay and config.kind != "adam":
        raise UserError(
            "table_optimizer.weight_decay",
            f"got {config.weight_decay} with {config.kind}",
            "of FBGEMM's kernels, only adam applies weight decay; the others would ignore it silently",
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
    for collection in embedding_collections(module).values():
        apply_optimizer_in_backward(classes[config.kind], collection.parameters(), arguments)


class Optimizers:
    """Both optimizers of a sharded model; one schedule scales the learning rates of both.

    Args:
        model: Sharded model, to whose tables `attach_table_optimizer` attached an optimizer before sharding.
        dense: Configuration of the optimizer of the dense parameters.
        tables: Configuration of the optimizer of the tables.
        schedule: Schedule of the factor by which both learning rates are multiplied.
        total_steps: Number of steps of the run; the decay of the factor ends at the last one.
        undecayed: Dense parameters that get no weight decay, whatever `dense.weight_decay` is.

    Attributes:
        dense_parameters: All parameters outside the tables.
        clip_norm: Limit of the norm of the gradients of `dense_parameters`; None for no limit.
        combined: Both optimizers as one, whose state a checkpoint holds.
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
        self._gradient_average = GradientAverage(self.dense_parameters)
        self.clip_norm = dense.clip_norm
        self._base_rates = (dense.learning_rate, tables.learning_rate)
        self._schedule, self._total_steps = schedule, total_steps
        undecayed_ids = {id(parameter) for parameter in undecayed}
        self._dense = KeyedOptimizerWrapper(
            parameters, lambda values: _dense_optimizer(dense, _decay_groups(values, undecayed_ids))
        )
        self._tables = model.fused_optimizer
        self.combined = CombinedOptimizer([self._tables, self._dense])

    @property
    def learning_rate(self) -> float:
        """Current learning rate of the dense parameters."""
        return float(self._dense.param_groups[0]["lr"])

    @property
    def table_learning_rate(self) -> float | None:
        """Current learning rate of the tables; None if the model has no tables."""
        groups = self._tables.param_groups
        return float(groups[0]["lr"]) if groups else None

    def init_state(self) -> None:
        """Create the state of the dense optimizer, so that a checkpoint can be loaded into it.

        Otherwise the first step would create it.
        """
        self._dense.init_state()

    def prepare(self, step: int) -> float:
        """Set the learning rates of a step, clear the gradients and return the schedule's factor.

        Call this method before the backward pass, in which the kernels of the tables read their learning rate.

        Args:
            step: Number of the step, from 0.
        """
        factor = schedule_factor(self._schedule, step, self._total_steps)
        for optimizer, base in ((self._dense, self._base_rates[0]), (self._tables, self._base_rates[1])):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        self.combined.zero_grad()
        return factor

    def average_gradients(self) -> None:
        """Average the gradients of the dense parameters over the ranks (a collective); call it after `backward`.

        The backward pass has averaged those of the tables already.
        """
        self._gradient_average.compute()

    def step(self) -> torch.Tensor:
        """Update the dense parameters, and return the norm of their gradients before clipping.

        The gradients are clipped first if `clip_norm` is not None. The norm is a tensor on the device, so the host does
        not wait for it.
        """
        gradients = [p.grad for p in self.dense_parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.dense_parameters, self.clip_norm, norm)
        self._dense.step()
        return norm


def schedule_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor by which the learning rates of a step are multiplied.

        first `warmup_steps` steps    (step + 1) / (warmup_steps + 1)
        then, with decay "none"       1
        with decay "linear"           1 - (1 - final) p
        with decay "cosine"           final + (1 - final) (1 + cos(pi p)) / 2

    p = (step - warmup_steps) / (total_steps - 1 - warmup_steps) rises from 0 at the first step after the warm-up to 1
    at the last step of the run. There the factor is `final`, unless the decay is "none" or the warm-up leaves no second
    step.

    Args:
        schedule: Schedule with `warmup_steps`, `decay` and `final`.
        step: Number of the step, from 0.
        total_steps: Number of steps of the run.
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


def _decay_groups(parameters: Iterable[torch.Tensor], undecayed_ids: set[int]) -> list[dict[str, Any]]:
    """Return the parameter groups of a PyTorch optimizer: one, or two if some parameters get no weight decay."""
    decayed = [p for p in parameters if id(p) not in undecayed_ids]
    undecayed = [p for p in parameters if id(p) in undecayed_ids]
    return [{"params": decayed}, *([{"params": undecayed, "weight_decay": 0.0}] if undecayed else [])]


def _dense_optimizer(config: DenseOptimizerConfig, parameters: Any) -> torch.optim.Optimizer:
    """Return the configured PyTorch optimizer of the dense parameters."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.kind == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    if config.kind == "adagrad":
        return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
