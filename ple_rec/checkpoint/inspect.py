"""The checkpoints of a run as one process sees them: which there are, whether their bytes are whole, what they hold."""

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
class Entry:
    """A checkpoint.

    Args:
        path: Its directory.
        manifest: Its manifest, or None where that cannot be read.
        names: `latest` and `best`, as far as they mean it.
        written: Time at which its manifest was written; None where the store does not tell.
    """

    path: Location
    manifest: Manifest | None
    names: tuple[str, ...]
    written: datetime | None

    @property
    def bytes(self) -> int | None:
        """Of all its files, as the manifest says."""
        return None if self.manifest is None else sum(file.bytes for file in self.manifest.files.values())


def entries(directory: Location) -> list[Entry]:
    """Return the finished checkpoints in order of step. A directory without a manifest is not finished.

    Raises:
        DataError: `latest` or `best` does not hold the name of a checkpoint.
    """
    named = {name: pointer_target(directory, name) for name in ("latest", "best")}
    found = []
    for step in finished_steps(directory):
        path = directory / f"step-{step}"
        try:
            manifest = read_manifest(path)
        except DataError:
            manifest = None
        with explain_errors(path):
            try:
                written = modified_at(path / MANIFEST)
            except FileNotFoundError:  # its run has removed it
                continue
        names = tuple(name for name, target in named.items() if target == path.name)
        found.append(Entry(path, manifest, names, written))
    return found


def damages(path: Location) -> list[DataError] | None:
    """Return an error for each file of a checkpoint that is missing, cut or changed; None where its run has removed it.

    Raises:
        UserError: the store cannot be read.
    """
    found = []
    try:
        for name, file in read_manifest(path).files.items():
            try:
                with explain_errors(path):
                    check_content(path, name, file)
            except DataError as error:
                found.append(error)
    except DataError as error:
        found.append(error)
    except UserError:
        if not is_removed(path):
            raise
        return None
    return None if found and is_removed(path) else found


@dataclass(frozen=True)
class Item:
    """What a checkpoint holds under one key.

    Args:
        key: Dotted.
        shape: Of the whole tensor; None for a value that is none.
        dtype: Of it.
        bytes: Of it.
        pieces: In which it was written.
    """

    key: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int
    pieces: int


def items(path: Location) -> list[Item]:
    """Return everything that a checkpoint holds, by key.

    Args:
        path: Directory of the checkpoint.

    Raises:
        DataError: a file is missing or cut, or `.metadata` is damaged or names what no checkpoint has.
        UserError: the store cannot be read, or its run has removed the checkpoint.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from ple_rec.checkpoint.files import Reader

    with explain_removal(path), explain_errors(path):
        for name, file in read_manifest(path).files.items():
            check_size(path, name, file)
        metadata = Reader(path).read_metadata()
    found = []
    for key, value in sorted(metadata.state_dict_metadata.items()):
        if isinstance(value, TensorStorageMetadata):
            size, dtype = tuple(value.size), value.properties.dtype
            count = math.prod(size) * dtype.itemsize
            found.append(Item(key, size, str(dtype).removeprefix("torch."), count, len(value.chunks)))
        else:
            found.append(Item(key, None, "", 0, 1))
    return found
