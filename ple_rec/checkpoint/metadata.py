"""Safe reading of a checkpoint's file `.metadata`, which is a pickle.

A pickle can name any function of any module, and unpickling calls it. `torch.distributed.checkpoint` writes only a few
names into its metadata. They are listed here; any other name is refused before it is imported.
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

from ple_rec.checkpoint.manifest import FileInfo
from ple_rec.errors import DataError
from ple_rec.storage import short_message

METADATA = ".metadata"
# Our tensors have at most three dimensions. The limit bounds the work of `_covers_exactly_once` for forged metadata.
_MAX_DIMENSIONS = 8


def _path_text(*parts: str) -> str:
    """Return a pickled path as text; it is the place where the checkpoint was written, and is not used."""
    return "/".join(parts)


def _enum_member(enum: Any, name: str) -> Any:
    """Return a member of `_MEM_FORMAT_ENCODING`. Python 3.11.0 to 3.11.3 pickle a member as a call of `getattr`.

    Raises:
        UnpicklingError: `enum` is another class.
    """
    if enum is not classes._MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it names builtins.getattr of {enum!r}")
    return enum[name]


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
_ALLOWED_NAMES: dict[tuple[str, str], Any] = {
    **{(each.__module__, each.__qualname__): each for each in _CLASSES},
    **{("torch", name): each for name, each in vars(torch).items() if isinstance(each, torch.dtype)},
    ("torch.serialization", "_get_layout"): _get_layout,
    ("builtins", "getattr"): _enum_member,
    # Protocol 2 of pickle uses this name.
    ("__builtin__", "getattr"): _enum_member,
    ("pathlib", "PosixPath"): _path_text,
    # Python 3.13 uses this name.
    ("pathlib._local", "PosixPath"): _path_text,
}


class _Unpickler(pickle.Unpickler):
    """Unpickler that refuses every name except those of `_ALLOWED_NAMES`."""

    def __init__(self, place: str, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._place = place

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_NAMES[module, name]
        except KeyError:
            raise foreign_name_error(self._place, f"{module}.{name}") from None


def parse_metadata(place: str, content: bytes, files: Mapping[str, FileInfo]) -> Metadata:
    """Parse `.metadata`: the list of a checkpoint's tensors and plain values, and their places in its files.

    Args:
        place: Address of the file, for messages.
        content: Bytes of the file.
        files: Files of the manifest, by name; no tensor or value may lie in another file.

    Raises:
        DataError: The bytes are damaged; they name a class or function that no metadata needs, or a file that the
            manifest does not list; or the pieces of a tensor do not cover it exactly once.
    """
    try:
        metadata = _Unpickler(place, content).load()
        if not isinstance(metadata, Metadata):
            raise TypeError(f"it is {type(metadata).__name__}")
        for info in metadata.storage_data.values():
            if info.relative_path not in files:
                raise DataError(
                    place,
                    f"names the file {info.relative_path!r}",
                    "the data of a checkpoint are in files that its manifest lists",
                    "use another checkpoint",
                )
            _check_storage(info, files[info.relative_path])
        for key, item in metadata.state_dict_metadata.items():
            _check_item(key, item, metadata.storage_data)
    except DataError:
        raise
    except Exception as error:
        # A damaged pickle may raise any exception.
        value = f"unreadable ({short_message(error)})"
        raise DataError(place, value, "it must list the content of the checkpoint", "use another checkpoint") from error
    return metadata


def _check_storage(info: Any, file: FileInfo) -> None:
    """Check that the bytes of an item lie within its file, and that there is at least one.

    Raises:
        ValueError: They do not.
    """
    first, length = info.offset, info.length
    if not (isinstance(first, int) and isinstance(length, int) and 0 <= first < first + length <= file.bytes):
        raise ValueError(f"bytes {first} to {first} + {length} of {info.relative_path}, which has {file.bytes} bytes")


def _check_item(key: Any, item: Any, storage_data: Mapping[MetadataIndex, Any]) -> None:
    """Check that an item is a plain value, or a tensor that its pieces cover, and that all of it has places in files.

    Raises:
        TypeError, ValueError: The key is no text, the item is something else, or a piece has no place.
    """
    if not isinstance(key, str):
        raise TypeError(f"key {key!r}")
    if isinstance(item, BytesStorageMetadata):
        indices = [MetadataIndex(key)]
    elif (
        isinstance(item, TensorStorageMetadata)
        and isinstance(item.properties.dtype, torch.dtype)
        and isinstance(item.size, torch.Size)
        and len(item.size) <= _MAX_DIMENSIONS
        and _covers_exactly_once(item.size, item.chunks)
    ):
        indices = [MetadataIndex(key, piece.offsets) for piece in item.chunks]
    else:
        raise ValueError(f"{key!r} is neither a value nor a tensor that its pieces cover")
    if any(index not in storage_data for index in indices):
        raise ValueError(f"{key!r} lies in no file")


def _covers_exactly_once(size: torch.Size, pieces: Iterable[ChunkStorageMetadata]) -> bool:
    """Return True if pieces cover a tensor of shape `size` without gaps and overlaps.

    The pieces and the tensor are boxes. A box gives each of its corners a sign: +1 if an even number of the corner's
    coordinates are upper ends, else -1. The signs determine the box, since they are the mixed differences of its
    indicator function. So the pieces cover the tensor exactly once if, at every point, their signs add up to its sign.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    boxes = [(-1, torch.Size([0] * len(size)), size), *((1, piece.offsets, piece.sizes) for piece in pieces)]
    for box_sign, offsets, sizes in boxes:
        if not isinstance(offsets, torch.Size) or not isinstance(sizes, torch.Size) or min(sizes, default=0) < 0:
            return False
        for ends in product((0, 1), repeat=len(size)):
            corner = tuple(offset + end * extent for offset, extent, end in zip(offsets, sizes, ends, strict=True))
            corners[corner] += box_sign * (-1) ** sum(ends)
    return not any(corners.values())


def foreign_name_error(place: str, name: str) -> DataError:
    """Return the error for a pickle that names a class or function that no checkpoint needs.

    Args:
        place: Address of the pickle.
        name: Class or function that the pickle names.
    """
    rule = "a checkpoint holds tensors, numbers and text alone; anything else can run code, and is not loaded"
    return DataError(place, f"names {name}", rule, "use a checkpoint that ple-rec wrote")
