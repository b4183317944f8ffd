"""Lock of a run directory, and the decision whether a training begins, resumes or has already finished there.

`ple_rec.training.run.train` calls `lock_run_directory` before it opens the dataset or builds the model. Rank 0 holds
the lock while the training lasts, and sends its decision to the other ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.runs.checkpoints import checkpoint_place, restore_run_files
from ple_rec.runs.directory import RunDirectory, directory_of_other_rank, hold_run
from ple_rec.runs.state import Action, Resume, decide_action, inspect_directory
from ple_rec.storage import Location
from ple_rec.training.loggers import check_reachable
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.warm_start import WarmStart, read_warm_start, resolve_warm_start

# After a restart, a rank of the previous attempt may still be ending on another host, and hold the lock until then.
_LOCK_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class StartDecision:
    """Decision of rank 0 how a training starts in its run directory, the same on all ranks.

    Args:
        action: "begin", "resume" or "finished".
        warm_start: Checkpoint of another run with the first weights; None for random weights. For a run that resumes or
            has finished, the one with which it began.
        newest_checkpoint: Newest checkpoint of the run whose manifest can be read; None if there is none, or if the run
            does not resume.
        written_by: Description of the run in the manifest of `newest_checkpoint`, for example its number of ranks;
            empty if that is None.
    """

    action: Action
    warm_start: WarmStart | None
    newest_checkpoint: Location | None
    written_by: Mapping[str, Any]

    @property
    def is_resuming(self) -> bool:
        """True if the run resumes."""
        return self.action == "resume"


@contextmanager
def lock_run_directory(
    config: RunConfig,
    run_dir: Location,
    prepare: Callable[[], PreparedRun],
    *,
    resume: Resume,
    overwrite: bool,
    init_from: tuple[Location, str] | None,
) -> Iterator[tuple[RunDirectory, StartDecision]]:
    """Lock the run directory on rank 0, decide how the training starts, and tell every rank (a collective).

    Rank 0 decides while it holds the lock, so no other process changes the directory in between. The ranks of a job may
    be started several times. With `resume="auto"`, a later start may resume what an earlier start began. If the run
    directory or its configuration is lost, rank 0 first restores its files from the newest checkpoint.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        prepare: Function that opens the dataset and returns the prepared run; it is called only if the run begins.
        resume: True to resume the run of the directory. "auto" to resume it if there is one, and to wait up to 30 s for
            another process to release the lock.
        overwrite: True to replace the run of the directory.
        init_from: Directory and checkpoint of another run, whose weights a run that begins takes; None for random
            weights.

    Yields:
        The run directory, which is locked on rank 0, and the decision.

    Raises:
        UserError: Another process has locked the directory, the directory has a run that may be neither resumed nor
            replaced, the run cannot start from `init_from`, or its MLflow server does not answer.
        DataError: The run to start from, or to resume, is damaged.
        PeerError: One of these errors, on the ranks other than 0.
    """
    directories: list[RunDirectory] = []

    def decide_start() -> StartDecision:
        # The first decision is made without the lock and only refuses, so that a refused training leaves no lock file
        # in the directory.
        decide_action(inspect_directory(config, run_dir), config, resume=resume, overwrite=overwrite)
        wait = _LOCK_WAIT_SECONDS if resume == "auto" else 0.0
        directories.append(stack.enter_context(hold_run(run_dir, checkpoint_place(config, run_dir), wait)))
        # Another process may have begun or ended a run there while this one waited for the lock.
        state = inspect_directory(config, run_dir)
        action = decide_action(state, config, resume=resume, overwrite=overwrite)
        # The run has checkpoints, but not its directory or its configuration. Its newest checkpoint has copies of them.
        if action != "begin" and state.is_lost:
            restore_run_files(state.newest_path, directories[0])
            state = inspect_directory(config, run_dir)
            action = decide_action(state, config, resume=resume, overwrite=overwrite)
        if action != "finished":
            check_reachable(config.watch)
        warm_start = (
            resolve_warm_start(prepare(), run_dir, init_from) if action == "begin" else read_warm_start(run_dir)
        )
        if state.newest is None or action != "resume":
            return StartDecision(action, warm_start, None, {})
        path, manifest = state.newest
        return StartDecision(action, warm_start, path, manifest.written_by)

    with ExitStack() as stack:
        decision = broadcast(run_on_rank_zero(decide_start))
        assert decision is not None
        yield directories[0] if directories else directory_of_other_rank(run_dir), decision
