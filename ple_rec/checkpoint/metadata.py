"""The file `.metadata` of a checkpoint, read without running anything that it names.

`torch.distributed.checkpoint` pickles its metadata, and a pickle may name any function of any module and have it
called. Torch itself writes few names there. They are listed here; any other name is refused and never looked up.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as classes
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.serialization import _get_layout

from ple_rec.checkpoint.manifest import File
from ple_rec.errors import DataError
from ple_rec.storage import short

METADATA = ".metadata"
_MOST_DIMENSIONS = 8  # of a tensor; ours have three at most


def _path(*parts: str) -> str:
    """Return the path at which a checkpoint was written, which nothing uses, as text."""
    return "/".join(parts)


def _member(kind: Any, name: str) -> Any:
    """Return a member of the one enumeration in metadata, which Python 3.11.0 to 3.11.3 pickle by `getattr`."""
    if kind is not classes._MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it names builtins.getattr of {kind!r}")
    return kind[name]


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
    ("builtins", "getattr"): _member,
    ("__builtin__", "getattr"): _member,  # as protocol 2 names it
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
            raise foreign_name_error(self._place, f"{module}.{name}") from None


def parse_metadata(place: str, content: bytes, files: Mapping[str, File]) -> Metadata:
    """Return what `.metadata` says: the tensors and values of a checkpoint, and where they lie in its files.

    Args:
        place: Address of the file, for messages.
        content: Bytes of the file.
        files: Files that the manifest lists, by name, which alone may hold tensors and values.

    Raises:
        DataError: the bytes are damaged, name a class, a function or a place that no checkpoint has, or describe a
            tensor that is not whole.
    """
    try:
        found = _Unpickler(place, content).load()
        if not isinstance(found, Metadata):
            raise TypeError(f"it is {type(found).__name__}")
        for info in found.storage_data.values():
            if info.relative_path not in files:
                raise DataError(
                    place,
                    f"reads from {info.relative_path!r}",
                    "a checkpoint's data lie in files that its manifest lists",
                    "use another one",
                )
            _check_stored(info, files[info.relative_path])
        for key, item in found.state_dict_metadata.items():
            _check_described(key, item, found.storage_data)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        value = f"unreadable ({short(error)})"
        raise DataError(place, value, "it lists what a checkpoint holds", "use another one") from error
    return found


def _check_stored(info: Any, file: File) -> None:
    first, length = info.offset, info.length
    if not (isinstance(first, int) and isinstance(length, int) and 0 <= first < first + length <= file.bytes):
        raise ValueError(f"bytes {first} to {first} + {length} of {info.relative_path}, which has {file.bytes}")


def _check_described(key: Any, item: Any, stored: Mapping[MetadataIndex, Any]) -> None:
    if not isinstance(key, str):
        raise TypeError(f"key {key!r}")
    if isinstance(item, BytesStorageMetadata):
        indices = [MetadataIndex(key)]
    elif (
        isinstance(item, TensorStorageMetadata)
        and isinstance(item.properties.dtype, torch.dtype)
        and isinstance(item.size, torch.Size)
        and len(item.size) <= _MOST_DIMENSIONS
        and _tile(item.size, item.chunks)
    ):
        indices = [MetadataIndex(key, piece.offsets) for piece in item.chunks]
    else:
        raise ValueError(f"{key!r} is no value, and no tensor in pieces that make it up")
    if any(index not in stored for index in indices):
        raise ValueError(f"{key!r} lies in no file")


def _tile(whole: torch.Size, pieces: Iterable[ChunkStorageMetadata]) -> bool:
    """Return whether pieces make up a whole without gaps and overlaps.

    They do if their corners add up to those of the whole, each counted +1 or -1 as it has an even or an odd number of
    upper ends: the corners of a box are the mixed differences of the function that is 1 within it.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    boxes = [(-1, torch.Size([0] * len(whole)), whole), *((1, piece.offsets, piece.sizes) for piece in pieces)]
    for sign, offsets, sizes in boxes:
        if not isinstance(offsets, torch.Size) or not isinstance(sizes, torch.Size) or min(sizes, default=0) < 0:
            return False
        for ends in product((0, 1), repeat=len(whole)):
            corner = tuple(offset + end * size for offset, size, end in zip(offsets, sizes, ends, strict=True))
            corners[corner] += sign * (-1) ** sum(ends)
    return not any(corners.values())


def foreign_name_error(place: str, name: str) -> DataError:
    """Return the refusal of a pickle that names what no checkpoint needs.

    Args:
        place: Address of the pickle.
        name: Class or function that it names.
    """
    rule = "a checkpoint holds tensors, numbers and text alone; anything else can run code, and is not loaded"
    return DataError(place, f"names {name}", rule, "use a checkpoint that ple-rec wrote")
