"""The training loop.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.distributed.collectives import PeerError
from ple_rec.distributed.process_group import AFTER_WATCH_SECONDS
from ple_rec.errors import UserError
from ple_rec.models.losses import StepLoss, weight_BK
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.weighting import task_weights
from ple_rec.runs.checkpoints import CheckpointTimer, checkpoint_place
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import INIT, LOG, SAVED
from ple_rec.training.batch_feeder import make_pipeline
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import describe_stop
from ple_rec.training.finite import check_finite
from ple_rec.training.loggers import Loggers
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.preemption import Preemption, StopRequested, preempted
from ple_rec.training.profiler.regions import OFF, Regions
from ple_rec.training.profiler.session import UNPROFILED, Unprofiled
from ple_rec.training.progress import Progress, Window
from ple_rec.training.restore import restore, state_dict, texts, written_by
from ple_rec.training.state import TrainState, initial_state
from ple_rec.training.validation import record_evaluation, validate
from ple_rec.training.warm_start import Start, load_start

logger = logging.getLogger(__name__)

Measure = Callable[[TrainContext], Mapping[str, Any]]


def nothing(job: TrainContext) -> Mapping[str, Any]:
    """A `Measure` of nothing."""
    return {}


def train_steps(
    job: TrainContext,
    run: RunDirectory,
    *,
    resume: bool,
    loggers: Loggers | None = None,
    start: Start | None = None,
    profile: Unprofiled = UNPROFILED,
    measure: Measure = nothing,
    preemption: Preemption | None = None,
) -> TrainState:
    """Train to the last step, or until `early_stopping` ends it: report, evaluate, keep checkpoints.

    Args:
        job: The assembled run.
        run: Directory of the run.
        resume: Go on from the latest checkpoint.
        loggers: Hear of every record.
        start: Where the first weights come from, unless the run goes on from a checkpoint of its own. They are
            evaluated before the first step, which sets no best score.
        profile: Hears of the steps.
        measure: Called at every evaluation; what it gives stands in the record of it.
        preemption: Stop signals, where the caller hears them after the last step too; None: they are heard until then.

    Raises:
        DivergedError: a loss or the dense gradients are not finite.
        DataError: a batch breaks a rule of the dataset.
        UserError: no room on the disk, a split with fewer row groups than ranks, a checkpoint of other steps, or too
            few steps for a profile.
        PreemptedError: a rank received a stop signal. The last finished step is saved if `checkpoint.grace_seconds`
            leaves time for it.
    """
    config, device, tasks = job.config.train, job.ranks.device, job.selection.tasks
    # What a split refuses, it refuses now.
    valid, *_ = [job.evaluation_loader(split) for split in job.config.evaluation.splits]
    kept, watch = job.config.checkpoint, job.ranks.watch
    store = CheckpointStore(
        checkpoint_place(job.config, run.address),
        kept.keep,
        keep_every=kept.keep_every,
        asynchronous=kept.asynchronous,
        wrote=watch.touch,
        check=run.check,
        committing=run.push,
        committed=partial(run.write_bytes, SAVED, b""),
        timeout_seconds=job.config.runtime.timeout_seconds + AFTER_WATCH_SECONDS,
    )
    path = store.newest_good() if resume else None
    if resume and job.ranks.is_main:
        logger.info("no checkpoint yet: starts from the beginning" if path is None else f"goes on from {path}")
    window = Window(tasks, device)
    position = initial_state(job) if path is None else restore(job, path, window)
    store.saved_step = None if path is None else position.step
    if job.ranks.is_main and position.step > job.total_steps:
        logger.info(
            f"{position.step} steps are done, more than the {job.total_steps} of this configuration: none is left"
        )
    if path is not None and position.best_step and store.mend_best(position.step):
        position.best_step, position.best_score = position.step, -math.inf
    if path is None and start is not None:
        load_start(job, start)
        if job.ranks.is_main:
            logger.info(f"starts from {start.path}, trained on dataset {start.dataset[:12]}")
    guard = NonFiniteGuard([task.name for task in tasks], device)
    save = partial(save_checkpoint, job, store, position, window, start)
    pipeline = make_pipeline(config.pipeline, job.model, job.ranks, profile.regions)
    job.model.train()
    progress = Progress(
        job.ranks,
        run.folder / LOG,
        position.step,
        job.total_steps,
        loggers,
        evaluated=not position.evaluation_pending,
    )
    hearing = Preemption(kept.grace_seconds) if preemption is None else nullcontext(preemption)
    with (
        closing(progress),
        hearing as preemption,
        closing(store),
        closing(profile),
        _save_on_stop(job, store, position, guard, save, preemption, str(run)),
    ):
        if path is None and start is not None:
            evaluation = validate(job, valid, preemption)
            progress.record(_head(job, position, "valid") | evaluation | {"best": False})
        if position.evaluation_pending:
            job.optimizers.prepare(position.step - 1)  # the record names the learning rates of its step
            if _evaluate(job, valid, position, preemption, progress, measure):
                store.mark_best(position.step)
        profile.begin(position.step, job.total_steps - position.step, partial(_saves, job))
        window.begun = begun = time.perf_counter()
        pace_step = position.step
        timer = CheckpointTimer(kept.every_minutes)
        while not _over(job, position):
            epoch, done = divmod(position.step, job.loader.steps)
            with closing(job.loader.epoch(epoch, done)) as batches:
                count = min(job.loader.steps - done, job.total_steps - position.step)
                pipeline.begin(batches, count)
                for _ in range(count):
                    if guard.wants_to_stop():
                        position.seconds += time.perf_counter() - begun
                        raise StopRequested
                    planned = _saves(job, position.step + 1)
                    saving = guard.take_save_request() or planned
                    batch, waited = pipeline.next(position.step + 1, pause=saving)
                    t = epoch if config.weight_schedule == "epoch" else position.step
                    weights_K = task_weights(job.tasks, t)
                    done_step = train_step(
                        job,
                        guard,
                        batch,
                        position.step,
                        weights_K,
                        stop=preemption.received,
                        save=job.ranks.is_main and timer.is_due() and not saving and not store.writing,
                        forward=pipeline.forward,
                        regions=profile.regions,
                    )
                    position.step += 1
                    with profile.regions("metrics"):
                        window.update(batch, *done_step, waited)
                    progress.advance()

                    # A planned checkpoint ends a reporting window, so a resumed run reports exactly as an uninterrupted
                    # one. A timed checkpoint does not end the window; the unreported sums are saved in it.
                    reporting = planned or position.step % config.report_every == 0
                    if saving or reporting:
                        with profile.regions("logging"):
                            guard.synchronize()
                            now = time.perf_counter()
                            pace = (now - begun) / (position.step - pace_step)  # the first steps are slower
                            position.seconds, begun, pace_step = position.seconds + now - begun, now, position.step
                            if reporting:
                                record = _head(job, position, "train") | window.report(job.bare, weights_K)
                                record["eta_seconds"] = pace * (job.total_steps - position.step)
                                progress.record(record)
                    spent = profile.step(batch)
                    if saving:
                        before = time.perf_counter()
                        with profile.regions.paused():
                            check_finite(job, position.step)
                            best = _due(job, position.step, config.evaluate_every) and _evaluate(
                                job, valid, position, preemption, progress, measure
                            )
                            save(best=best)
                        timer.restart()
                        spent += time.perf_counter() - before
                    begun, window.begun = begun + spent, window.begun + spent
                    if _over(job, position):
                        break
        watch.mark(f"the end of the save of step {position.step}")
        store.wait()
        watch.rest()  # what follows has no steps, and may read for long
        if store.saves:
            progress.say(describe_saves(store))
        if position.stopping is not None and position.step < job.total_steps:
            progress.say(describe_stop(job.config, position.stopping, position.step))
    return position


def save_checkpoint(
    job: TrainContext,
    store: CheckpointStore,
    position: TrainState,
    window: Window,
    start: Start | None = None,
    *,
    best: bool,
) -> None:
    """Save the run as it stands, and where it started (a collective); raises as `CheckpointStore.save` does."""
    job.ranks.watch.mark(f"the save of step {position.step}")
    state = state_dict(job, position, window)
    written = written_by(job, position, window)
    files = texts(job) | ({} if start is None else {INIT: json.dumps(vars(start), indent=1)})
    store.save(position.step, state, best=best, written_by=written, texts=files)


def describe_saves(store: CheckpointStore) -> str:
    """What the checkpoints of this process took: for how long training stood still, and how long their writing took."""
    blocked = f"{store.saves} checkpoint(s): training stood still for {store.blocked_seconds / store.saves:.2f} s each"
    if not store.asynchronous:
        return blocked
    return f"{blocked}, and went on beside {store.total_seconds / store.saves:.2f} s of writing"


@contextmanager
def _save_on_stop(
    job: TrainContext,
    store: CheckpointStore,
    position: TrainState,
    guard: NonFiniteGuard,
    save: Callable[..., None],
    preemption: Preemption,
    place: str,
) -> Iterator[None]:
    """Save the last step if the body raises `StopRequested`, where a save fits the grace as far as the last one tells.

    Raises:
        PreemptedError: in place of `StopRequested`; it says where the run stands.
        DivergedError: in place of both, where the last step was not finite.
    """
    try:
        yield
    except StopRequested:
        pass
    else:
        return
    try:
        store.wait()  # for one that goes on; it is a checkpoint that we shall need
    except (UserError, PeerError) as error:
        if job.ranks.is_main:
            logger.info(f"the save before failed: {error}")
    last = store.seconds
    left = torch.tensor(preemption.seconds_left(), dtype=torch.float64, device=job.ranks.device)
    dist.all_reduce(left, dist.ReduceOp.MIN)  # all ranks save, or none
    fits = last is None or last < left.item()
    if fits and position.step and store.saved_step != position.step:
        guard.synchronize()
        check_finite(job, position.step)
        save(best=False)
        store.wait()
    newest = store.latest()
    why_not = "" if fits else f"too late to save it: a save took {last:.1f} s, and {left.item():.1f} s are left"
    raise preempted(place, position.step, job.total_steps, newest.name if newest else None, why_not)


def train_step(
    job: TrainContext,
    guard: NonFiniteGuard,
    batch: Batch,
    step: int,
    weights_K: Sequence[float],
    *,
    stop: bool = False,
    save: bool = False,
    forward: Callable[[Batch, StepLoss], tuple[Tensor, Tensor]] | None = None,
    regions: Regions = OFF,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the optimizers (a collective).

    Args:
        job: The run.
        guard: Of the run; hears of the step.
        batch: This rank's part, on its device.
        step: Steps done before it.
        weights_K: w_k(t).
        stop: Stop request of this rank.
        save: Save request of this rank.
        forward: Of the model, by a pipeline that does more beside it; None: the model's own.
        regions: Hear where the time goes.

    Returns:
        logits_BK, this rank's loss sums_K and its counts_K.

    Raises:
        DivergedError: an earlier step was not finite.
    """
    device = job.ranks.device
    weights_BK = weight_BK(batch.in_space_BK, batch.weight_B)
    local_K = weights_BK.sum(0)
    guard.start(local_K, stop=stop, save=save)
    job.optimizers.prepare(step)
    # Pinned: a copy from other memory would make the host wait for the device.
    scheduled_K = torch.tensor(weights_K, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    counts = cache(guard.counts_K)  # waits for all ranks, so as late as may be

    def factors() -> Tensor:
        return loss_factors_K(job.bare, counts(), scheduled_K, job.ranks.world_size)

    with regions("dense forward"):  # but for what opens regions of its own within: the tables, a pipeline
        loss = StepLoss(job.losses, batch.labels_BK, weights_BK, factors)
        logits_BK, sums_K = (forward or job.model)(batch, loss)
    regions.move("dense forward", "dense backward", loss.backward_seconds)
    total = objective(job.bare, sums_K, counts(), scheduled_K, job.ranks.world_size)
    with regions("dense backward"):
        total.backward()
    with regions("optimizers"):
        gradient_norm = job.optimizers.step()
    guard.record(step + 1, sums_K, gradient_norm)
    return logits_BK, sums_K, local_K


def _over(job: TrainContext, position: TrainState) -> bool:
    early = job.config.early_stopping
    stopped = early is not None and position.stopping is not None and position.stopping.over(early)
    return stopped or position.step >= job.total_steps


def _due(job: TrainContext, step: int, every: int | None) -> bool:
    return step % (every or job.loader.steps) == 0 or step == job.total_steps


def _saves(job: TrainContext, step: int) -> bool:
    """Whether the step is followed by a checkpoint, after an evaluation or without one."""
    config = job.config
    return _due(job, step, config.train.evaluate_every) or _due(job, step, config.checkpoint.every or job.total_steps)


def _evaluate(
    job: TrainContext, valid: Loader, position: TrainState, preemption: Preemption, progress: Progress, measure: Measure
) -> bool:
    """Evaluate on the validation split; return whether this step has the best weights so far (a collective).

    Raises:
        StopRequested: a rank received a stop signal; the evaluation stays pending.
    """
    position.evaluation_pending = True
    evaluation = validate(job, valid, preemption)
    best, note = record_evaluation(job, position, evaluation)
    progress.record(_head(job, position, "valid") | evaluation | {"best": best, **measure(job)}, note)
    position.evaluation_pending = False
    return best


def _head(job: TrainContext, position: TrainState, split: str) -> dict[str, Any]:
    return {
        "split": split,
        "step": position.step,
        "total_steps": job.total_steps,
        "epoch": max(0, position.step - 1) // job.loader.steps,
        "samples": round(position.step * job.loader.rows / job.loader.steps),
        "seconds": position.seconds,
        "learning_rate": job.optimizers.learning_rate,
        "table_learning_rate": job.optimizers.table_learning_rate,
    }
