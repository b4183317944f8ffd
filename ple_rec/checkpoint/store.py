"""Checkpoints of a run on disk.

checkpoints/step-<n>/     written whole, by torch.distributed.checkpoint, into a directory never used before
checkpoints/step-<n>/manifest.json    written last: a checkpoint without it does not exist
checkpoints/{latest,best} the name of one of them
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from ple_rec.errors import DataError, UserError

MANIFEST = "manifest.json"


class CheckpointStore:
    """The checkpoints of one run; every rank makes one and calls it together with the others.

    Args:
        directory: `<run>/checkpoints`.
        keep: Newest checkpoints kept, beside the best.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep

    def save(self, step: int, state: dict[str, Any], *, best: bool) -> Path:
        """Write `state` as the checkpoint of `step` (a collective), make it `latest`, and `best` where said.

        Raises:
            UserError: the disk is full or not writable; nothing then counts as a checkpoint.
        """
        path = self.directory / f"step-{step}"
        with _writing(path):
            if dist.get_rank() == 0 and path.exists():
                shutil.rmtree(path)  # an unfinished or superseded save: a save over it could mix old and new
            dist.barrier()
            dcp.save(state, checkpoint_id=path)
        with _on_main(path) as main:
            if main:
                files = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
                _write(path / MANIFEST, json.dumps({"version": 1, "step": step, "files": files}, indent=1))
                _write(self.directory / "latest", path.name)
                if best:
                    _write(self.directory / "best", path.name)
                self._prune()
        return path

    def find(self, name: str) -> Path | None:
        """The checkpoint that `latest`, `best` or `step-<n>` names, or None."""
        pointer = self.directory / name
        path = self.directory / pointer.read_text().strip() if pointer.is_file() else pointer
        return path if (path / MANIFEST).is_file() else None

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(int(file.parent.name.split("-")[1]) for file in self.directory.glob(f"step-*/{MANIFEST}"))

    def _prune(self) -> None:
        best = self.find("best")
        for step in self.steps()[: -self.keep]:
            path = self.directory / f"step-{step}"
            if path != best:
                (path / MANIFEST).unlink()  # first, so that a half-removed checkpoint does not exist
                shutil.rmtree(path)


def load(path: Path, state: dict[str, Any]) -> None:
    """Fill `state`'s tensors in place, and replace its other values, from a checkpoint (a collective).

    Raises:
        DataError: the checkpoint lacks a key, has another shape, or is damaged.
    """
    manifest = json.loads((path / MANIFEST).read_text())
    for name, size in manifest["files"].items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            raise DataError(
                str(path / name),
                "missing" if found is None else f"{found} bytes",
                f"the manifest says {size} bytes",
                "use another checkpoint of the run (`latest`, `best` and `step-*` beside it)",
            )
    try:
        dcp.load(state, checkpoint_id=path)
    except (RuntimeError, ValueError, dcp.api.CheckpointException) as error:
        raise DataError(
            str(path),
            f"it does not fit this model ({' '.join(str(error).split())[:500]})",
            "model, tables and optimizers are those of the run that wrote it",
            "use the configuration saved in the run's config.toml",
        ) from error


def _write(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    with partial.open("w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        raise UserError(
            str(path),
            f"cannot be written ({' '.join(str(error).split())[:300]})",
            "a checkpoint needs room and permission; earlier checkpoints are untouched",
            "free space or correct the permission, then run again with --resume",
        ) from error


@contextmanager
def _on_main(path: Path) -> Iterator[bool]:
    """True on rank 0; an error there is raised on every rank, so that none waits for it."""
    failed: list[OSError | None] = [None]
    main = dist.get_rank() == 0
    try:
        yield main
    except OSError as error:
        failed = [error]
    dist.broadcast_object_list(failed, src=0)
    if failed[0] is not None:
        with _writing(path):
            raise failed[0]
