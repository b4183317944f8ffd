"""Evaluations of the validation split during training, and the choice of the best checkpoint.

The training loop calls `validate` for the metrics, and `record_evaluation` to compare them with the best ones so far.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from typing import Any

import torch

from ple_rec.config.metrics import is_higher_better
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.models.weighting import task_weights
from ple_rec.runs.log import RunLog
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import broadcast_score, stopping_metric
from ple_rec.training.evaluate import evaluate
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.preemption import Preemption, StopRequested
from ple_rec.training.state import TrainState


def batches_until_stop(batches: Iterable[Batch], preemption: Preemption, device: torch.device) -> Generator[Batch]:
    """Yield batches until a rank receives a stop signal; every rank then raises at the same batch (a collective).

    Args:
        batches: Batches; every rank has the same number.
        preemption: Receiver of the stop signals of this rank.
        device: Device of the model.

    Raises:
        StopRequested: A rank received a stop signal.
    """
    guard = NonFiniteGuard((), device)
    for batch in batches:
        if guard.wants_to_stop():
            raise StopRequested
        guard.start(torch.zeros(0, device=device), stop=preemption.is_stop_requested)
        # There are no counts here; the call waits for the all-reduce of the stop signals.
        guard.counts_K()
        yield batch


def validate(context: TrainContext, valid: Loader, preemption: Preemption) -> dict[str, Any]:
    """Evaluate the validation split, and return `loss` and `tasks`, the metrics by task (a collective).

    Args:
        context: Context of the run.
        valid: Batches of the validation split.
        preemption: Receiver of the stop signals of this rank.

    Raises:
        StopRequested: A rank received a stop signal.
    """
    exact, device = context.config.train.exact_auc_limit, context.ranks.device
    with closing(valid.epoch(0)) as batches:
        stoppable = batches_until_stop(context.ranks.watch.mark_each(batches, "an evaluation"), preemption, device)
        tasks = evaluate(context.model, stoppable, context.selection.tasks, device, exact_limit=exact)["tasks"]
    return {"loss": validation_loss(tasks, task_weights(context.tasks, 0)), "tasks": tasks}


def record_evaluation(context: TrainContext, state: TrainState, evaluation: Mapping[str, Any]) -> tuple[bool, str]:
    """Update the best score and early stopping with one evaluation (a collective).

    A metric may be undefined at an evaluation, for example AUC if all samples are of one class. Early stopping does not
    count such an evaluation. Until `train.best_metric` has been defined once, the newest checkpoint is the best one.

    Args:
        context: Context of the run.
        state: Progress of the run; its best score and early-stopping count are updated.
        evaluation: Entries `loss` and `tasks` of the validation split.

    Returns:
        True if this step is the best so far, equal on all ranks; and a note for the line of the log, or an empty text.
    """
    metric, stopping = context.config.train.best_metric, stopping_metric(context.config)
    scores = {name: _score_of_rank_0(context, name, evaluation) for name in {metric, stopping or metric}}
    score = scores[metric]
    never_defined = state.best_score == -math.inf
    best = never_defined if score is None else score > state.best_score
    if best:
        state.best_step = state.step
    if best and score is not None:
        state.best_score = score
    early = context.config.early_stopping
    if early is not None and stopping is not None and state.stopping is not None:
        stopping_score = scores[stopping]
        if stopping_score is not None:
            state.stopping.update(stopping_score, state.step, early.min_delta)
    notes = [f"best {metric} {abs(score):.4f}"] if best and score is not None else []
    for name in sorted(name for name, value in scores.items() if value is None):
        on_best = "the newest checkpoint counts as the best" if never_defined else "the best checkpoint stays"
        effect = on_best if name == metric else "early stopping does not count this evaluation"
        notes.append(f"warning: {name} is undefined on the validation split (one class?); {effect}")
    return best, "  ".join(notes)


def _score_of_rank_0(context: TrainContext, metric: str, evaluation: Mapping[str, Any]) -> float | None:
    """Return rank 0's score; ranks may differ in its last bit, but agree on whether it is undefined."""
    score = checkpoint_score(metric, evaluation["tasks"], evaluation["loss"])
    return None if score is None else broadcast_score(score, context.ranks.device)


def validation_loss(tasks: Mapping[str, Mapping[str, Any]], weights: list[float]) -> float:
    """Return sum_k w_k L_k, where L_k is the log loss or the MSE of task k; a task without samples adds 0.

    Args:
        tasks: Metrics of every task, from an evaluation.
        weights: Weight w_k of each task at the first step.
    """
    losses = [values.get("logloss", values.get("mse")) for values in tasks.values()]
    return float(sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if loss is not None))


def checkpoint_score(metric: str, tasks: Mapping[str, Mapping[str, Any]], loss: float) -> float | None:
    """Return the score that the best checkpoint maximises; None if the metric is undefined for one of its tasks.

    Args:
        metric: `loss`, `TASK.METRIC` or `mean.METRIC`, the mean over the tasks that have the metric. The score is the
            negative value if lower is better.
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


def warm_start_warning(metric: str, log: RunLog, state: TrainState) -> str:
    """Return a warning if no evaluation was better than that of the weights of a warm start; else an empty text.

    Args:
        metric: `train.best_metric`, for example `ctr.auc`.
        log: Log of the run; its evaluation at step 0, if any, is that of the warm start's weights.
        state: Progress of the run at its end.
    """
    start = next((record for record in log.splits.get("valid", []) if record["step"] == 0), None)
    score = None if start is None else checkpoint_score(metric, start["tasks"], start["loss"])
    if score is None or not -math.inf < state.best_score <= score:
        return ""
    return (
        f"warning: no evaluation was better than the weights this run started from: {metric} {abs(score):.4f} there, "
        f"{abs(state.best_score):.4f} at best (step {state.best_step}). Fix: keep the run it started from, or "
        "train with lower learning rates"
    )
