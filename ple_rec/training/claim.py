"""The run directory of a training, held by rank 0 while the training lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.parallel.agree import broadcast, on_main
from ple_rec.storage import Location, explain_errors, remove_tree
from ple_rec.training.checkpoints import checkpoint_place, claim_checkpoints, restore_head
from ple_rec.training.mirror import hold_run, mirror_of, push
from ple_rec.training.run_dir import clear
from ple_rec.training.run_state import Action, Resume, decide, inspect
from ple_rec.training.warm_start import Start, recorded_start, starting_point
from ple_rec.training.watch import check_reachable

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
    config: RunConfig, run_dir: Path, *, resume: Resume, overwrite: bool, init_from: tuple[Path, str] | None
) -> Iterator[Claim]:
    """Hold the run directory by rank 0, and give every rank what it found there (a collective).

    It is decided under the lock, so with `resume="auto"` at every start of the ranks anew.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        resume: True to resume the run of the directory; "auto" to resume one where there is one.
        overwrite: True to replace the run of the directory.
        init_from: Run and checkpoint that a run starts from when it begins.

    Raises:
        UserError: another process holds it; it holds another run; or the run cannot start from where it should.
        DataError: what the run starts from, or resumes from, is damaged.
    """

    def claim() -> Claim:
        decide(inspect(config, run_dir), config, resume=resume, overwrite=overwrite)  # before anything is made there
        stack.enter_context(hold_run(run_dir, _LOCK_WAIT_SECONDS if resume == "auto" else 0.0))
        state = inspect(config, run_dir)  # another process may have begun, or ended, a run there meanwhile
        action = decide(state, config, resume=resume, overwrite=overwrite)
        if action != "begin" and state.is_lost:
            restore_head(state.newest_path, run_dir)
            state = inspect(config, run_dir)
            action = decide(state, config, resume=resume, overwrite=overwrite)
        if action != "finished":
            check_reachable(config.watch)
        start = starting_point(config, run_dir, init_from) if action == "begin" else recorded_start(run_dir)
        if state.newest is None or action != "resume":
            return Claim(action, start, None, {})
        path, manifest = state.newest
        return Claim(action, start, path, manifest.written_by)

    with ExitStack() as stack:
        found = broadcast(on_main(claim))
        assert found is not None
        yield found


def take_over(config: RunConfig, run_dir: Path, *, resuming: bool) -> None:
    """Remove what an earlier run left, unless it is resumed, and make the place of checkpoints this run's.

    It comes once everything that can refuse the run has been looked at.

    Raises:
        UserError: another run has taken the place meanwhile, or it cannot be read or written.
    """
    claim_checkpoints(config, run_dir, overwrite=False)  # first: it may be refused
    if not resuming:
        clear(run_dir)
        push(run_dir)  # results whose checkpoints are gone would be those of a finished run
        claim_checkpoints(config, run_dir, overwrite=True)
        if config.checkpoint.path is None and mirror_of(run_dir) is not None:
            where = checkpoint_place(config, run_dir)
            with explain_errors(where, "removed"):
                remove_tree(where)
