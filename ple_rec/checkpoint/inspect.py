"""Checkpoints of a run, read by one process: list them, find damage, and list their content."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from ple_rec.checkpoint.listing import finished_steps, pointer_target
from ple_rec.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    check_content,
    check_size,
    explain_removal,
    is_removed,
    read_manifest,
)
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, explain_errors, modified_at


@dataclass(frozen=True)
class CheckpointEntry:
    """Finished checkpoint.

    Args:
        path: Directory of the checkpoint.
        manifest: Manifest of the checkpoint, or None if it cannot be read.
        names: Pointers to this checkpoint: `latest`, `best`, both or none.
        written: Time at which the manifest was written, or None if the store has no times.
    """

    path: Location
    manifest: Manifest | None
    names: tuple[str, ...]
    written: datetime | None

    @property
    def bytes(self) -> int | None:
        """Total size of the files in bytes, by the manifest, or None if that cannot be read."""
        return None if self.manifest is None else sum(file.bytes for file in self.manifest.files.values())


def entries(directory: Location) -> list[CheckpointEntry]:
    """Return the finished checkpoints, that is, those with a manifest, in order of their steps.

    Raises:
        DataError: `latest` or `best` does not contain the name of a checkpoint.
    """
    pointers = {name: pointer_target(directory, name) for name in ("latest", "best")}
    checkpoints = []
    for step in finished_steps(directory):
        path = directory / f"step-{step}"
        try:
            manifest = read_manifest(path)
        except DataError:
            manifest = None
        with explain_errors(path):
            try:
                written = modified_at(path / MANIFEST)
            except FileNotFoundError:
                # The run has removed the checkpoint meanwhile.
                continue
        names = tuple(name for name, target in pointers.items() if target == path.name)
        checkpoints.append(CheckpointEntry(path, manifest, names, written))
    return checkpoints


def damages(path: Location) -> list[DataError] | None:
    """Return an error for each missing, truncated or changed file of a checkpoint, or None if its run has removed it.

    Raises:
        UserError: The store cannot be read.
    """
    errors = []
    try:
        for name, file in read_manifest(path).files.items():
            try:
                with explain_errors(path):
                    check_content(path, name, file)
            except DataError as error:
                errors.append(error)
    except DataError as error:
        errors.append(error)
    except UserError:
        if not is_removed(path):
            raise
        return None
    return None if errors and is_removed(path) else errors


@dataclass(frozen=True)
class Item:
    """Tensor or plain value under one key of a checkpoint.

    Args:
        key: Key as a dotted path, for example "model.towers.0.weight".
        shape: Shape of the whole tensor, or None for a plain value.
        dtype: Name of the tensor's type, for example "float32", or "" for a plain value.
        bytes: Size of the whole tensor in bytes, or 0 for a plain value.
        pieces: Number of pieces in which it was written.
    """

    key: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int
    pieces: int


def items(path: Location) -> list[Item]:
    """Return all tensors and plain values of a checkpoint, in order of their keys.

    Args:
        path: Directory of the checkpoint.

    Raises:
        DataError: A file is missing or truncated, or `.metadata` is damaged or names something that no checkpoint has.
        UserError: The store cannot be read, or the run has removed the checkpoint.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from ple_rec.checkpoint.files import CheckpointReader

    with explain_removal(path), explain_errors(path):
        for name, file in read_manifest(path).files.items():
            check_size(path, name, file)
        metadata = CheckpointReader(path).read_metadata()
    content = []
    for key, value in sorted(metadata.state_dict_metadata.items()):
        if isinstance(value, TensorStorageMetadata):
            size, dtype = tuple(value.size), value.properties.dtype
            count = math.prod(size) * dtype.itemsize
            content.append(Item(key, size, str(dtype).removeprefix("torch."), count, len(value.chunks)))
        else:
            content.append(Item(key, None, "", 0, 1))
    return content
