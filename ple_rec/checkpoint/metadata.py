"""The file `.metadata` of a checkpoint, read without running anything that it names.

`torch.distributed.checkpoint` pickles its metadata, and a pickle may name any function of any module and have it
called. Torch itself writes few names there. They are listed here; any other name is refused and never looked up.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as classes
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.serialization import _get_layout

from ple_rec.checkpoint.place import short
from ple_rec.errors import DataError

METADATA = ".metadata"


def _path(*parts: str) -> str:
    """Return the path at which a checkpoint was written, which nothing uses, as text."""
    return "/".join(parts)


_CLASSES = (
    classes.Metadata,
    classes.TensorStorageMetadata,
    classes.TensorProperties,
    classes.ChunkStorageMetadata,
    classes.BytesStorageMetadata,
    classes.MetadataIndex,
    classes.StorageMeta,
    classes._MEM_FORMAT_ENCODING,
    _StorageInfo,
    torch.Size,
)
_NAMES: dict[tuple[str, str], Any] = {
    **{(each.__module__, each.__qualname__): each for each in _CLASSES},
    **{("torch", name): each for name, each in vars(torch).items() if isinstance(each, torch.dtype)},
    ("torch.serialization", "_get_layout"): _get_layout,
    ("pathlib", "PosixPath"): _path,
    ("pathlib._local", "PosixPath"): _path,  # as Python 3.13 names it
}


class _Unpickler(pickle.Unpickler):
    """An unpickler to which no names but those of `_NAMES` mean anything."""

    def __init__(self, place: str, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._place = place

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise foreign(self._place, f"{module}.{name}") from None


def parse_metadata(place: str, content: bytes, files: Collection[str]) -> Metadata:
    """Return what `.metadata` says: the tensors and values of a checkpoint, and where they lie in its files.

    Args:
        place: Address of the file, for messages.
        content: Bytes of the file.
        files: Names of the files that the manifest lists, which alone may hold tensors and values.

    Raises:
        DataError: the bytes are damaged, or name a class, a function or a file that no checkpoint has.
    """
    try:
        found = _Unpickler(place, content).load()
        if not isinstance(found, Metadata):
            raise TypeError(f"it is {type(found).__name__}")
        elsewhere = {info.relative_path for info in found.storage_data.values()}.difference(files)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        value = f"unreadable ({short(error)})"
        raise DataError(place, value, "it lists what a checkpoint holds", "use another one") from error
    if elsewhere:
        value = f"reads from {min(elsewhere)!r}"
        raise DataError(place, value, "a checkpoint's data lie in files that its manifest lists", "use another one")
    return found


def foreign(place: str, name: str) -> DataError:
    """Return the refusal of a pickle that names what no checkpoint needs.

    Args:
        place: Address of the pickle.
        name: Class or function that it names.
    """
    rule = "a checkpoint holds tensors, numbers and text alone; anything else can run code, and is not loaded"
    return DataError(place, f"names {name}", rule, "use a checkpoint that ple-rec wrote")
