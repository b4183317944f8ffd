"""The training loop.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ple_rec.checkpoint.store import CheckpointStore, load
from ple_rec.errors import DataError
from ple_rec.models.losses import loss_sums_K, task_weights, total_loss, weight_BK
from ple_rec.train.evaluate import evaluate
from ple_rec.train.guard import StepGuard
from ple_rec.train.job import Job
from ple_rec.train.progress import Progress, Window
from ple_rec.train.run_dir import CHECKPOINTS, LOG


@dataclass
class Position:
    """How far a run is; saved with every checkpoint.

    Args:
        step: Steps done.
        best_score: Of the best evaluation, higher is better.
        best_step: Its step.
        seconds: Time in the loop, evaluations and checkpoints excluded.
    """

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0


def train_steps(job: Job, run_dir: Path, *, resume: bool) -> Position:
    """Train to the last step: report, evaluate, keep checkpoints.

    Args:
        job: The assembled run.
        run_dir: Where `train.jsonl` and the checkpoints go.
        resume: Go on from the latest checkpoint.

    Raises:
        DivergedError: a loss or the dense gradients are not finite.
        DataError: a batch breaks a rule of the dataset.
    """
    config, ranks, device = job.config.train, job.ranks, job.ranks.device
    tasks = job.selection.tasks
    store = CheckpointStore(run_dir / CHECKPOINTS, job.config.checkpoint.keep)
    position = _restore(job, store) if resume else Position()
    guard = StepGuard([task.name for task in tasks], device)
    window = Window(tasks, device)
    progress = Progress(ranks, run_dir / LOG, position.step, job.total_steps)
    job.model.train()
    begun = time.perf_counter()
    try:
        while position.step < job.total_steps:
            epoch, done = divmod(position.step, job.loader.steps)
            batches = job.loader.epoch(epoch, done)
            while position.step < job.total_steps:
                asked = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                waited = time.perf_counter() - asked
                batch = batch.to(device)
                weights_BK = weight_BK(batch.in_space_BK, batch.weight_B)
                local_K = weights_BK.sum(0)
                guard.start(local_K)
                job.optimizers.prepare(position.step)
                logits_BK, _ = job.model(batch)
                sums_K = loss_sums_K(job.losses, logits_BK, batch.labels_BK, weights_BK)
                weights_K = task_weights(job.tasks, epoch if config.weight_schedule == "epoch" else position.step)
                loss = total_loss(sums_K, guard.counts_K(), torch.tensor(weights_K, device=device), ranks.world_size)
                loss.backward()
                norm = job.optimizers.step()
                position.step += 1
                guard.note(position.step, sums_K, norm)
                window.update(batch, logits_BK, sums_K, local_K, waited)
                progress.advance()

                if position.step % config.report_every == 0 or position.step == job.total_steps:
                    guard.settle()
                    now = time.perf_counter()
                    position.seconds, begun = position.seconds + now - begun, now
                    record = _head(job, position, epoch, "train") | window.report(weights_K)
                    record["eta_seconds"] = position.seconds / position.step * (job.total_steps - position.step)
                    progress.record(record)
                evaluating = _due(job, position.step, config.evaluate_every)
                saving = evaluating or _due(job, position.step, job.config.checkpoint.every or job.total_steps)
                if evaluating or saving:
                    paused = time.perf_counter()
                    guard.settle()
                    best = evaluating and _evaluate(job, position, epoch, progress)
                    store.save(position.step, state_dict(job, position), best=best)
                    pause = time.perf_counter() - paused
                    window.paused += pause
                    begun += pause
            batches.close()
    finally:
        progress.close()
    return position


def _due(job: Job, step: int, every: int | None) -> bool:
    return step % (every or job.loader.steps) == 0 or step == job.total_steps


def _head(job: Job, position: Position, epoch: int, split: str) -> dict[str, Any]:
    return {
        "split": split,
        "step": position.step,
        "epoch": epoch,
        "samples": position.step * job.batch_size,
        "seconds": position.seconds,
        "learning_rate": job.optimizers.learning_rate,
        "table_learning_rate": job.optimizers.table_learning_rate,
    }


def _evaluate(job: Job, position: Position, epoch: int, progress: Progress) -> bool:
    """Evaluate on the validation split; whether it is the best so far."""
    batches = job.evaluation_loader("valid").epoch(0)
    exact = job.config.train.exact_auc_limit
    tasks = evaluate(job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=exact)["tasks"]
    weights = task_weights(job.tasks, 0)
    loss = validation_loss(tasks, weights)
    score = best_score(job.config.train.best_metric, tasks, loss)
    best = score > position.best_score
    if best:
        position.best_score, position.best_step = score, position.step
    record = _head(job, position, epoch, "valid") | {"loss": loss, "tasks": tasks, "best": best}
    progress.record(record)
    return best


def validation_loss(tasks: Mapping[str, Mapping[str, Any]], weights: list[float]) -> float:
    """sum_k w_k0 L_k of evaluated tasks, L_k the log loss or the MSE; a task without samples adds 0."""
    losses = [values.get("logloss", values.get("mse")) for values in tasks.values()]
    return float(sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if loss is not None))


def best_score(metric: str, tasks: Mapping[str, Mapping[str, Any]], loss: float) -> float:
    """The score that the best checkpoint maximises; metrics of error count negatively.

    Raises:
        DataError: the metric is undefined on this validation split.
    """
    if metric == "loss":
        return -loss
    task, _, name = metric.rpartition(".")
    values = [v.get(name) for k, v in tasks.items() if task in (k, "mean") and (task != "mean" or name in v)]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        raise DataError(
            "the validation split",
            f"{metric} is undefined there",
            "train.best_metric must be defined; AUC and NE need samples of both classes",
            "use another train.best_metric, such as loss, or a larger validation split",
        )
    mean = float(sum(known)) / len(known)
    return mean if name == "auc" else -mean


def state_dict(job: Job, position: Position) -> dict[str, Any]:
    """All that a resumed run needs to go on as if it had never stopped."""
    return {
        "model": job.model.state_dict(),
        "optimizer": job.optimizers.combined.state_dict(),
        "position": vars(position).copy(),
        f"rng.{job.ranks.rank}": torch.get_rng_state(),
        **({f"cuda_rng.{job.ranks.rank}": torch.cuda.get_rng_state()} if job.ranks.device.type == "cuda" else {}),
    }


def _restore(job: Job, store: CheckpointStore) -> Position:
    path = store.find("latest")
    if path is None:
        return Position()
    job.optimizers.init_state()
    position = Position()
    state = state_dict(job, position)
    load(path, state)
    job.model.load_state_dict(state["model"])
    job.optimizers.combined.load_state_dict(state["optimizer"])
    torch.set_rng_state(state[f"rng.{job.ranks.rank}"])
    if job.ranks.device.type == "cuda":
        torch.cuda.set_rng_state(state[f"cuda_rng.{job.ranks.rank}"])
    return Position(**state["position"])
