"""Loading of a checkpoint into a state, safely: its bytes are verified first, and no code that it names is run."""

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

from ple_rec.checkpoint.files import CheckpointReader
from ple_rec.checkpoint.manifest import FileInfo, check_content, check_size, explain_removal, read_manifest
from ple_rec.checkpoint.metadata import foreign_name_error
from ple_rec.errors import DataError, UserError
from ple_rec.storage import Location, StoreError, explain_errors, short_message


def find_damage(path: Location) -> DataError | None:
    """Return an error for a damaged file of a checkpoint, or None. This is a collective: each rank reads some files.

    If several files are damaged, all ranks return the same one of the errors.

    Raises:
        UserError: The files cannot be read. Every rank raises the error.
    """
    return _common_error(path, lambda: _check_share(path, check_content))


def _check_share(path: Location, check: Callable[[Location, str, FileInfo], None]) -> None:
    """Run `check` on this rank's share of the files of a checkpoint: of W ranks, each checks every W-th file."""
    files = list(read_manifest(path).files.items())
    for name, file in files[dist.get_rank() :: dist.get_world_size()]:
        check(path, name, file)


def _common_error(path: Location, check: Callable[[], object]) -> DataError | None:
    """Run `check`, and return the DataError of the lowest rank on which it raised one, or None. This is a collective.

    All ranks return the same error.

    Raises:
        UserError: `check` raised it on some rank. Every rank raises it.
    """
    own_error: DataError | UserError | None = None
    try:
        with explain_errors(path):
            check()
    except (DataError, UserError) as error:
        own_error = error
    errors: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, own_error)
    for each in errors:
        if isinstance(each, UserError):
            raise each
    return next((each for each in errors if each is not None), None)


def load_state(path: Location, state: dict[str, Any], *, verified: bool = False) -> None:
    """Load a checkpoint into `state`: fill tensors in place and replace plain values. This is a collective.

    Files are compared with the manifest before they are parsed, and no function that a pickle in them names is run.

    Args:
        path: Directory or prefix of the checkpoint.
        state: Nested tensors and plain values under the checkpoint's keys.
        verified: True if all bytes have just been verified. Then only `.metadata` is verified again, and of the other
            files the sizes.

    Raises:
        DataError: The checkpoint lacks a key, has another shape, is damaged, or contains something else than tensors
            and plain values.
        UserError: The checkpoint cannot be read, or the run has removed it.
    """
    with explain_removal(path):
        _load(path, state, verified)


def _load(path: Location, state: dict[str, Any], verified: bool) -> None:
    reader = CheckpointReader(path)
    checks = (lambda: _check_share(path, check_size if verified else check_content), reader.read_metadata)
    for check in checks:
        if (error_of_any_rank := _common_error(path, check)) is not None:
            raise error_of_any_rank
    try:
        dcp.load(state, storage_reader=reader, planner=_LoadPlanner())
    except dcp.api.CheckpointException as error:
        # The exception is raised on every rank, with the causes of all ranks.
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
            f"it does not fit this model ({short_message(cause)})",
            "model, tables and optimizers are those of the run that wrote it",
            "use the configuration saved in the run's config.toml",
        ) from error


class _LoadPlanner(dcp.DefaultLoadPlanner):
    """Load planner of torch with three changes.

    First, it does not support the key names of torch 2.3. The planner of torch assumes them as soon as a rank does not
    have every key of the checkpoint, which is usual if a table is on one rank, and then reports the wrong key as
    missing. Second, it unpickles plain values with `weights_only=True`, as torch does for tensors; the planner of torch
    runs functions that a pickle names. Third, a tensor is only loaded into a tensor of the same `_kind`, and a plain
    value into one of its type. The planner of torch keeps the old tensor if the checkpoint has a plain value instead,
    and drops the imaginary part of complex numbers.
    """

    def create_local_plan(self) -> dcp.LoadPlan:
        """Return the plan of the items that this rank reads.

        Raises:
            ValueError: The checkpoint has an item of another `_kind` under a key than the state.
        """
        assert self.metadata is not None  # DCP sets it before it asks for the plan.
        for key, own_value in self.state_dict.items():
            saved = self.metadata.state_dict_metadata.get(key)
            if saved is not None and _kind(saved) != _kind(own_value):
                raise ValueError(f"{key} is {_kind(saved)}, not {_kind(own_value)}")
        return create_default_local_load_plan(self.state_dict, self.metadata)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a plain value into the state.

        Raises:
            ValueError: The value has another type than the one that it replaces; an int may replace a float.
        """
        name = read_item.dest_index.fqn
        own_value, loaded = self.state_dict[name], torch.load(value, weights_only=True)
        if type(loaded) is not type(own_value) and not (isinstance(own_value, float) and type(loaded) is int):
            raise ValueError(f"{name} is {type(loaded).__name__}, not {type(own_value).__name__}")
        set_element(self.original_state_dict, self.mappings[name], loaded)


def _kind(item: object) -> str:
    """Return the kind of an item of a state or of a checkpoint's metadata, such as `a tensor of whole numbers`."""
    described = item.properties if isinstance(item, TensorStorageMetadata) else item
    dtype = getattr(described, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        return "a value"
    numbers = "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "whole"
    return f"a tensor of {numbers} numbers"
