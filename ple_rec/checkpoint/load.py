"""From a checkpoint into a model: its bytes verified, its tensors filled in place."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan

from ple_rec.checkpoint.files import Reader
from ple_rec.checkpoint.listing import reading
from ple_rec.checkpoint.manifest import check_content, check_size, read_manifest
from ple_rec.checkpoint.place import Place, short
from ple_rec.errors import DataError, UserError


def damage_of(path: Place) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None; every rank reads a share of its files (a collective).

    Raises:
        UserError: they cannot be read, on every rank.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    said: str | UserError | None = None
    try:
        with reading(path):
            files = list(read_manifest(path).files.items())
            for name, file in files[rank::world_size]:
                check_content(path, name, file)
    except DataError as error:
        said = f"{error.place}: {error.value}; {error.rule}"
    except UserError as error:
        said = error
    every: list[Any] = [None] * world_size
    dist.all_gather_object(every, said)
    for found in every:
        if isinstance(found, UserError):
            raise found
    return next((text for text in every if text is not None), None)


def load(path: Place, state: dict[str, Any]) -> None:
    """Fill `state`'s tensors in place, and replace its other values, from a checkpoint (a collective).

    Raises:
        DataError: the checkpoint lacks a key, has another shape, or is damaged.
    """
    for name, file in read_manifest(path).files.items():
        check_size(path, name, file)
    try:
        dcp.load(state, storage_reader=Reader(path), planner=_LoadPlanner())
    except dcp.api.CheckpointException as error:  # raised on every rank, with the causes of all
        cause = next(iter(error.failures.values()))[0]
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
