"""From a checkpoint into a model: its bytes verified, its tensors filled in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan

from ple_rec.checkpoint.files import Reader
from ple_rec.checkpoint.manifest import File, check_content, check_size, read_manifest
from ple_rec.checkpoint.place import Place, reading, short
from ple_rec.errors import DataError, UserError


def damage_of(path: Place) -> DataError | None:
    """What is wrong with the bytes of a checkpoint, or None; every rank reads a share of its files (a collective).

    Raises:
        UserError: they cannot be read, on every rank.
    """
    return _problem(path, check_content)


def _problem(path: Place, check: Callable[[Place, str, File], None]) -> DataError | None:
    """The first error of `check` on any file, each of which one rank looks at; the same on every rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own: DataError | UserError | None = None
    try:
        with reading(path):
            files = list(read_manifest(path).files.items())
            for name, file in files[rank::world_size]:
                check(path, name, file)
    except (DataError, UserError) as error:
        own = error
    every: list[Any] = [None] * world_size
    dist.all_gather_object(every, own)
    for found in every:
        if isinstance(found, UserError):
            raise found
    return next((found for found in every if found is not None), None)


def load(path: Place, state: dict[str, Any], *, verified: bool = False) -> None:
    """Fill `state`'s tensors in place, and replace its other values, from a checkpoint (a collective).

    Args:
        path: Of the checkpoint.
        state: Of the same structure.
        verified: Its bytes have just been read and found whole; else they are now.

    Raises:
        DataError: the checkpoint lacks a key, has another shape, or is damaged.
        UserError: it cannot be read.
    """
    if (problem := _problem(path, check_size if verified else check_content)) is not None:
        raise problem
    try:
        dcp.load(state, storage_reader=Reader(path), planner=_LoadPlanner())
    except dcp.api.CheckpointException as error:  # raised on every rank, with the causes of all
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, OSError):
            with reading(path):
                raise cause from error
        raise DataError(
            str(path),
            f"it does not fit this model ({short(cause)})",
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
