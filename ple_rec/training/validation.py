"""Evaluations of the validation split during training: their loss, and which checkpoint is the best."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from ple_rec.config.metrics import is_higher_better
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.models.weighting import task_weights
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import of_rank_0, stopping_metric
from ple_rec.training.evaluate import evaluate
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.preemption import Preemption, StopRequested
from ple_rec.training.state import TrainState


def until_stop(batches: Iterable[Batch], preemption: Preemption, device: torch.device) -> Generator[Batch]:
    """Yield batches until a rank receives a stop signal; every rank then raises at the same batch (a collective).

    Raises:
        StopRequested: a rank received a stop signal.
    """
    guard = NonFiniteGuard((), device)
    for batch in batches:
        if guard.wants_to_stop():
            raise StopRequested
        guard.start(torch.zeros(0, device=device), stop=preemption.received)
        guard.counts_K()  # of no task; completes the all-reduce
        yield batch


def validate(job: TrainContext, valid: Loader, preemption: Preemption) -> dict[str, Any]:
    """Return `loss` and `tasks` of the validation split (a collective).

    Raises:
        StopRequested: a rank received a stop signal.
    """
    exact, device = job.config.train.exact_auc_limit, job.ranks.device
    with closing(valid.epoch(0)) as batches:
        watched = until_stop(job.ranks.watch.each(batches, "an evaluation"), preemption, device)
        tasks = evaluate(job.model, watched, job.selection.tasks, device, exact_limit=exact)["tasks"]
    return {"loss": validation_loss(tasks, task_weights(job.tasks, 0)), "tasks": tasks}


def record_evaluation(job: TrainContext, position: TrainState, evaluation: Mapping[str, Any]) -> tuple[bool, str]:
    """Update the best score and early stopping with one evaluation (a collective).

    A metric may be undefined at an evaluation: AUC where its samples are of one class. Early stopping does not count
    such an evaluation. Until `train.best_metric` has been defined once, the newest checkpoint is the best one.

    Args:
        job: The run.
        position: Progress of the run; its best score and early-stopping count are updated.
        evaluation: `loss` and `tasks` of the validation split.

    Returns:
        Flag, equal on all ranks, whether this step is the best so far; and a note for the log line.
    """
    metric, stopping = job.config.train.best_metric, stopping_metric(job.config)
    scores = {name: _score_of_rank_0(job, name, evaluation) for name in {metric, stopping or metric}}
    score = scores[metric]
    never_defined = position.best_score == -math.inf
    best = never_defined if score is None else score > position.best_score
    if best:
        position.best_step = position.step
    if best and score is not None:
        position.best_score = score
    early = job.config.early_stopping
    if early is not None and stopping is not None and position.stopping is not None:
        stopping_score = scores[stopping]
        if stopping_score is not None:
            position.stopping.judge(stopping_score, position.step, early.min_delta)
    notes = [f"best {metric} {abs(score):.4f}"] if best and score is not None else []
    for name in sorted(name for name, value in scores.items() if value is None):
        kept = "the newest checkpoint counts as the best" if never_defined else "the best checkpoint stays"
        effect = kept if name == metric else "early stopping does not count this evaluation"
        notes.append(f"warning: {name} is undefined on the validation split (one class?); {effect}")
    return best, "  ".join(notes)


def _score_of_rank_0(job: TrainContext, metric: str, evaluation: Mapping[str, Any]) -> float | None:
    """Return rank 0's score; ranks may differ in its last bit, but agree on whether it is undefined."""
    score = best_score(metric, evaluation["tasks"], evaluation["loss"])
    return None if score is None else of_rank_0(score, job.ranks.device)


def validation_loss(tasks: Mapping[str, Mapping[str, Any]], weights: list[float]) -> float:
    """Return sum_k w_k0 L_k, L_k being the log loss or the MSE of a task; a task without samples adds 0."""
    losses = [values.get("logloss", values.get("mse")) for values in tasks.values()]
    return float(sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if loss is not None))


def best_score(metric: str, tasks: Mapping[str, Mapping[str, Any]], loss: float) -> float | None:
    """Return the score that the best checkpoint maximises, None where the metric is undefined.

    Args:
        metric: `loss`, `TASK.METRIC` or `mean.METRIC`; metrics of error count negatively.
        tasks: Metrics of every task, from an evaluation.
        loss: Validation loss of the same evaluation.
    """
    if metric == "loss":
        return -loss
    task, _, name = metric.rpartition(".")
    values = [v.get(name) for k, v in tasks.items() if task in (k, "mean") and (task != "mean" or name in v)]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    mean = float(sum(known)) / len(known)
    return mean if is_higher_better(name) else -mean


def no_better_than_start(metric: str, records: Sequence[Mapping[str, Any]], position: TrainState) -> str:
    """Return the warning of a run whose best evaluation is no better than the weights it started from; empty if it is.

    Args:
        metric: `train.best_metric`.
        records: Records of `train.jsonl`; that of step 0 is the evaluation of weights of another run.
        position: Progress of the run at its end.
    """
    start = next((record for record in records if record["step"] == 0 and record["split"] == "valid"), None)
    score = None if start is None else best_score(metric, start["tasks"], start["loss"])
    if score is None or not -math.inf < position.best_score <= score:
        return ""
    return (
        f"warning: no evaluation was better than the weights this run started from: {metric} {abs(score):.4f} there, "
        f"{abs(position.best_score):.4f} at best (step {position.best_step}). Fix: keep the run it started from, or "
        "train with lower learning rates"
    )
