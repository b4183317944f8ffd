"""The run directory of a training, held by rank 0 while the training lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.runs.checkpoints import checkpoint_place, restore_head
from ple_rec.runs.directory import RunDirectory, directory_of_other_rank, hold_run
from ple_rec.runs.state import Action, Resume, decide, inspect
from ple_rec.storage import Location
from ple_rec.training.loggers import check_reachable
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.warm_start import Start, recorded_start, starting_point

# A rank of the job's last attempt may still be ending on another host, and hold the lock until then.
_LOCK_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Claim:
    """State of a run directory that rank 0 holds, known to all ranks.

    Args:
        action: "begin", "resume" or "finished".
        start: Checkpoint of another run with the first weights; None for random ones.
        newest: Newest checkpoint of a run that resumes, whose manifest can be read; None if there is none.
        written_by: Description of the run in that manifest, for example its number of ranks.
    """

    action: Action
    start: Start | None
    newest: Location | None
    written_by: Mapping[str, Any]

    @property
    def resuming(self) -> bool:
        """True if the run resumes."""
        return self.action == "resume"


@contextmanager
def claim_run(
    config: RunConfig,
    run_dir: Location,
    prepare: Callable[[], PreparedRun],
    *,
    resume: Resume,
    overwrite: bool,
    init_from: tuple[Location, str] | None,
) -> Iterator[tuple[RunDirectory, Claim]]:
    """Hold the run directory on rank 0, and tell every rank the state of the directory (a collective).

    Rank 0 decides under the lock, at every start of the ranks; with `resume="auto"` each start may decide otherwise.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        prepare: Function that returns the prepared run; it is called if the run begins.
        resume: True to resume the run of the directory; "auto" to resume a run if the directory has one.
        overwrite: True to replace the run of the directory.
        init_from: Run and checkpoint that a run starts from when it begins.

    Yields:
        The run directory, whose lock rank 0 alone holds, and its state.

    Raises:
        UserError: Another process holds the directory, it has another run, or the run cannot start from `init_from`.
        DataError: The run to start from, or to resume, is damaged.
    """
    directories: list[RunDirectory] = []

    def claim() -> Claim:
        # A refusal comes before the lock makes a file there.
        decide(inspect(config, run_dir), config, resume=resume, overwrite=overwrite)
        wait = _LOCK_WAIT_SECONDS if resume == "auto" else 0.0
        directories.append(stack.enter_context(hold_run(run_dir, checkpoint_place(config, run_dir), wait)))
        # Another process may have begun or ended a run there before the lock was free.
        state = inspect(config, run_dir)
        action = decide(state, config, resume=resume, overwrite=overwrite)
        if action != "begin" and state.is_lost:
            restore_head(state.newest_path, directories[0])
            state = inspect(config, run_dir)
            action = decide(state, config, resume=resume, overwrite=overwrite)
        if action != "finished":
            check_reachable(config.watch)
        start = starting_point(prepare(), run_dir, init_from) if action == "begin" else recorded_start(run_dir)
        if state.newest is None or action != "resume":
            return Claim(action, start, None, {})
        path, manifest = state.newest
        return Claim(action, start, path, manifest.written_by)

    with ExitStack() as stack:
        state = broadcast(run_on_rank_zero(claim))
        assert state is not None
        yield directories[0] if directories else directory_of_other_rank(run_dir), state
