"""Training loop of a run: it trains step by step, and reports, evaluates and saves checkpoints in between.

`ple_rec.training.run.train` calls `train_steps`, which runs the loop of `Trainer` on every rank and returns the final
progress. A report is a record of `train.jsonl` with the losses, metrics and speed of the steps since the last report;
this sequence of steps is the report window. An evaluation computes metrics on the validation split, and decides whether
the current weights are the best so far. A checkpoint is planned if the step number alone determines it, for example
after an evaluation. It is timed if it is due because `checkpoint.every_minutes` have passed.

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
from ple_rec.training.compilation import CompileClock
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import describe_stop
from ple_rec.training.finite import check_finite
from ple_rec.training.loggers import Loggers
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.preemption import Preemption, StopRequested, preempted_error
from ple_rec.training.profiler.session import NO_PROFILE, NoProfile
from ple_rec.training.progress import ReportWindow, TrainingProgress
from ple_rec.training.restore import config_and_plan_texts, describe_run_state, restore, state_dict
from ple_rec.training.state import TrainState, initial_state
from ple_rec.training.step import train_step
from ple_rec.training.validation import record_evaluation, validate
from ple_rec.training.warm_start import WarmStart, load_warm_start

logger = logging.getLogger(__name__)

# Function that computes additional metrics for the record of an evaluation.
ExtraMetrics = Callable[[TrainContext], Mapping[str, Any]]


class LoopClock:
    """Clock that measures the time of training steps, without the time of evaluations and checkpoints.

    Args:
        step: Number of steps done when the clock starts.
    """

    def __init__(self, step: int) -> None:
        self._started, self._step = time.perf_counter(), step

    def restart(self, step: int) -> tuple[float, float]:
        """Return the seconds and the mean seconds per step since the last restart, and restart the clock at this step.

        Excluded seconds do not count.
        """
        now = time.perf_counter()
        seconds, seconds_per_step = now - self._started, (now - self._started) / max(1, step - self._step)
        self._started, self._step = now, step
        return seconds, seconds_per_step

    def exclude(self, seconds: float) -> None:
        """Leave seconds that were not spent on training out of the current measurement."""
        self._started += seconds


class Trainer:
    """Training loop of one run, on one rank.

    The constructor restores the newest checkpoint if the run resumes from one, or else loads the weights of the warm
    start if there is one. `run` trains. Arguments and errors are those of `train_steps`.

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
        warm_start: WarmStart | None,
        profile: NoProfile,
        extra_metrics: ExtraMetrics | None,
        preemption: Preemption | None,
    ) -> None:
        self._context, self._run, self._warm_start, self._profile = context, run, warm_start, profile
        self._extra_metrics = extra_metrics
        # The loaders of all splits are created here, so that a split with fewer row groups than ranks is refused before
        # the first step. `splits` begins with the validation split, the only one that this loop reads.
        self._valid, *_ = [context.evaluation_loader(split) for split in context.config.evaluation.splits]
        self._store = checkpoint_store(context, run)
        self._window = ReportWindow(context.selection.tasks, context.ranks.device)
        path = self._store.newest_undamaged() if resume else None
        if resume:
            self._say("no checkpoint yet: starts from the beginning" if path is None else f"goes on from {path}")
        self._warm_start_to_load = warm_start if path is None else None
        self._compile_clock = CompileClock() if context.eager_reason is None else None
        self.state = initial_state(context) if path is None else self._restore(path)
        if self._warm_start_to_load is not None:
            load_warm_start(context, self._warm_start_to_load)
            self._say(
                f"starts from {self._warm_start_to_load.path}, "
                f"trained on dataset {self._warm_start_to_load.dataset[:12]}"
            )
        self._guard = NonFiniteGuard([task.name for task in context.selection.tasks], context.ranks.device)
        self._feeder = make_feeder(context.pipeline, context.model, context.ranks, profile.regions)
        context.model.train()
        keep_evaluation = not self.state.evaluation_pending
        log, step = run.folder / LOG, self.state.step
        self._progress = TrainingProgress(
            context.ranks, log, step, context.total_steps, loggers, keep_evaluation=keep_evaluation
        )
        # The caller has already entered the context of its `preemption`, so this class must not enter it again.
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
            self._save_on_stop(),
        ):
            self._evaluate_before_first_step()
            self._begin()
            while not self._is_finished():
                self._train_epoch()
            self._end()
        return self.state

    def _restore(self, path: Location) -> TrainState:
        """Restore the run from a checkpoint, and return its progress.

        If the best checkpoint is damaged or missing, the restored one counts as the best until the next evaluation.
        """
        state = restore(self._context, path, self._window)
        self._store.saved_step = state.step
        if state.step > self._context.total_steps:
            done = f"{state.step} steps are done, more than the {self._context.total_steps} of this configuration"
            self._say(f"{done}: none is left")
        if state.best_step and self._store.replace_damaged_best(state.step):
            state.best_step, state.best_score = state.step, -math.inf
        return state

    def _evaluate_before_first_step(self) -> None:
        """Evaluate the weights of a warm start, and repeat an evaluation that a stop signal interrupted."""
        if self._warm_start_to_load is not None:
            evaluation = validate(self._context, self._valid, self._preemption)
            self._progress.record(self._common_fields("valid") | evaluation | {"best": False})
        if self.state.evaluation_pending:
            # The record of an evaluation has the learning rates of the last step, which are set again here.
            self._context.optimizers.prepare(self.state.step - 1)
            if self._evaluate():
                self._store.mark_best(self.state.step)

    def _begin(self) -> None:
        """Start the profile and the clocks immediately before the first step."""
        self._profile.begin(self.state.step, self._context.total_steps - self.state.step, self._has_planned_save)
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
                if self._is_finished():
                    return

    def _step(self, epoch: int) -> None:
        """Train one step, then make the report, the evaluation and the checkpoint that are due after it.

        Raises:
            StopRequested: A rank received a stop signal before this step, which is then not trained, or during the
                evaluation after it.
        """
        context, state, regions = self._context, self.state, self._profile.regions
        if self._guard.wants_to_stop():
            state.seconds += self._clock.restart(state.step)[0]
            raise StopRequested
        is_save_planned = self._has_planned_save(state.step + 1)
        should_save = self._guard.take_save_request() or is_save_planned
        # An evaluation or a save reads the tables after this step, so no rows are fetched into the GPU's cache for the
        # next one.
        batch, wait_seconds = self._feeder.next(state.step + 1, pause=should_save)
        by_epoch = context.config.train.weight_schedule == "epoch"
        weights_K = task_weights(context.tasks, epoch if by_epoch else state.step)
        logits_BK, sums_K, counts_K = train_step(
            context,
            self._guard,
            batch,
            state.step,
            weights_K,
            stop=self._preemption.is_stop_requested,
            # Only the timer of rank 0 counts, since timers differ. Its request reaches all ranks during this step, and
            # they save after the next step.
            save=context.ranks.is_main and self._timer.is_due() and not should_save and not self._store.writing,
            forward=self._feeder.forward,
            regions=regions,
        )
        state.step += 1
        if self._compile_clock is not None and (compile_seconds := self._compile_clock.restart()):
            self._progress.say(f"compiled the dense layers in {compile_seconds:.1f} s")
            self._clock.exclude(compile_seconds)
            self._window.started += compile_seconds
        with regions("metrics"):
            self._window.update(batch, logits_BK, sums_K, counts_K, wait_seconds)
        self._progress.advance()
        # Every planned checkpoint comes with a report, so that a resumed run has the same reports as an uninterrupted
        # run. A timed checkpoint comes without a report, and saves the sums since the last report instead.
        should_report = is_save_planned or state.step % context.config.train.report_every == 0
        if should_save or should_report:
            with regions("logging"):
                self._report(weights_K, record=should_report)
        excluded_seconds = self._profile.step(batch)
        if should_save:
            with regions.paused():
                excluded_seconds += self._evaluate_and_save()
        self._clock.exclude(excluded_seconds)
        self._window.started += excluded_seconds

    def _report(self, weights_K: Sequence[float], *, record: bool) -> None:
        """Check that the last step was finite, and write a record of the steps since the last report.

        Args:
            weights_K: Weights of the tasks' losses.
            record: True to write the record; False to check the last step and to update `state.seconds` only.
        """
        self._guard.synchronize()
        seconds, seconds_per_step = self._clock.restart(self.state.step)
        self.state.seconds += seconds
        if record:
            fields = self._common_fields("train") | self._window.report(self._context.unwrapped_model, weights_K)
            self._progress.record(
                fields | {"eta_seconds": seconds_per_step * (self._context.total_steps - self.state.step)}
            )

    def _evaluate_and_save(self) -> float:
        """Check that all weights are finite, evaluate if an evaluation is due, and save a checkpoint.

        Returns:
            Seconds that all this took.

        Raises:
            StopRequested: A rank received a stop signal during the evaluation.
            DivergedError: A weight or a value of the optimizer state is not finite.
        """
        started = time.perf_counter()
        check_finite(self._context, self.state.step)
        self._save(best=self._is_due(self.state.step, self._context.config.train.evaluate_every) and self._evaluate())
        self._timer.restart()
        return time.perf_counter() - started

    def _evaluate(self) -> bool:
        """Evaluate on the validation split, and return True if the current weights are the best so far (a collective).

        Raises:
            StopRequested: A rank received a stop signal. The evaluation is repeated when the run is resumed.
        """
        self.state.evaluation_pending = True
        evaluation = validate(self._context, self._valid, self._preemption)
        best, note = record_evaluation(self._context, self.state, evaluation)
        extra = {} if self._extra_metrics is None else self._extra_metrics(self._context)
        self._progress.record(self._common_fields("valid") | evaluation | {"best": best, **extra}, note)
        self.state.evaluation_pending = False
        return best

    def _save(self, *, best: bool) -> None:
        """Save a checkpoint of the current step (a collective)."""
        save_checkpoint(self._context, self._store, self.state, self._window, self._warm_start, best=best)

    def _end(self) -> None:
        """Wait for the last save, log how long the saves took, and log the reason if the run stopped early."""
        watch, state = self._context.ranks.watch, self.state
        watch.mark(f"the end of the save of step {state.step}")
        self._store.wait()
        # The watchdog ends a run whose steps make no progress. After the loop there are no more steps to watch.
        watch.suspend()
        if self._store.save_count:
            self._progress.say(describe_saves(self._store))
        if state.stopping is not None and state.step < self._context.total_steps:
            self._progress.say(describe_stop(self._context.config, state.stopping, state.step))

    @contextmanager
    def _save_on_stop(self) -> Iterator[None]:
        """If the block raises `StopRequested`, save the last finished step if there is time, and raise an error.

        The scheduler ends the process `checkpoint.grace_seconds` after the stop signal. There is time for a save if the
        remaining seconds exceed the duration of the last save, or if this process has made no save yet. A step that has
        a checkpoint already is not saved again.

        Raises:
            PreemptedError: The block raised `StopRequested`. The error names the newest checkpoint.
            DivergedError: The block raised `StopRequested`, and a loss, a gradient or a weight of the last finished
                step is not finite, so the step is not saved.
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
            self._say(f"the previous save failed: {error}")
        save_seconds = store.last_save_seconds
        seconds_left = torch.tensor(
            self._preemption.seconds_left(), dtype=torch.float64, device=self._context.ranks.device
        )
        # A save is a collective, so all ranks must take the same decision; the rank with the least time left decides.
        dist.all_reduce(seconds_left, dist.ReduceOp.MIN)
        can_save = save_seconds is None or save_seconds < seconds_left.item()
        if can_save and step and store.saved_step != step:
            self._guard.synchronize()
            check_finite(self._context, step)
            self._save(best=False)
            store.wait()
        newest = store.latest()
        durations = "" if can_save else f"a save took {save_seconds:.1f} s, and {seconds_left.item():.1f} s are left"
        reason = f"too late to save it: {durations}" if durations else ""
        raise preempted_error(str(self._run), step, self._context.total_steps, newest.name if newest else None, reason)

    def _is_finished(self) -> bool:
        """Return True if all steps are done, or if early stopping has ended the run."""
        early, stopping = self._context.config.early_stopping, self.state.stopping
        stopped = early is not None and stopping is not None and stopping.is_exhausted(early)
        return stopped or self.state.step >= self._context.total_steps

    def _is_due(self, step: int, every: int | None) -> bool:
        """Return True if `step` is the last step of the run or a multiple of `every`.

        Args:
            step: Number of steps done.
            every: Interval in steps; None for one epoch.
        """
        return step % (every or self._context.loader.steps) == 0 or step == self._context.total_steps

    def _has_planned_save(self, step: int) -> bool:
        """Return True if a checkpoint is planned after `step` steps, with or without an evaluation."""
        config = self._context.config
        every = config.checkpoint.every or self._context.total_steps
        return self._is_due(step, config.train.evaluate_every) or self._is_due(step, every)

    def _common_fields(self, split: str) -> dict[str, Any]:
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
    warm_start: WarmStart | None = None,
    profile: NoProfile = NO_PROFILE,
    extra_metrics: ExtraMetrics | None = None,
    preemption: Preemption | None = None,
) -> TrainState:
    """Train a run to its last step, or until early stopping ends it, and return its progress (a collective).

    Args:
        context: Model, data, optimizers, ranks and configuration of the run.
        run: Directory of the run.
        resume: True to go on from the newest checkpoint that is not damaged, if the run has one.
        loggers: Loggers that also receive every record; None for the log file and the terminal alone.
        warm_start: Checkpoint of another run, whose weights are the first weights of this run; None to start with
            random weights. It is not used if the run goes on from a checkpoint of its own. The weights are evaluated
            before the first step, but this evaluation does not count as a best score.
        profile: Profile of the run, which times and traces some steps; `NO_PROFILE` for none.
        extra_metrics: Function that is called at every evaluation but that of a warm start's weights, and returns more
            fields for the record; None to add no fields.
        preemption: Receiver of stop signals, whose context the caller has already entered; None to receive stop
            signals during this call only.

    Raises:
        DivergedError: A loss, a dense gradient, a weight or a value of the optimizer state is not finite.
        DataError: A batch breaks a rule of the dataset, or the checkpoint to start from is damaged.
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
        warm_start=warm_start,
        profile=profile,
        extra_metrics=extra_metrics,
        preemption=preemption,
    )
    return trainer.run()


def checkpoint_store(context: TrainContext, run: RunDirectory) -> CheckpointStore:
    """Return the store of a run's checkpoints, which checks before each change that this process still has the lock."""
    config = context.config.checkpoint
    return CheckpointStore(
        checkpoint_place(context.config, run.address),
        config.keep,
        keep_every=config.keep_every,
        asynchronous=config.asynchronous,
        on_write=context.ranks.watch.touch,
        check_may_write=run.check,
        before_commit=run.push,
        after_commit=partial(run.write_bytes, SAVED, b""),
        timeout_seconds=context.config.runtime.timeout_seconds + AFTER_WATCH_SECONDS,
    )


def save_checkpoint(
    context: TrainContext,
    store: CheckpointStore,
    state: TrainState,
    window: ReportWindow,
    warm_start: WarmStart | None = None,
    *,
    best: bool,
) -> None:
    """Save a checkpoint of the run (a collective).

    Args:
        context: Context of the run.
        store: Checkpoints of the run.
        state: Progress of the run.
        window: Sums since the last report.
        warm_start: Checkpoint of another run whose weights this run began with; None if it began with random weights.
        best: True if the current weights are the best so far.

    Raises:
        UserError: The checkpoint cannot be written.
    """
    context.ranks.watch.mark(f"the save of step {state.step}")
    tensors = state_dict(context, state, window)
    description = describe_run_state(context, state, window)
    files = config_and_plan_texts(context) | (
        {} if warm_start is None else {INIT: json.dumps(vars(warm_start), indent=1)}
    )
    store.save(state.step, tensors, best=best, written_by=description, file_texts=files)


def describe_saves(store: CheckpointStore) -> str:
    """Return a line that says how long training waited for a save on average.

    If saves are asynchronous, it also says how long a save was written while training went on.
    """
    blocked = (
        f"{store.save_count} checkpoint(s): training stood still for "
        f"{store.blocked_seconds / store.save_count:.2f} s each"
    )
    if not store.asynchronous:
        return blocked
    return f"{blocked}, and went on during {store.total_save_seconds / store.save_count:.2f} s of writing"
