"""From a checkpoint into a model: its bytes verified, its tensors filled in place, nothing in it run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from ple_rec.checkpoint.files import Reader
from ple_rec.checkpoint.manifest import File, check_content, check_size, explain_removal, read_manifest
from ple_rec.checkpoint.metadata import foreign_name_error
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, StoreError, explain_errors, short


def damage_of(path: Location) -> DataError | None:
    """What is wrong with the bytes of a checkpoint, or None; every rank reads a share of its files (a collective).

    Raises:
        UserError: they cannot be read, on every rank.
    """
    return _problem(path, lambda: _check_share(path, check_content))


def _check_share(path: Location, check: Callable[[Location, str, File], None]) -> None:
    files = list(read_manifest(path).files.items())
    for name, file in files[dist.get_rank() :: dist.get_world_size()]:
        check(path, name, file)


def _problem(path: Location, check: Callable[[], object]) -> DataError | None:
    """Return the first rank's error of `check`, the same on every rank (a collective)."""
    own: DataError | UserError | None = None
    try:
        with explain_errors(path):
            check()
    except (DataError, UserError) as error:
        own = error
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    for found in every:
        if isinstance(found, UserError):
            raise found
    return next((found for found in every if found is not None), None)


def load(path: Location, state: dict[str, Any], *, verified: bool = False) -> None:
    """Fill `state`'s tensors in place, and replace its other values, from a checkpoint (a collective).

    Nothing is parsed before the bytes were compared with the manifest, and nothing that they name is run.

    Args:
        path: Directory or prefix of the checkpoint.
        state: Tensors and values under the checkpoint's keys.
        verified: Whether the bytes have just been read and found whole; else they are now.

    Raises:
        DataError: the checkpoint lacks a key, has another shape, is damaged, or holds more than tensors and values.
        UserError: it cannot be read, or its run has removed it.
    """
    with explain_removal(path):
        _load(path, state, verified)


def _load(path: Location, state: dict[str, Any], verified: bool) -> None:
    reader = Reader(path)
    checks = (lambda: _check_share(path, check_size if verified else check_content), reader.read_metadata)
    for check in checks:
        if (problem := _problem(path, check)) is not None:
            raise problem
    try:
        dcp.load(state, storage_reader=reader, planner=_LoadPlanner())
    except dcp.api.CheckpointException as error:  # raised on every rank, with the causes of all
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if isinstance(cause, pickle.UnpicklingError):
            named = re.search(r"GLOBAL ([\w.]+)", str(cause))
            raise foreign_name_error(str(path), named[1] if named else "what torch.load refuses") from error
        if isinstance(cause, StoreError):
            raise cause from error
        if isinstance(cause, OSError):
            with explain_errors(path):
                raise cause from error
        raise DataError(
            str(path),
            f"it does not fit this model ({short(cause)})",
            "model, tables and optimizers are those of the run that wrote it",
            "use the configuration saved in the run's config.toml",
        ) from error


class _LoadPlanner(dcp.DefaultLoadPlanner):
    """The stock planner but for three things.

    It does not look back at the key names of torch 2.3: the stock one takes a checkpoint for one of those as soon as a
    rank does not hold every key of it, which is the rule where a table lives on one rank; and it names the wrong key as
    missing. It unpickles values by `weights_only=True`, as torch reads tensors: the stock one runs what they name. And
    it takes a tensor for a tensor alone and a value for one of its type: the stock one leaves a tensor as it was where
    the checkpoint has a value of that name, and keeps the real part of complex numbers.
    """

    def create_local_plan(self) -> dcp.LoadPlan:
        """Return what this rank reads."""
        assert self.metadata is not None
        for key, own in self.state_dict.items():
            saved = self.metadata.state_dict_metadata.get(key)
            if saved is not None and _kind(saved) != _kind(own):
                raise ValueError(f"{key} is {_kind(saved)}, not {_kind(own)}")
        return create_default_local_load_plan(self.state_dict, self.metadata)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value that is no tensor into the state."""
        name = read_item.dest_index.fqn
        own, loaded = self.state_dict[name], torch.load(value, weights_only=True)
        if type(loaded) is not type(own) and not (isinstance(own, float) and type(loaded) is int):
            raise ValueError(f"{name} is {type(loaded).__name__}, not {type(own).__name__}")
        set_element(self.original_state_dict, self.mappings[name], loaded)


def _kind(item: object) -> str:
    """Return what a state, or the metadata of a checkpoint, has under a key."""
    described = item.properties if isinstance(item, TensorStorageMetadata) else item
    dtype = getattr(described, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        return "a value"
    numbers = "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "whole"
    return f"a tensor of {numbers} numbers"
