"""Checkpoints of a run on disk.

checkpoints/step-<n>/     written whole, by torch.distributed.checkpoint, into a directory never used before
checkpoints/step-<n>/manifest.json    written last, with sizes and checksums: a checkpoint without it does not exist
checkpoints/{latest,best} the name of one of them
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan

from ple_rec.checkpoint.manifest import MANIFEST, File, Manifest, check_content, check_size, checksum, read_manifest
from ple_rec.errors import DataError, UserError
from ple_rec.parallel.agree import on_main

_SHOWN = 300  # characters of a library's message that ours repeats


class CheckpointStore:
    """The checkpoints of one run; every rank makes one and calls it together with the others.

    Args:
        directory: `<run>/checkpoints`.
        keep: Newest checkpoints kept, beside the best.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep
        self.seconds: float | None = None  # of the last save, as rank 0 saw it

    def save(self, step: int, state: dict[str, Any], *, best: bool, written_by: Mapping[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step` (a collective), make it `latest`, and `best` where said.

        Args:
            step: Its number.
            state: Tensors, shards of tables and plain values, nested.
            best: Whether it becomes `best` too.
            written_by: What a reader must know before it loads; kept in the manifest.

        Raises:
            UserError: the disk is full or not writable; nothing then counts as a checkpoint. A PeerError on the other
                ranks, where it failed on rank 0 alone.
        """
        path, begun = self.directory / f"step-{step}", time.monotonic()
        on_main(lambda: self._make_room(path))
        try:
            dcp.save(state, checkpoint_id=path)
        except dcp.api.CheckpointException as error:  # raised on every rank
            on_main(lambda: shutil.rmtree(path, ignore_errors=True))
            if error.args[0] != "write":
                raise
            raise _unwritable(path, next(iter(error.failures.values()))[0]) from error
        files = _sums(path)
        on_main(lambda: self._commit(path, Manifest(step, written_by, files), best))
        taken = [on_main(lambda: time.monotonic() - begun)]
        dist.broadcast_object_list(taken, src=0)
        self.seconds = taken[0]
        return path

    def find(self, name: str) -> Path | None:
        """The checkpoint that `latest`, `best` or `step-<n>` names, or None."""
        pointer = self.directory / name
        path = self.directory / pointer.read_text().strip() if pointer.is_file() else pointer
        return path if (path / MANIFEST).is_file() else None

    def require(self, name: str) -> Path:
        """The checkpoint that `latest`, `best` or `step-<n>` names.

        Raises:
            UserError: there is none.
        """
        path = self.find(name)
        if path is None:
            known = [each for each in ("best", "latest") if self.find(each)] + [f"step-{n}" for n in self.steps()]
            raise UserError(
                str(self.directory),
                f"no checkpoint {name!r}",
                f"there are {', '.join(known) or 'none'}",
                "name one of them, or train the run first",
            )
        return path

    def newest_good(self, say: Callable[[str], None]) -> Path | None:
        """The newest checkpoint whose files are all as they were written, or None without any (a collective).

        Args:
            say: Told, on rank 0, of each that is damaged.

        Raises:
            DataError: there are some, and all are damaged.
        """
        found = [on_main(self._newest_first)]
        dist.broadcast_object_list(found, src=0)
        damage: str | None = None
        for path in found[0] or ():
            damage = damage_of(path)
            if damage is None:
                return path
            if dist.get_rank() == 0:
                say(f"{path.name} is damaged and left out: {damage}")
        if damage is not None:
            raise DataError(str(self.directory), damage, "every checkpoint of the run is damaged", "train it anew")
        return None

    def _newest_first(self) -> list[Path]:
        """Checkpoints up to the latest; later ones are of an attempt that was given up."""
        latest = self.find("latest")
        last = int(latest.name.split("-")[1]) if latest is not None else None
        steps = [step for step in self.steps() if last is None or step <= last]
        return [self.directory / f"step-{step}" for step in reversed(steps)]

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(int(file.parent.name.split("-")[1]) for file in self.directory.glob(f"step-*/{MANIFEST}"))

    def _make_room(self, path: Path) -> None:
        with _writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _remove(path)  # an unfinished or superseded save: a save over it could mix old and new

    def _commit(self, path: Path, manifest: Manifest, best: bool) -> None:
        with _writing(path):
            _write(path / MANIFEST, manifest.text())
            if best:  # before `latest`: a run that dies in between does the step again, and finds the same best
                _write(self.directory / "best", path.name)
            _write(self.directory / "latest", path.name)
            self._prune(manifest.step)

    def _prune(self, step: int) -> None:
        """Remove what is neither best nor among the newest up to `step`; later ones are of an abandoned attempt."""
        steps = self.steps()
        kept = {f"step-{n}" for n in [n for n in steps if n <= step][-self.keep :]}
        best = self.find("best")
        for name in (f"step-{n}" for n in steps):
            if name not in kept and (best is None or name != best.name):
                _remove(self.directory / name)


def _sums(path: Path) -> dict[str, File]:
    """Every file of a checkpoint that was just written, each summed by the rank that wrote it (a collective).

    Raises:
        UserError: one cannot be read, on every rank.
    """
    rank = dist.get_rank()
    own: dict[str, File] | OSError
    try:
        names = [*path.glob(f"__{rank}_*"), *([path / ".metadata"] if rank == 0 else [])]
        own = {file.name: checksum(file) for file in names}
    except OSError as error:
        own = error
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    for part in every:
        if isinstance(part, OSError):
            raise _unwritable(path, part)
    return dict(sorted((name, file) for part in every for name, file in part.items()))


def damage_of(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None; every rank reads a share of its files (a collective)."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    said: str | None = None
    try:
        files = list(read_manifest(path).files.items())
        for name, file in files[rank::world_size]:
            check_content(path, name, file)
    except DataError as error:
        said = f"{error.place}: {error.value}; {error.rule}"
    every: list[str | None] = [None] * world_size
    dist.all_gather_object(every, said)
    return next((text for text in every if text is not None), None)


def load(path: Path, state: dict[str, Any]) -> None:
    """Fill `state`'s tensors in place, and replace its other values, from a checkpoint (a collective).

    Raises:
        DataError: the checkpoint lacks a key, has another shape, or is damaged.
    """
    for name, file in read_manifest(path).files.items():
        check_size(path, name, file)
    try:
        dcp.load(state, checkpoint_id=path, planner=_LoadPlanner())
    except dcp.api.CheckpointException as error:  # raised on every rank, with the causes of all
        cause = next(iter(error.failures.values()))[0]
        raise DataError(
            str(path),
            f"it does not fit this model ({_short(cause)})",
            "model, tables and optimizers are those of the run that wrote it",
            "use the configuration saved in the run's config.toml",
        ) from error


class _LoadPlanner(dcp.DefaultLoadPlanner):
    """The stock planner without its look back at the key names of torch 2.3.

    It takes a checkpoint for one of those as soon as a rank does not hold every key of it, which is the rule where a
    table lives on one rank; and it names the wrong key as missing.
    """

    def create_local_plan(self) -> dcp.LoadPlan:
        """What this rank reads."""
        assert self.metadata is not None
        return create_default_local_load_plan(self.state_dict, self.metadata)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN]


def _remove(path: Path) -> None:
    (path / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed checkpoint does not exist
    shutil.rmtree(path)


def _write(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    with partial.open("w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def _unwritable(path: Path, error: BaseException) -> UserError:
    # Of a write that the file system cuts short torch says no more than that a position is not the expected one.
    free = shutil.disk_usage(path.parent).free >> 20
    return UserError(
        str(path),
        f"cannot be written ({_short(error)}), with {free:,} MiB free",
        "a checkpoint needs room and permission; earlier checkpoints are untouched",
        "free space or correct the permission, then run again with --resume",
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error
