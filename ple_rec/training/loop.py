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
from ple_rec.distributed.collectives import PeerError
from ple_rec.distributed.process_group import AFTER_WATCH_SECONDS
from ple_rec.errors import UserError
from ple_rec.models.losses import StepLoss, weight_BK
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.weighting import task_weights
from ple_rec.runs.checkpoints import CheckpointTimer, checkpoint_place
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import INIT, LOG, SAVED
from ple_rec.storage import Location
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

ExtraMetrics = Callable[[TrainContext], Mapping[str, Any]]  # measures more at every evaluation, for its record


class LoopClock:
    """Seconds that the loop takes, without evaluations and checkpoints, and its pace.

    Args:
        step: Steps that are done when it starts.
    """

    def __init__(self, step: int) -> None:
        self._begun, self._step = time.perf_counter(), step

    def lap(self, step: int) -> tuple[float, float]:
        """Return the seconds since the last lap, and the seconds of each of its steps; a new lap begins."""
        now = time.perf_counter()
        seconds, pace = now - self._begun, (now - self._begun) / max(1, step - self._step)
        self._begun, self._step = now, step
        return seconds, pace

    def exclude(self, seconds: float) -> None:
        """Leave the last seconds out of the lap."""
        self._begun += seconds


class Trainer:
    """A training from its first step to its last: it reports, evaluates, keeps checkpoints, and stops when asked to.

    Arguments and errors are those of `train_steps`.

    Attributes:
        state: Progress of the run.
    """

    def __init__(
        self,
        job: TrainContext,
        run: RunDirectory,
        *,
        resume: bool,
        loggers: Loggers | None,
        start: Start | None,
        profile: Unprofiled,
        extra_metrics: ExtraMetrics | None,
        preemption: Preemption | None,
    ) -> None:
        self._job, self._run, self._start, self._profile = job, run, start, profile
        self._extra_metrics = extra_metrics
        # A split with too few row groups is refused now, before anything is trained.
        self._valid, *_ = [job.evaluation_loader(split) for split in job.config.evaluation.splits]
        self._store = checkpoint_store(job, run)
        self._window = Window(job.selection.tasks, job.ranks.device)
        path = self._store.newest_good() if resume else None
        if resume:
            self._say("no checkpoint yet: starts from the beginning" if path is None else f"goes on from {path}")
        self._begins_from = start if path is None else None
        self.state = initial_state(job) if path is None else self._restore(path)
        if self._begins_from is not None:
            load_start(job, self._begins_from)
            self._say(f"starts from {self._begins_from.path}, trained on dataset {self._begins_from.dataset[:12]}")
        self._guard = NonFiniteGuard([task.name for task in job.selection.tasks], job.ranks.device)
        self._feeder = make_pipeline(job.config.train.pipeline, job.model, job.ranks, profile.regions)
        job.model.train()
        evaluated = not self.state.evaluation_pending
        log, step = run.folder / LOG, self.state.step
        self._progress = Progress(job.ranks, log, step, job.total_steps, loggers, evaluated=evaluated)
        receives = Preemption(job.config.checkpoint.grace_seconds) if preemption is None else nullcontext(preemption)
        self._preemption_context = receives

    def run(self) -> TrainState:
        """Train to the last step, or until early stopping, and return where the run stands."""
        with (
            closing(self._progress),
            self._preemption_context as self._preemption,
            closing(self._store),
            closing(self._profile),
            self._saved_on_stop(),
        ):
            self._evaluate_before_first_step()
            self._begin()
            while not self._is_over():
                self._train_epoch()
            self._end()
        return self.state

    def _restore(self, path: Location) -> TrainState:
        """Go on from a checkpoint."""
        state = restore(self._job, path, self._window)
        self._store.saved_step = state.step
        if state.step > self._job.total_steps:
            done = f"{state.step} steps are done, more than the {self._job.total_steps} of this configuration"
            self._say(f"{done}: none is left")
        if state.best_step and self._store.mend_best(state.step):
            state.best_step, state.best_score = state.step, -math.inf
        return state

    def _evaluate_before_first_step(self) -> None:
        """Evaluate the weights of another run that this one begins from, or what a stop signal has left to do."""
        if self._begins_from is not None:
            evaluation = validate(self._job, self._valid, self._preemption)
            self._progress.record(self._head("valid") | evaluation | {"best": False})
        if self.state.evaluation_pending:
            self._job.optimizers.prepare(self.state.step - 1)  # The record names the learning rates of its step.
            if self._evaluate():
                self._store.mark_best(self.state.step)

    def _begin(self) -> None:
        self._profile.begin(self.state.step, self._job.total_steps - self.state.step, self._saves_after)
        self._clock = LoopClock(self.state.step)
        self._window.begun = time.perf_counter()
        self._timer = CheckpointTimer(self._job.config.checkpoint.every_minutes)

    def _train_epoch(self) -> None:
        """Train to the end of the epoch, or of the run."""
        loader = self._job.loader
        epoch, done = divmod(self.state.step, loader.steps)
        with closing(loader.epoch(epoch, done)) as batches:
            count = min(loader.steps - done, self._job.total_steps - self.state.step)
            self._feeder.begin(batches, count)
            for _ in range(count):
                self._step(epoch)
                if self._is_over():
                    return

    def _step(self, epoch: int) -> None:
        """Train one step; report, evaluate and save where that is due."""
        job, state, regions = self._job, self.state, self._profile.regions
        if self._guard.wants_to_stop():
            state.seconds += self._clock.lap(state.step)[0]
            raise StopRequested
        planned = self._saves_after(state.step + 1)
        saving = self._guard.take_save_request() or planned
        batch, waited = self._feeder.next(state.step + 1, pause=saving)
        weights_K = task_weights(job.tasks, epoch if job.config.train.weight_schedule == "epoch" else state.step)
        done = train_step(
            job,
            self._guard,
            batch,
            state.step,
            weights_K,
            stop=self._preemption.received,
            save=job.ranks.is_main and self._timer.is_due() and not saving and not self._store.writing,
            forward=self._feeder.forward,
            regions=regions,
        )
        state.step += 1
        with regions("metrics"):
            self._window.update(batch, *done, waited)
        self._progress.advance()
        # A planned checkpoint ends a reporting window, so a resumed run reports exactly as an uninterrupted one. A
        # timed checkpoint does not end the window: its unreported sums are saved with it.
        reporting = planned or state.step % job.config.train.report_every == 0
        if saving or reporting:
            with regions("logging"):
                self._report(weights_K, record=reporting)
        spent = self._profile.step(batch)
        if saving:
            with regions.paused():
                spent += self._evaluate_and_save()
        self._clock.exclude(spent)
        self._window.begun += spent

    def _report(self, weights_K: Sequence[float], *, record: bool) -> None:
        """Wait until the last step is known to be finite; record the steps since the last report if wanted."""
        self._guard.synchronize()
        seconds, pace = self._clock.lap(self.state.step)
        self.state.seconds += seconds
        if record:
            head = self._head("train") | self._window.report(self._job.bare, weights_K)
            self._progress.record(head | {"eta_seconds": pace * (self._job.total_steps - self.state.step)})

    def _evaluate_and_save(self) -> float:
        """Save a checkpoint, after an evaluation if one is due, and return the seconds that this took."""
        before = time.perf_counter()
        check_finite(self._job, self.state.step)
        self._save(best=self._is_due(self.state.step, self._job.config.train.evaluate_every) and self._evaluate())
        self._timer.restart()
        return time.perf_counter() - before

    def _evaluate(self) -> bool:
        """Evaluate on the validation split; return True if this step has the best weights so far (a collective).

        Raises:
            StopRequested: a rank received a stop signal; the evaluation stays pending.
        """
        self.state.evaluation_pending = True
        evaluation = validate(self._job, self._valid, self._preemption)
        best, note = record_evaluation(self._job, self.state, evaluation)
        extra = {} if self._extra_metrics is None else self._extra_metrics(self._job)
        self._progress.record(self._head("valid") | evaluation | {"best": best, **extra}, note)
        self.state.evaluation_pending = False
        return best

    def _save(self, *, best: bool) -> None:
        save_checkpoint(self._job, self._store, self.state, self._window, self._start, best=best)

    def _end(self) -> None:
        """Wait for the last save, and say how the loop went."""
        watch, state = self._job.ranks.watch, self.state
        watch.mark(f"the end of the save of step {state.step}")
        self._store.wait()
        watch.rest()  # Behind the loop there are no steps, and reading may take long.
        if self._store.saves:
            self._progress.say(describe_saves(self._store))
        if state.stopping is not None and state.step < self._job.total_steps:
            self._progress.say(describe_stop(self._job.config, state.stopping, state.step))

    @contextmanager
    def _saved_on_stop(self) -> Iterator[None]:
        """Save the last step if the block raises `StopRequested` and the grace period is long enough, by the last save.

        Raises:
            PreemptedError: instead of `StopRequested`; it says where the run stands.
            DivergedError: instead of both, if the last step was not finite.
        """
        try:
            yield
        except StopRequested:
            pass
        else:
            return
        store, step = self._store, self.state.step
        try:
            store.wait()  # A save that goes on becomes a checkpoint that we shall need.
        except (UserError, PeerError) as error:
            self._say(f"the save before failed: {error}")
        last = store.seconds
        left = torch.tensor(self._preemption.seconds_left(), dtype=torch.float64, device=self._job.ranks.device)
        dist.all_reduce(left, dist.ReduceOp.MIN)  # All ranks save, or none does.
        fits = last is None or last < left.item()
        if fits and step and store.saved_step != step:
            self._guard.synchronize()
            check_finite(self._job, step)
            self._save(best=False)
            store.wait()
        newest = store.latest()
        why_not = "" if fits else f"too late to save it: a save took {last:.1f} s, and {left.item():.1f} s are left"
        raise preempted(str(self._run), step, self._job.total_steps, newest.name if newest else None, why_not)

    def _is_over(self) -> bool:
        """Return True after the last step, or once early stopping ends the run."""
        early, stopping = self._job.config.early_stopping, self.state.stopping
        stopped = early is not None and stopping is not None and stopping.over(early)
        return stopped or self.state.step >= self._job.total_steps

    def _is_due(self, step: int, every: int | None) -> bool:
        """Return True at each multiple of `every` (None: at the end of each epoch), and at the last step."""
        return step % (every or self._job.loader.steps) == 0 or step == self._job.total_steps

    def _saves_after(self, step: int) -> bool:
        """Return True if a planned checkpoint follows the step, with or without an evaluation."""
        config = self._job.config
        every = config.checkpoint.every or self._job.total_steps
        return self._is_due(step, config.train.evaluate_every) or self._is_due(step, every)

    def _head(self, split: str) -> dict[str, Any]:
        """Return the fields that every record of `train.jsonl` has."""
        job, step = self._job, self.state.step
        return {
            "split": split,
            "step": step,
            "total_steps": job.total_steps,
            "epoch": max(0, step - 1) // job.loader.steps,
            "samples": round(step * job.loader.rows / job.loader.steps),
            "seconds": self.state.seconds,
            "learning_rate": job.optimizers.learning_rate,
            "table_learning_rate": job.optimizers.table_learning_rate,
        }

    def _say(self, text: str) -> None:
        if self._job.ranks.is_main:
            logger.info(text)


def train_steps(
    job: TrainContext,
    run: RunDirectory,
    *,
    resume: bool,
    loggers: Loggers | None = None,
    start: Start | None = None,
    profile: Unprofiled = UNPROFILED,
    extra_metrics: ExtraMetrics | None = None,
    preemption: Preemption | None = None,
) -> TrainState:
    """Train to the last step, or until `early_stopping` ends it: report, evaluate, keep checkpoints.

    Args:
        job: Context of the run.
        run: Directory of the run.
        resume: True to go on from the latest checkpoint.
        loggers: Loggers of every record; None for the log file and the terminal alone.
        start: Checkpoint of another run with the first weights, unless the run goes on from a checkpoint of its own.
            These weights are evaluated before the first step, which sets no best score.
        profile: Profile of some steps.
        extra_metrics: Function called at every evaluation, whose result joins the evaluation's record; None for none.
        preemption: Receiver of stop signals that the caller has entered; None to receive them during this call.

    Raises:
        DivergedError: a loss or the dense gradients are not finite.
        DataError: a batch breaks a rule of the dataset.
        UserError: no room on the disk, a split with fewer row groups than ranks, a checkpoint of other steps, or too
            few steps for a profile.
        PreemptedError: a rank received a stop signal. The last finished step is saved if `checkpoint.grace_seconds`
            leaves time for it.
    """
    trainer = Trainer(
        job,
        run,
        resume=resume,
        loggers=loggers,
        start=start,
        profile=profile,
        extra_metrics=extra_metrics,
        preemption=preemption,
    )
    return trainer.run()


def checkpoint_store(job: TrainContext, run: RunDirectory) -> CheckpointStore:
    """Return the checkpoints of a run, which are written under its lock."""
    kept = job.config.checkpoint
    return CheckpointStore(
        checkpoint_place(job.config, run.address),
        kept.keep,
        keep_every=kept.keep_every,
        asynchronous=kept.asynchronous,
        wrote=job.ranks.watch.touch,
        check=run.check,
        committing=run.push,
        committed=partial(run.write_bytes, SAVED, b""),
        timeout_seconds=job.config.runtime.timeout_seconds + AFTER_WATCH_SECONDS,
    )


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
