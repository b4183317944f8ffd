"""Functions behind `ple-rec checkpoint`: list the checkpoints of a run, find damaged files, and list the content.

One process reads a checkpoint here, whatever the number of ranks that wrote it.
"""

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
    """Finished checkpoint, that is, one with a manifest.

    Args:
        path: Directory of the checkpoint.
        manifest: Manifest of the checkpoint, or None if it cannot be read.
        pointers: Pointers to this checkpoint: `latest`, `best`, both or none.
        written_at: Time at which the manifest was written, or None if the store has no times.
    """

    path: Location
    manifest: Manifest | None
    pointers: tuple[str, ...]
    written_at: datetime | None

    @property
    def bytes(self) -> int | None:
        """Total size of the files in bytes, according to the manifest; None if the manifest cannot be read."""
        return None if self.manifest is None else sum(file.bytes for file in self.manifest.files.values())


def finished_checkpoints(directory: Location) -> list[CheckpointEntry]:
    """Return the finished checkpoints in a directory, in order of their steps; a damaged manifest becomes None.

    Raises:
        DataError: `latest` or `best` does not contain the name of a checkpoint.
        UserError: The store cannot be read.
    """
    targets = {name: pointer_target(directory, name) for name in ("latest", "best")}
    checkpoints = []
    for step in finished_steps(directory):
        path = directory / f"step-{step}"
        try:
            manifest = read_manifest(path)
        except DataError:
            manifest = None
        with explain_errors(path):
            try:
                written_at = modified_at(path / MANIFEST)
            except FileNotFoundError:
                # The run has removed the checkpoint meanwhile.
                continue
        pointers = tuple(name for name, target in targets.items() if target == path.name)
        checkpoints.append(CheckpointEntry(path, manifest, pointers, written_at))
    return checkpoints


def find_damages(path: Location) -> list[DataError] | None:
    """Return an error for each missing, truncated or changed file of a checkpoint, or None if its run has removed it.

    If the manifest cannot be read, its error is the only one.

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
        pieces: Number of pieces (DCP's chunks) in which it was written, such as one for each shard of a table; 1 for a
            plain value.
    """

    key: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int
    pieces: int


def read_items(path: Location) -> list[Item]:
    """Return all tensors and plain values of a checkpoint, in order of their keys.

    Args:
        path: Directory of the checkpoint.

    Raises:
        DataError: The manifest is damaged, a file is missing or has another size, or `.metadata` is damaged or has
            an object of a type that no checkpoint has.
        UserError: The store cannot be read, or the run has removed the checkpoint.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from ple_rec.checkpoint.files import CheckpointReader

    with explain_removal(path), explain_errors(path):
        for name, file in read_manifest(path).files.items():
            check_size(path, name, file)
        metadata = CheckpointReader(path).read_metadata()
    items = []
    for key, value in sorted(metadata.state_dict_metadata.items()):
        if isinstance(value, TensorStorageMetadata):
            size, dtype = tuple(value.size), value.properties.dtype
            byte_count = math.prod(size) * dtype.itemsize
            items.append(Item(key, size, str(dtype).removeprefix("torch."), byte_count, len(value.chunks)))
        else:
            items.append(Item(key, None, "", 0, 1))
    return items
