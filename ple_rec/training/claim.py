"""The run directory of a training, held by rank 0 while the training lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.runs.checkpoints import checkpoint_place, restore_head
from ple_rec.runs.directory import RunDirectory, hold_run, of_other_rank
from ple_rec.runs.state import Action, Resume, decide, inspect
from ple_rec.storage import Location
from ple_rec.training.loggers import check_reachable
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.warm_start import Start, recorded_start, starting_point

_LOCK_WAIT_SECONDS = 30.0  # for a rank of the job's last attempt, which may still be dying, elsewhere


@dataclass(frozen=True)
class Claim:
    """What all ranks know of a run directory that rank 0 holds.

    Args:
        action: What the run does there.
        start: Where its first weights come from; None for random ones.
        newest: Newest checkpoint of a run that resumes, whose manifest can be read; None where there is none.
        written_by: What that manifest says of the run that wrote it.
    """

    action: Action
    start: Start | None
    newest: Location | None
    written_by: Mapping[str, Any]

    @property
    def resuming(self) -> bool:
        """Whether the run resumes."""
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
    """Hold the run directory by rank 0, and give every rank what it found there (a collective).

    It is decided under the lock, so with `resume="auto"` at every start of the ranks anew.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        prepare: Function that returns the prepared run; it is called if the run begins.
        resume: True to resume the run of the directory; "auto" to resume one where there is one.
        overwrite: True to replace the run of the directory.
        init_from: Run and checkpoint that a run starts from when it begins.

    Yields:
        The run directory, which holds it on rank 0 alone, and what was found there.

    Raises:
        UserError: another process holds it; it holds another run; or the run cannot start from where it should.
        DataError: what the run starts from, or resumes from, is damaged.
    """
    held: list[RunDirectory] = []

    def claim() -> Claim:
        decide(inspect(config, run_dir), config, resume=resume, overwrite=overwrite)  # before anything is made there
        wait = _LOCK_WAIT_SECONDS if resume == "auto" else 0.0
        held.append(stack.enter_context(hold_run(run_dir, checkpoint_place(config, run_dir), wait)))
        state = inspect(config, run_dir)  # another process may have begun, or ended, a run there meanwhile
        action = decide(state, config, resume=resume, overwrite=overwrite)
        if action != "begin" and state.is_lost:
            restore_head(state.newest_path, held[0])
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
        found = broadcast(run_on_rank_zero(claim))
        assert found is not None
        yield held[0] if held else of_other_rank(run_dir), found
