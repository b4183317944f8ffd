"""State of a run directory, and the decision whether a run begins, resumes or has finished there.

`inspect` reads the state, and `decide` computes the decision from it. Both are called where a job is submitted, and
again on rank 0 under the lock of the directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ple_rec.checkpoint.listing import find_checkpoint, finished_steps, pointer_target
from ple_rec.checkpoint.manifest import Manifest, read_manifest
from ple_rec.config.diff import Difference, changed_beyond
from ple_rec.config.load import fingerprint, load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError, Option, UserError
from ple_rec.runs.checkpoints import OWNER, checkpoint_place, identity, owner_of, refuse_others
from ple_rec.runs.layout import CONFIG, LEASE, REPLACED, REPORT, has_saved, holds_run, strangers_in
from ple_rec.runs.lineage import may_change
from ple_rec.runs.read import RunFiles
from ple_rec.storage import Location, explain_errors, names_in

# True needs a run to resume; "auto" begins a run if there is none.
Resume = bool | Literal["auto"]
Action = Literal["begin", "resume", "finished"]

# Number of changed keys that a refusal names.
_MOST_SHOWN = 5


@dataclass(frozen=True)
class DirectoryState:
    """State of a run directory and its place of checkpoints, for a configuration to train.

    Args:
        directory: Run directory.
        is_file: True if the path is a file.
        strangers: Names in the directory that no run writes.
        has_config: True if the directory has a `config.toml`, as each run directory does.
        has_saved: True if the run has had a checkpoint or results.
        holds_run: True if overwriting would lose results, or a checkpoint in any place.
        place: Place of the checkpoints by the configuration to train.
        outside: True if that place is outside of the run directory (`checkpoint.path`).
        owner: Run directory that owns the outside place; None if it has no owner.
        unowned: Names in an outside place without an owner.
        steps: Steps of the complete checkpoints in the place, ascending.
        newest: Newest checkpoint whose manifest can be read, with the manifest; None if there is none.
        damage: Damage of the file that names the latest checkpoint; None if it is intact or missing.
        changes: Keys that differ from the existing run and may not change when it is resumed; the error if its
            configuration cannot be read.
        is_finished: True if there are results and a report of the same configuration.
    """

    directory: Location
    is_file: bool
    strangers: Sequence[str]
    has_config: bool
    has_saved: bool
    holds_run: bool
    place: Location
    outside: bool
    owner: str | None
    unowned: Sequence[str]
    steps: Sequence[int]
    newest: tuple[Location, Manifest] | None
    damage: DataError | None
    changes: Sequence[Difference] | UserError
    is_finished: bool

    @property
    def newest_path(self) -> Location:
        """Directory of the newest checkpoint that can be read; if none can, that of the last step."""
        return self.newest[0] if self.newest else self.place / f"step-{self.steps[-1]}"

    @property
    def is_lost(self) -> bool:
        """True if the run has checkpoints to resume from, but its directory or its configuration is missing."""
        is_own = not self.outside or self.owner == identity(self.directory)
        return not self.has_config and is_own and bool(self.steps)


def inspect(config: RunConfig, run_dir: Location) -> DirectoryState:
    """Return the state of a run directory and its place of checkpoints.

    Args:
        config: Configuration to train there.
        run_dir: Directory of the run.

    Raises:
        UserError: A place of checkpoints cannot be read.
    """
    place = checkpoint_place(config, run_dir)
    outside = config.checkpoint.path is not None
    owner = owner_of(place) if outside else None
    with explain_errors(place):
        unowned = [name for name in names_in(place) if name != LEASE] if outside and owner is None else []
    replaced = (run_dir / REPLACED).is_file()
    # A run may be writing its first checkpoint, which marks the directory last. So the mark is read before the listing.
    had_checkpoint = has_saved(run_dir)
    steps, has_config = finished_steps(place), (run_dir / CONFIG).is_file()
    # A training run removes old checkpoints, perhaps all that were just listed, so the listing is repeated.
    if had_checkpoint and not steps:
        steps = finished_steps(place)
    # The next run removes the rest of a replaced run.
    if replaced:
        had_checkpoint, steps, has_config = False, [], False
    return DirectoryState(
        directory=run_dir,
        is_file=run_dir.exists() and not run_dir.is_dir(),
        strangers=strangers_in(run_dir),
        has_config=has_config,
        has_saved=had_checkpoint,
        holds_run=not replaced and _may_lose(run_dir),
        place=place,
        outside=outside,
        owner=owner,
        unowned=unowned,
        steps=steps,
        newest=None if replaced else _newest(place, steps),
        damage=None if replaced else _damage(place),
        changes=_changes(config, run_dir / CONFIG) if has_config else (),
        is_finished=not replaced and _is_finished(config, run_dir),
    )


def decide(state: DirectoryState, config: RunConfig, *, resume: Resume, overwrite: bool) -> Action:
    """Decide from the state of a directory what a run does there, without reading files.

    Args:
        state: Result of `inspect` for the same configuration.
        config: Configuration to train.
        resume: True to resume the run of the directory; "auto" to resume a run if the directory has one.
        overwrite: True to replace the run of the directory.

    Raises:
        UserError: The run may not begin or resume there.
        DataError: The file that names the latest checkpoint is damaged.
    """
    resuming = state.has_config or state.is_lost if resume == "auto" else resume
    if not (resuming and state.is_lost):
        _check_directory(state, resuming=resuming, overwrite=overwrite)
    check_place(state, resuming=resuming, overwrite=overwrite)
    if not resuming:
        return "begin"
    if (refusal := resume_refusal(state, config)) is not None:
        raise refusal
    if resume == "auto" and state.is_finished:
        return "finished"
    if state.has_saved and not state.steps:
        raise UserError(
            str(state.place),
            "holds no checkpoint",
            f"the run of {state.directory} has saved some there, and goes on from them",
            f"mount or copy them where they were; {Option.OVERWRITE} begins the run anew",
        )
    if state.damage is not None:
        raise state.damage
    return "resume"


def _check_directory(state: DirectoryState, *, resuming: bool, overwrite: bool) -> None:
    path = str(state.directory)
    if state.is_file:
        raise UserError(path, "is a file", "a run needs a directory", f"give another {Option.RUN_DIR}")
    if resuming:
        if not state.has_config:
            raise UserError(
                path, "holds no run", f"{Option.RESUME} goes on with one", f"start it without {Option.RESUME}"
            )
        return
    if state.strangers:
        raise UserError(
            path,
            f"holds {', '.join(state.strangers[:3])}, which no run wrote",
            "a run directory is empty or a run's",
            f"give another {Option.RUN_DIR}",
        )
    if state.holds_run and not overwrite:
        raise UserError(
            path,
            "already holds a run",
            "a run is never overwritten unasked",
            f"go on with {Option.RESUME}, replace it with {Option.OVERWRITE}, or give another {Option.RUN_DIR}",
        )


def check_place(state: DirectoryState, *, resuming: bool, overwrite: bool) -> None:
    """Refuse an outside place of checkpoints that belongs to another run, or has checkpoints that a new run would lose.

    Args:
        state: State of the run directory.
        resuming: True for a run that resumes.
        overwrite: True to replace the checkpoints of the place.

    Raises:
        UserError: The place may not be used.
    """
    if not state.outside:
        return
    if state.unowned and not resuming:
        raise UserError(
            str(state.place),
            f"holds {', '.join(state.unowned[:3])}, and no {OWNER} that says of which run",
            "a run's checkpoints lie apart from all else",
            f"give a checkpoint.path that is empty, as {state.place}/{{run}}",
        )
    if state.owner is not None:
        refuse_others(state.place, state.owner, state.directory)
    if state.steps and not resuming and not overwrite:
        raise UserError(
            str(state.place),
            "already holds checkpoints of this run directory",
            "they are never overwritten unasked",
            f"go on with {Option.RESUME} or {Option.AUTO_RESUME}, by which a run directory that is gone comes back; "
            f"replace them with {Option.OVERWRITE}, or give another checkpoint.path",
        )


def resume_refusal(state: DirectoryState, config: RunConfig) -> UserError | None:
    """Return the error of a configuration that a run cannot be resumed with; None if it can.

    Args:
        state: Result of `inspect` for the same configuration.
        config: Configuration to train.
    """
    if not state.changes:
        return None
    if isinstance(state.changes, UserError):
        return state.changes
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in state.changes[:_MOST_SHOWN])
    more = f"; and {len(state.changes) - _MOST_SHOWN} more" if len(state.changes) > _MOST_SHOWN else ""
    decay = config.schedule.decay
    ends = "" if decay == "none" else f" (not its length, since schedule.decay = {decay} ends with it)"
    return UserError(
        str(state.directory / CONFIG),
        listed + more,
        f"{Option.RESUME} goes on with the same run; only {', '.join(may_change(config))} may change{ends}",
        f"resume with {Option.CONFIG.to(str(state.directory / CONFIG))}, or start another {Option.RUN_DIR}",
    )


def _changes(config: RunConfig, file: Location) -> Sequence[Difference] | UserError:
    try:
        return changed_beyond(load_config(RunConfig, file), config, may_change(config))
    except UserError as error:
        return error


def _may_lose(run_dir: Location) -> bool:
    try:
        return holds_run(run_dir)
    except UserError:
        # An unreadable store may contain its checkpoints.
        return True


def _newest(place: Location, steps: Sequence[int]) -> tuple[Location, Manifest] | None:
    for name in ["latest", *(f"step-{step}" for step in reversed(steps))]:
        # The checkpoint may be damaged, which loading it reports, or may have just been removed.
        with suppress(DataError, UserError):
            if (path := find_checkpoint(place, name)) is not None:
                return path, read_manifest(path)
    return None


def _damage(place: Location) -> DataError | None:
    try:
        pointer_target(place, "latest")
    except DataError as error:
        return error
    return None


def _is_finished(config: RunConfig, run_dir: Location) -> bool:
    metrics = RunFiles(run_dir).metrics
    has_results = metrics.get("config_fingerprint") == fingerprint(config) and isinstance(metrics.get("steps"), int)
    return has_results and (run_dir / REPORT).is_file()
