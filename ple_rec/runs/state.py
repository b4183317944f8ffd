"""State of a run directory, and the decision whether a run begins, resumes or has finished there.

`inspect_directory` reads the state, and `decide_action` computes the decision from it. Both are called before a job is
started or submitted, and again on rank 0 under the lock of the directory.

The checkpoints of a run are in its directory, or in the place that `checkpoint.path` names. Such an outside place has
an owner, the run whose directory its file run.json names; no other run may use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ple_rec.checkpoint.listing import find_checkpoint, finished_steps, pointer_target
from ple_rec.checkpoint.manifest import Manifest, read_manifest
from ple_rec.config.diff import Difference, disallowed_differences
from ple_rec.config.load import fingerprint, load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError, Option, UserError
from ple_rec.runs.checkpoints import OWNER_FILE, check_owner, checkpoint_place, full_address, read_owner
from ple_rec.runs.layout import CONFIG, LEASE, REPLACED, REPORT, foreign_names, has_saved, holds_run
from ple_rec.runs.lineage import changeable_keys
from ple_rec.runs.read import RunFiles
from ple_rec.storage import Location, explain_errors, names_in

# Without a run to resume, True is an error, and "auto" begins a run. False always begins one.
Resume = bool | Literal["auto"]
Action = Literal["begin", "resume", "finished"]

# Largest number of changed keys that an error names.
_MOST_SHOWN = 5


@dataclass(frozen=True)
class DirectoryState:
    """State of a run directory and its place of checkpoints, for a configuration to train.

    If a process was killed while it replaced a run, the remaining files of that run count as absent in all fields but
    `foreign_names`, `owner` and `unowned_names`.

    Args:
        directory: Run directory.
        is_file: True if the path is a file.
        foreign_names: Names in the directory and its folders that no run writes.
        has_config: True if the directory has a `config.toml`, as each run directory does.
        has_saved: True if the run has had a checkpoint or results.
        holds_run: True if overwriting would lose results, or a checkpoint in any place, or if the store of the
            checkpoints cannot be read. A configuration alone does not count.
        checkpoint_place: Place of the checkpoints by the configuration to train.
        is_outside: True if this place is outside of the run directory (`checkpoint.path`).
        owner: Run directory that owns the outside place; None if it has no owner.
        unowned_names: Names in an outside place without an owner, except the lease; empty for other places.
        steps: Steps of the complete checkpoints in the place, ascending.
        newest: Checkpoint that `latest` names, or else the newest one, with its manifest; a checkpoint whose manifest
            cannot be read does not count. None if none is left.
        damage: Error of the file that names the latest checkpoint; None if it is intact or missing.
        changes: Keys that differ from the existing run and may not change when it is resumed; empty without a run; the
            error if its configuration cannot be read.
        is_finished: True if there are results and a report of the same configuration.
    """

    directory: Location
    is_file: bool
    foreign_names: Sequence[str]
    has_config: bool
    has_saved: bool
    holds_run: bool
    checkpoint_place: Location
    is_outside: bool
    owner: str | None
    unowned_names: Sequence[str]
    steps: Sequence[int]
    newest: tuple[Location, Manifest] | None
    damage: DataError | None
    changes: Sequence[Difference] | UserError
    is_finished: bool

    @property
    def newest_path(self) -> Location:
        """Directory of `newest`, or else of the last of `steps`, which then must not be empty."""
        return self.newest[0] if self.newest else self.checkpoint_place / f"step-{self.steps[-1]}"

    @property
    def is_lost(self) -> bool:
        """True if the run has checkpoints to resume from, but its directory or its configuration is missing."""
        is_own = not self.is_outside or self.owner == full_address(self.directory)
        return not self.has_config and is_own and bool(self.steps)


def inspect_directory(config: RunConfig, run_dir: Location) -> DirectoryState:
    """Return the state of a run directory and its place of checkpoints.

    Args:
        config: Configuration to train there.
        run_dir: Directory of the run.

    Raises:
        UserError: The place of the checkpoints cannot be read, or its address is not valid.
    """
    place = checkpoint_place(config, run_dir)
    is_outside = config.checkpoint.path is not None
    owner = read_owner(place) if is_outside else None
    with explain_errors(place):
        unowned_names = [name for name in names_in(place) if name != LEASE] if is_outside and owner is None else []
    is_replaced = (run_dir / REPLACED).is_file()
    # A run that is just saving its first checkpoint writes the file SAVED last. If SAVED were read after the listing,
    # the checkpoint could seem to be lost.
    saved = has_saved(run_dir)
    steps, has_config = finished_steps(place), (run_dir / CONFIG).is_file()
    # If a training run removes old checkpoints while they are listed, the listing may find none although there are
    # newer ones. So an empty listing is repeated.
    if saved and not steps:
        steps = finished_steps(place)
    # The file REPLACED means that a process was killed while it removed the run. The next run removes what is left of
    # that run, so its files do not count.
    if is_replaced:
        saved, steps, has_config = False, [], False
    return DirectoryState(
        directory=run_dir,
        is_file=run_dir.exists() and not run_dir.is_dir(),
        foreign_names=foreign_names(run_dir),
        has_config=has_config,
        has_saved=saved,
        holds_run=not is_replaced and _may_hold_run(run_dir),
        checkpoint_place=place,
        is_outside=is_outside,
        owner=owner,
        unowned_names=unowned_names,
        steps=steps,
        newest=None if is_replaced else _newest(place, steps),
        damage=None if is_replaced else _damage(place),
        changes=_changes(config, run_dir / CONFIG) if has_config else (),
        is_finished=not is_replaced and _is_finished(config, run_dir),
    )


def decide_action(state: DirectoryState, config: RunConfig, *, resume: Resume, overwrite: bool) -> Action:
    """Decide from the state of a directory what a run does there, without reading files.

    "finished" is returned only for `resume="auto"`; True resumes a finished run, for example to train longer.

    Args:
        state: Result of `inspect_directory` for the same configuration.
        config: Configuration to train.
        resume: True to resume the run of the directory; "auto" to resume a run if the directory has one.
        overwrite: True to replace the run of the directory; ignored if a run is resumed.

    Raises:
        UserError: The run may not begin or resume there.
        DataError: The file that names the latest checkpoint is damaged.
    """
    is_resuming = state.has_config or state.is_lost if resume == "auto" else resume
    if not (is_resuming and state.is_lost):
        _check_directory(state, resuming=is_resuming, overwrite=overwrite)
    check_checkpoint_place(state, resuming=is_resuming, overwrite=overwrite)
    if not is_resuming:
        return "begin"
    if (refusal := resume_refusal(state, config)) is not None:
        raise refusal
    if resume == "auto" and state.is_finished:
        return "finished"
    if state.has_saved and not state.steps:
        raise UserError(
            str(state.checkpoint_place),
            "holds no checkpoint",
            f"the run of {state.directory} has saved checkpoints there, from which it resumes",
            f"mount them or copy them back; {Option.OVERWRITE} begins the run anew",
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
    if state.foreign_names:
        raise UserError(
            path,
            f"holds {', '.join(state.foreign_names[:3])}, which no run wrote",
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


def check_checkpoint_place(state: DirectoryState, *, resuming: bool, overwrite: bool) -> None:
    """Refuse an outside place of checkpoints that another run owns, or in which a new run would overwrite checkpoints.

    A place without an owner that holds any files is refused for a new run, too.

    Args:
        state: State of the run directory.
        resuming: True for a run that resumes.
        overwrite: True to replace the checkpoints of the place.

    Raises:
        UserError: The place may not be used.
    """
    if not state.is_outside:
        return
    if state.unowned_names and not resuming:
        raise UserError(
            str(state.checkpoint_place),
            f"holds {', '.join(state.unowned_names[:3])}, and no {OWNER_FILE} that names their run",
            "the checkpoints of a run need a directory of their own",
            f"give a checkpoint.path that is empty, such as {state.checkpoint_place}/{{run}}",
        )
    if state.owner is not None:
        check_owner(state.checkpoint_place, state.owner, state.directory)
    if state.steps and not resuming and not overwrite:
        raise UserError(
            str(state.checkpoint_place),
            "already holds checkpoints of this run directory",
            "they are never overwritten unasked",
            f"go on with {Option.RESUME} or {Option.AUTO_RESUME}, which restore a lost run directory; "
            f"replace them with {Option.OVERWRITE}, or give another checkpoint.path",
        )


def resume_refusal(state: DirectoryState, config: RunConfig) -> UserError | None:
    """Return the error if the run of a directory cannot be resumed with a configuration; None if it can.

    Args:
        state: Result of `inspect_directory` for the same configuration.
        config: Configuration to train.
    """
    if not state.changes:
        return None
    if isinstance(state.changes, UserError):
        return state.changes
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in state.changes[:_MOST_SHOWN])
    more = f"; and {len(state.changes) - _MOST_SHOWN} more" if len(state.changes) > _MOST_SHOWN else ""
    decay = config.schedule.decay
    length_note = (
        "" if decay == "none" else f" (the length of the run may not, since schedule.decay = {decay} ends with the run)"
    )
    return UserError(
        str(state.directory / CONFIG),
        listed + more,
        f"{Option.RESUME} goes on with the same run; only {', '.join(changeable_keys(config))} may change{length_note}",
        f"resume with {Option.CONFIG.with_value(str(state.directory / CONFIG))}, or start another {Option.RUN_DIR}",
    )


def _changes(config: RunConfig, file: Location) -> Sequence[Difference] | UserError:
    try:
        return disallowed_differences(load_config(RunConfig, file), config, changeable_keys(config))
    except UserError as error:
        return error


def _may_hold_run(run_dir: Location) -> bool:
    try:
        return holds_run(run_dir)
    except UserError:
        # A store that cannot be read may contain the checkpoints of the run.
        return True


def _newest(place: Location, steps: Sequence[int]) -> tuple[Location, Manifest] | None:
    for name in ["latest", *(f"step-{step}" for step in reversed(steps))]:
        # A checkpoint with a damaged manifest is skipped here, and reported when it is loaded. A missing one was just
        # removed by a training process.
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
