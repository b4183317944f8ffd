"""State of a run directory, and what a run of a configuration does with it: begins, resumes or has nothing left to do.

`inspect` reads, `decide` computes: where a job is submitted, and again on rank 0 under the directory's lock.
"""

from __future__ import annotations

import json
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
from ple_rec.runs.layout import CONFIG, LEASE, METRICS, REPLACED, REPORT, has_saved, holds_run, strangers_in
from ple_rec.runs.lineage import may_change
from ple_rec.storage import Location, explain_errors, names_in

Resume = bool | Literal["auto"]  # True insists on a run to resume, "auto" begins one where there is none
Action = Literal["begin", "resume", "finished"]

_SHOWN = 5  # changed keys that a refusal names


@dataclass(frozen=True)
class DirectoryState:
    """What a run directory and the place of its checkpoints hold, seen from a configuration that is to be trained.

    Args:
        directory: Run directory.
        is_file: Whether a file stands where the directory should.
        strangers: Names in the directory that no run writes.
        has_config: Whether the directory has a `config.toml`, without which it is no run's.
        has_saved: Whether the run has had a checkpoint or results.
        holds_run: Whether overwriting would lose something: results, or a checkpoint here or away.
        place: Location of the checkpoints by the configuration that is to be trained.
        outside: Whether that place lies outside of the run directory (`checkpoint.path`).
        owner: Run directory that the outside place belongs to; None where it is nobody's.
        unowned: Names in an outside place that is nobody's.
        steps: Steps of the finished checkpoints in the place, ascending.
        newest: Newest checkpoint whose manifest can be read, with the manifest.
        damage: Damage of the file that names the latest checkpoint; None where it is whole or not there.
        changes: Keys that differ from the run that is there and may not when it is resumed; the error where its
            configuration cannot be read.
        is_finished: Whether there are results and a report of this very configuration.
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
        """Directory of the newest checkpoint; of several that cannot be read, the last."""
        return self.newest[0] if self.newest else self.place / f"step-{self.steps[-1]}"

    @property
    def is_lost(self) -> bool:
        """Whether the run has checkpoints to resume from, but its directory, or the configuration there, is gone."""
        own = not self.outside or self.owner == identity(self.directory)
        return not self.has_config and own and bool(self.steps)


def inspect(config: RunConfig, run_dir: Location) -> DirectoryState:
    """Read what a run directory and the place of its checkpoints hold.

    Args:
        config: Configuration that is to be trained there.
        run_dir: Directory of the run.

    Raises:
        UserError: a place of checkpoints cannot be read.
    """
    place = checkpoint_place(config, run_dir)
    outside = config.checkpoint.path is not None
    owner = owner_of(place) if outside else None
    with explain_errors(place):
        unowned = [name for name in names_in(place) if name != LEASE] if outside and owner is None else []
    replaced = (run_dir / REPLACED).is_file()
    saved = has_saved(run_dir)  # before the checkpoints, of which a run that trains there may write its first meanwhile
    steps, has_config = finished_steps(place), (run_dir / CONFIG).is_file()
    if saved and not steps:  # a run that trains there removes older checkpoints, perhaps just those that were listed
        steps = finished_steps(place)
    if replaced:  # What is left of an earlier run is removed by the next one.
        saved, steps, has_config = False, [], False
    return DirectoryState(
        directory=run_dir,
        is_file=run_dir.exists() and not run_dir.is_dir(),
        strangers=strangers_in(run_dir),
        has_config=has_config,
        has_saved=saved,
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
    """Return what a run does with the state of its directory; reads nothing.

    Args:
        state: State by `inspect` of the same configuration.
        config: Configuration that is to be trained.
        resume: True to resume the run of the directory; "auto" to resume one where there is one.
        overwrite: True to replace the run of the directory.

    Raises:
        UserError: the run may not begin or resume there.
        DataError: the run that is there does not say which checkpoint is its latest.
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
    """Refuse a place of checkpoints outside of the run directory that is not this run's, or that it has filled before.

    Args:
        state: State of the run directory.
        resuming: True for a run that resumes.
        overwrite: True to replace the checkpoints of the place.

    Raises:
        UserError: the place may not be used.
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
    """Return why a run cannot be resumed under a configuration: a key would make it another run; None where it can.

    Args:
        state: State of the run directory by the same configuration.
        config: Configuration that is to be trained.
    """
    if not state.changes:
        return None
    if isinstance(state.changes, UserError):
        return state.changes
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in state.changes[:_SHOWN])
    more = f"; and {len(state.changes) - _SHOWN} more" if len(state.changes) > _SHOWN else ""
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
    except UserError:  # a store that cannot be read may hold its checkpoints
        return True


def _newest(place: Location, steps: Sequence[int]) -> tuple[Location, Manifest] | None:
    for name in ["latest", *(f"step-{step}" for step in reversed(steps))]:
        with suppress(DataError, UserError):  # whoever loads says what is damaged; or it has been removed meanwhile
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
    try:
        metrics = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
        same = metrics["config_fingerprint"] == fingerprint(config) and isinstance(metrics["steps"], int)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # absent, or not whole: it is written anew
        return False
    return same and (run_dir / REPORT).is_file()
