"""The run directory of a job, from every rank's point of view: held, and decided whether the run goes on there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.distributed as dist

from ple_rec.config.diff import changed_beyond
from ple_rec.config.load import fingerprint, load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.parallel.agree import on_main
from ple_rec.training.checkpoints import check_kept, check_owned, claim_checkpoints, is_lost, restore_head
from ple_rec.training.run_dir import CONFIG, METRICS, REPORT, check_free, claimed, clear
from ple_rec.training.trained_on import may_change
from ple_rec.training.warm_start import Start, starting_point
from ple_rec.training.watch import check_reachable

# How a run treats what lies in its directory: goes on, or begins; "auto" goes on where there is a run to go on with.
Resume = bool | Literal["auto"]

_LOCK_WAIT_SECONDS = 30.0  # for a rank of the job's last attempt, which may still be dying, elsewhere


@dataclass(frozen=True)
class Claim:
    """What all ranks know of a run directory that their rank 0 holds.

    Args:
        resume: Whether the run goes on.
        start: Where its first weights come from; None: from random ones.
        finished: There is nothing left to do.
    """

    resume: bool
    start: Start | None
    finished: bool = False


def check_resumable(config: RunConfig, run_dir: Path) -> None:
    """Refuse to go on with a run under another configuration.

    Raises:
        UserError: a key differs that would make it another run.
    """
    free, decaying = may_change(config), config.schedule.decay != "none"
    changed = changed_beyond(load_config(RunConfig, run_dir / CONFIG), config, free)
    if changed:
        listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in changed[:5])
        raise UserError(
            str(run_dir / CONFIG),
            listed + (f"; and {len(changed) - 5} more" if len(changed) > 5 else ""),
            f"--resume goes on with the same run; only {', '.join(free)} may change"
            + (f" (not its length, since schedule.decay = {config.schedule.decay} ends with it)" if decaying else ""),
            f"resume with --config {run_dir / CONFIG}, or start another --run-dir",
        )


def holds_start(config: RunConfig, run_dir: Path) -> bool:
    """Whether a run has begun there, with or without a checkpoint, or has checkpoints though it is gone."""
    return (run_dir / CONFIG).is_file() or is_lost(config, run_dir)


def check_begins(config: RunConfig, run_dir: Path, *, resume: bool, overwrite: bool = False) -> None:
    """Refuse a run directory, or a place of checkpoints, that this run may not use.

    Raises:
        UserError: so it is.
    """
    if not (resume and is_lost(config, run_dir)):
        check_free(run_dir, resume=resume, overwrite=overwrite)
    check_owned(config, run_dir, resume=resume, overwrite=overwrite)


def _check_goes_on(config: RunConfig, run_dir: Path) -> None:
    """`check_resumable`, of a run directory that is restored where it is gone."""
    if is_lost(config, run_dir):
        restore_head(config, run_dir)
    check_resumable(config, run_dir)


def take_over(config: RunConfig, run_dir: Path, *, resume: bool) -> None:
    """Remove what an earlier run left, unless it goes on, and make the place of checkpoints this run's.

    It comes once everything that can refuse the run has been looked at.

    Raises:
        UserError: another run has taken the place meanwhile, or it cannot be read or written.
    """
    claim_checkpoints(config, run_dir, overwrite=not resume)  # first: it may be refused
    if not resume:
        clear(run_dir)


def is_finished(config: RunConfig, run_dir: Path) -> bool:
    """Whether the run that lies there has its results and their report, and they are of this very configuration."""
    try:
        metrics = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
        same = metrics["config_fingerprint"] == fingerprint(config) and isinstance(metrics["steps"], int)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # none, or not whole: it is written anew
        return False
    return same and (run_dir / REPORT).is_file()


@contextmanager
def run_claimed(
    config: RunConfig, run_dir: Path, *, resume: Resume, overwrite: bool, init_from: tuple[Path, str] | None
) -> Iterator[Claim]:
    """Hold the run directory by rank 0; what it found there, the same on every rank (a collective).

    With `resume="auto"` it is decided now, under the lock, so at every start of the ranks anew.

    Raises:
        UserError: another process holds it; it holds another run; or the run cannot start from where it should.
        DataError: what the run starts from is damaged.
    """
    with ExitStack() as stack:
        claim = [on_main(lambda: _claim(stack, config, run_dir, resume, overwrite, init_from))]
        dist.broadcast_object_list(claim, src=0)
        assert claim[0] is not None
        yield claim[0]


def _claim(
    stack: ExitStack,
    config: RunConfig,
    run_dir: Path,
    resume: Resume,
    overwrite: bool,
    init_from: tuple[Path, str] | None,
) -> Claim:
    auto = resume == "auto"

    def decide() -> bool:
        goes_on = holds_start(config, run_dir) if auto else bool(resume)
        check_begins(config, run_dir, resume=goes_on, overwrite=overwrite)
        return goes_on

    decide()  # before anything is made there
    stack.enter_context(claimed(run_dir, wait=_LOCK_WAIT_SECONDS if auto else 0.0))
    goes_on = decide()  # another process may have begun, or ended, a run there meanwhile
    if goes_on:
        _check_goes_on(config, run_dir)
    start = starting_point(config, run_dir, None if auto and goes_on else init_from, resume=goes_on)
    if auto and goes_on and is_finished(config, run_dir):
        return Claim(goes_on, start, finished=True)
    if goes_on:
        check_kept(config, run_dir)
    check_reachable(config.watch)
    return Claim(goes_on, start)
