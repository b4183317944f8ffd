"""Training loop of a run: it trains step by step, and reports, evaluates and saves checkpoints in between.

`train_steps` is the entry point, and `Trainer` has the loop. Every rank runs the same loop. A report is a record of
metrics in `train.jsonl`. An evaluation computes metrics on the validation split, and chooses the best weights so far. A
checkpoint is planned if it follows from the step number alone, as after an evaluation, or timed if it is due after some
minutes.

Shape suffixes: B samples in the batch of a rank, K tasks.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.distributed.collectives import PeerError
from ple_rec.distributed.process_group import AFTER_WATCH_SECONDS
from ple_rec.errors import UserError
from ple_rec.models.weighting import task_weights
from ple_rec.runs.checkpoints import CheckpointTimer, checkpoint_place
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import INIT, LOG, SAVED
from ple_rec.storage import Location
from ple_rec.training.batch_feeder import make_feeder
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import describe_stop
from ple_rec.training.finite import check_finite
from ple_rec.training.loggers import Loggers
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.preemption import Preemption, StopRequested, preempted
from ple_rec.training.profiler.session import NO_PROFILE, NoProfile
from ple_rec.training.progress import TrainingProgress, Window
from ple_rec.training.restore import restore, state_dict, texts, written_by
from ple_rec.training.state import TrainState, initial_state
from ple_rec.training.step import train_step
from ple_rec.training.validation import record_evaluation, validate
from ple_rec.training.warm_start import Start, load_start

logger = logging.getLogger(__name__)

# Function that computes additional metrics for the record of an evaluation.
ExtraMetrics = Callable[[TrainContext], Mapping[str, Any]]


class LoopClock:
    """Clock that measures the training time of laps, without the time of evaluations and checkpoints.

    A lap is a sequence of steps, from one call of `lap` to the next.

    Args:
        step: Number of steps done when the clock starts.
    """

    def __init__(self, step: int) -> None:
        self._lap_started, self._step = time.perf_counter(), step

    def lap(self, step: int) -> tuple[float, float]:
        """End the lap at a step and begin a new lap; return the seconds of the lap and its mean seconds per step."""
        now = time.perf_counter()
        seconds, pace = now - self._lap_started, (now - self._lap_started) / max(1, step - self._step)
        self._lap_started, self._step = now, step
        return seconds, pace

    def exclude(self, seconds: float) -> None:
        """Subtract time that was not spent on training, in seconds, from the current lap."""
        self._lap_started += seconds


class Trainer:
    """Training loop of one run, on one rank.

    The constructor restores the newest checkpoint or loads the first weights, and `run` trains. Arguments and errors
    are those of `train_steps`.

    Attributes:
        state: Progress of the run: number of steps done, seconds of training, best step, early stopping.
    """

    def __init__(
        self,
        context: TrainContext,
        run: RunDirectory,
        *,
        resume: bool,
        loggers: Loggers | None,
        start: Start | None,
        profile: NoProfile,
        extra_metrics: ExtraMetrics | None,
        preemption: Preemption | None,
    ) -> None:
        self._context, self._run, self._start, self._profile = context, run, start, profile
        self._extra_metrics = extra_metrics
        # The loaders are made now, so that a split with fewer row groups than ranks is refused before the first step.
        self._valid, *_ = [context.evaluation_loader(split) for split in context.config.evaluation.splits]
        self._store = checkpoint_store(context, run)
        self._window = Window(context.selection.tasks, context.ranks.device)
        path = self._store.newest_good() if resume else None
        if resume:
            self._say("no checkpoint yet: starts from the beginning" if path is None else f"goes on from {path}")
        self._begins_from = start if path is None else None
        self.state = initial_state(context) if path is None else self._restore(path)
        if self._begins_from is not None:
            load_start(context, self._begins_from)
            self._say(f"starts from {self._begins_from.path}, trained on dataset {self._begins_from.dataset[:12]}")
        self._guard = NonFiniteGuard([task.name for task in context.selection.tasks], context.ranks.device)
        self._feeder = make_feeder(context.config.train.pipeline, context.model, context.ranks, profile.regions)
        context.model.train()
        evaluated = not self.state.evaluation_pending
        log, step = run.folder / LOG, self.state.step
        self._progress = TrainingProgress(context.ranks, log, step, context.total_steps, loggers, evaluated=evaluated)
        # A `preemption` of the caller is already entered, so this class must not enter it again.
        self._preemption_context: AbstractContextManager[Preemption] = (
            Preemption(context.config.checkpoint.grace_seconds) if preemption is None else nullcontext(preemption)
        )

    def run(self) -> TrainState:
        """Train to the last step, or until early stopping, and return the progress of the run."""
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
        """Restore the run from a checkpoint, and return its progress."""
        state = restore(self._context, path, self._window)
        self._store.saved_step = state.step
        if state.step > self._context.total_steps:
            done = f"{state.step} steps are done, more than the {self._context.total_steps} of this configuration"
            self._say(f"{done}: none is left")
        if state.best_step and self._store.mend_best(state.step):
            state.best_step, state.best_score = state.step, -math.inf
        return state

    def _evaluate_before_first_step(self) -> None:
        """Make the evaluations that are due before the first step.

        If the run begins with the weights of another run, these weights are evaluated. If the run was stopped during an
        evaluation, that evaluation is made now.
        """
        if self._begins_from is not None:
            evaluation = validate(self._context, self._valid, self._preemption)
            self._progress.record(self._head("valid") | evaluation | {"best": False})
        if self.state.evaluation_pending:
            # The record of an evaluation shows the learning rates of the step before it.
            self._context.optimizers.prepare(self.state.step - 1)
            if self._evaluate():
                self._store.mark_best(self.state.step)

    def _begin(self) -> None:
        """Start the profile and the clocks, right before the first step."""
        self._profile.begin(self.state.step, self._context.total_steps - self.state.step, self._saves_after)
        self._clock = LoopClock(self.state.step)
        self._window.started = time.perf_counter()
        self._timer = CheckpointTimer(self._context.config.checkpoint.every_minutes)

    def _train_epoch(self) -> None:
        """Train from the current step to the end of its epoch, or to the end of the run if that comes first."""
        loader = self._context.loader
        epoch, done = divmod(self.state.step, loader.steps)
        with closing(loader.epoch(epoch, done)) as batches:
            count = min(loader.steps - done, self._context.total_steps - self.state.step)
            self._feeder.begin(batches, count)
            for _ in range(count):
                self._step(epoch)
                if self._is_over():
                    return

    def _step(self, epoch: int) -> None:
        """Train one step, then make the report, the evaluation and the checkpoint that are due after it."""
        context, state, regions = self._context, self.state, self._profile.regions
        if self._guard.wants_to_stop():
            state.seconds += self._clock.lap(state.step)[0]
            raise StopRequested
        planned = self._saves_after(state.step + 1)
        saving = self._guard.take_save_request() or planned
        batch, wait_seconds = self._feeder.next(state.step + 1, pause=saving)
        by_epoch = context.config.train.weight_schedule == "epoch"
        weights_K = task_weights(context.tasks, epoch if by_epoch else state.step)
        logits_BK, sums_K, counts_K = train_step(
            context,
            self._guard,
            batch,
            state.step,
            weights_K,
            stop=self._preemption.received,
            save=context.ranks.is_main and self._timer.is_due() and not saving and not self._store.writing,
            forward=self._feeder.forward,
            regions=regions,
        )
        state.step += 1
        with regions("metrics"):
            self._window.update(batch, logits_BK, sums_K, counts_K, wait_seconds)
        self._progress.advance()
        # Every planned checkpoint comes with a report, so that a resumed run has the same reports as an uninterrupted
        # run. A timed checkpoint comes without a report, and saves the sums since the last report instead.
        reporting = planned or state.step % context.config.train.report_every == 0
        if saving or reporting:
            with regions("logging"):
                self._report(weights_K, record=reporting)
        excluded_seconds = self._profile.step(batch)
        if saving:
            with regions.paused():
                excluded_seconds += self._evaluate_and_save()
        self._clock.exclude(excluded_seconds)
        self._window.started += excluded_seconds

    def _report(self, weights_K: Sequence[float], *, record: bool) -> None:
        """Check that the last step was finite, and write a record of the steps since the last report.

        Args:
            weights_K: Weights of the tasks' losses.
            record: True to write the record; False to only check the step and to count its time.
        """
        self._guard.synchronize()
        seconds, pace = self._clock.lap(self.state.step)
        self.state.seconds += seconds
        if record:
            head = self._head("train") | self._window.report(self._context.bare, weights_K)
            self._progress.record(head | {"eta_seconds": pace * (self._context.total_steps - self.state.step)})

    def _evaluate_and_save(self) -> float:
        """Evaluate if an evaluation is due, save a checkpoint, and return the seconds that both took."""
        started = time.perf_counter()
        check_finite(self._context, self.state.step)
        self._save(best=self._is_due(self.state.step, self._context.config.train.evaluate_every) and self._evaluate())
        self._timer.restart()
        return time.perf_counter() - started

    def _evaluate(self) -> bool:
        """Evaluate on the validation split, and return True if the current weights are the best so far.

        This is a collective: every rank calls it at the same step.

        Raises:
            StopRequested: A rank received a stop signal. The evaluation is made when the run is resumed.
        """
        self.state.evaluation_pending = True
        evaluation = validate(self._context, self._valid, self._preemption)
        best, note = record_evaluation(self._context, self.state, evaluation)
        extra = {} if self._extra_metrics is None else self._extra_metrics(self._context)
        self._progress.record(self._head("valid") | evaluation | {"best": best, **extra}, note)
        self.state.evaluation_pending = False
        return best

    def _save(self, *, best: bool) -> None:
        """Save a checkpoint of the current step (a collective)."""
        save_checkpoint(self._context, self._store, self.state, self._window, self._start, best=best)

    def _end(self) -> None:
        """Wait for the last save, and log how long the saves took and, if the run stopped early, the reason."""
        watch, state = self._context.ranks.watch, self.state
        watch.mark(f"the end of the save of step {state.step}")
        self._store.wait()
        # The watchdog ends a run whose steps make no progress. After the loop there are no more steps to watch.
        watch.rest()
        if self._store.saves:
            self._progress.say(describe_saves(self._store))
        if state.stopping is not None and state.step < self._context.total_steps:
            self._progress.say(describe_stop(self._context.config, state.stopping, state.step))

    @contextmanager
    def _saved_on_stop(self) -> Iterator[None]:
        """If the block raises `StopRequested`, save the last finished step if the time suffices, and raise an error.

        The grace period is the time between a stop signal and the end of the process. The step is saved if what is left
        of the period is longer than the previous save took, or if there was no save yet.

        Raises:
            PreemptedError: The block raised `StopRequested`. The error names the newest checkpoint.
            DivergedError: The block raised `StopRequested`, and the last step was not finite.
        """
        try:
            yield
        except StopRequested:
            pass
        else:
            return
        store, step = self._store, self.state.step
        try:
            # An asynchronous save that is still running may become the newest checkpoint, so it must be completed.
            store.wait()
        except (UserError, PeerError) as error:
            self._say(f"the save before failed: {error}")
        save_seconds = store.seconds
        left = torch.tensor(self._preemption.seconds_left(), dtype=torch.float64, device=self._context.ranks.device)
        # A save is a collective, so all ranks must decide alike; the rank with the least time decides.
        dist.all_reduce(left, dist.ReduceOp.MIN)
        fits = save_seconds is None or save_seconds < left.item()
        if fits and step and store.saved_step != step:
            self._guard.synchronize()
            check_finite(self._context, step)
            self._save(best=False)
            store.wait()
        newest = store.latest()
        spans = "" if fits else f"a save took {save_seconds:.1f} s, and {left.item():.1f} s are left"
        why_not = f"too late to save it: {spans}" if spans else ""
        raise preempted(str(self._run), step, self._context.total_steps, newest.name if newest else None, why_not)

    def _is_over(self) -> bool:
        """Return True if all steps are done, or if early stopping has ended the run."""
        early, stopping = self._context.config.early_stopping, self.state.stopping
        stopped = early is not None and stopping is not None and stopping.is_exhausted(early)
        return stopped or self.state.step >= self._context.total_steps

    def _is_due(self, step: int, every: int | None) -> bool:
        """Return True if the step is the last step or a multiple of `every`.

        Args:
            step: Number of steps done.
            every: Number of steps; None for the steps of an epoch.
        """
        return step % (every or self._context.loader.steps) == 0 or step == self._context.total_steps

    def _saves_after(self, step: int) -> bool:
        """Return True if a planned checkpoint is saved after the step, with or without an evaluation."""
        config = self._context.config
        every = config.checkpoint.every or self._context.total_steps
        return self._is_due(step, config.train.evaluate_every) or self._is_due(step, every)

    def _head(self, split: str) -> dict[str, Any]:
        """Return the fields that are common to all records of `train.jsonl`.

        Args:
            split: Value of the field `split`: "train" for a report, "valid" for an evaluation.
        """
        context, step = self._context, self.state.step
        return {
            "split": split,
            "step": step,
            "total_steps": context.total_steps,
            "epoch": max(0, step - 1) // context.loader.steps,
            "samples": round(step * context.loader.rows / context.loader.steps),
            "seconds": self.state.seconds,
            "learning_rate": context.optimizers.learning_rate,
            "table_learning_rate": context.optimizers.table_learning_rate,
        }

    def _say(self, text: str) -> None:
        """Log a line of text, on rank 0 alone."""
        if self._context.ranks.is_main:
            logger.info(text)


def train_steps(
    context: TrainContext,
    run: RunDirectory,
    *,
    resume: bool,
    loggers: Loggers | None = None,
    start: Start | None = None,
    profile: NoProfile = NO_PROFILE,
    extra_metrics: ExtraMetrics | None = None,
    preemption: Preemption | None = None,
) -> TrainState:
    """Train a run to its last step, or until early stopping ends it, with reports, evaluations and checkpoints.

    Args:
        context: Model, data, optimizers, ranks and configuration of the run.
        run: Directory of the run.
        resume: True to go on from the newest checkpoint that is not damaged, if the run has one.
        loggers: Loggers that also receive every record; None for the log file and the terminal alone.
        start: Checkpoint of another run, whose weights are the first weights of this run; None to start with random
            weights. It is not used if the run goes on from a checkpoint of its own. The weights are evaluated before
            the first step, but this evaluation does not count as a best score.
        profile: Session of the profiler, which traces some steps.
        extra_metrics: Function that is called at every evaluation and returns more fields for the record; None to add
            no fields.
        preemption: Receiver of stop signals, a context manager that the caller has already entered; None to receive
            stop signals during this call alone.

    Raises:
        DivergedError: A loss or the dense gradients are not finite.
        DataError: A batch breaks a rule of the dataset.
        UserError: The disk is full, a split has fewer row groups than ranks, the checkpoint does not fit the
            configuration, or the run has too few steps for a profile.
        PreemptedError: A rank received a stop signal. The last finished step is saved if `checkpoint.grace_seconds` is
            long enough.
    """
    trainer = Trainer(
        context,
        run,
        resume=resume,
        loggers=loggers,
        start=start,
        profile=profile,
        extra_metrics=extra_metrics,
        preemption=preemption,
    )
    return trainer.run()


def checkpoint_store(context: TrainContext, run: RunDirectory) -> CheckpointStore:
    """Return the store of a run's checkpoints. Before each change it checks that this process still holds the run."""
    config = context.config.checkpoint
    return CheckpointStore(
        checkpoint_place(context.config, run.address),
        config.keep,
        keep_every=config.keep_every,
        asynchronous=config.asynchronous,
        wrote=context.ranks.watch.touch,
        check=run.check,
        committing=run.push,
        committed=partial(run.write_bytes, SAVED, b""),
        timeout_seconds=context.config.runtime.timeout_seconds + AFTER_WATCH_SECONDS,
    )


def save_checkpoint(
    context: TrainContext,
    store: CheckpointStore,
    state: TrainState,
    window: Window,
    start: Start | None = None,
    *,
    best: bool,
) -> None:
    """Save a checkpoint of the run (a collective).

    Args:
        context: Context of the run.
        store: Checkpoints of the run.
        state: Progress of the run.
        window: Sums since the last report.
        start: Checkpoint of another run whose weights this run began with; None if it began with random weights.
        best: True if the current weights are the best so far.

    Raises:
        UserError: The checkpoint cannot be written.
    """
    context.ranks.watch.mark(f"the save of step {state.step}")
    tensors = state_dict(context, state, window)
    description = written_by(context, state, window)
    files = texts(context) | ({} if start is None else {INIT: json.dumps(vars(start), indent=1)})
    store.save(state.step, tensors, best=best, written_by=description, texts=files)


def describe_saves(store: CheckpointStore) -> str:
    """Return a sentence on the saves of this process.

    It says how long training stood still for a checkpoint on average and, if saves are asynchronous, how long the
    writing took.
    """
    blocked = f"{store.saves} checkpoint(s): training stood still for {store.blocked_seconds / store.saves:.2f} s each"
    if not store.asynchronous:
        return blocked
    return f"{blocked}, and went on beside {store.total_seconds / store.saves:.2f} s of writing"
