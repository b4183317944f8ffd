"""State of a run in a checkpoint, and its restoration on the same or another number of ranks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ple_rec.checkpoint.load import load
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.config.load import dump_toml
from ple_rec.config.plan import column_wise_remarks, dump_plan
from ple_rec.errors import DataError, Option, UserError, settings
from ple_rec.runs.layout import CONFIG, PLAN
from ple_rec.runs.lineage import check_trained_with, describe_data, describe_differences
from ple_rec.storage import Location, short
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import stopping_metric
from ple_rec.training.progress import Window
from ple_rec.training.state import TrainState, initial_state

logger = logging.getLogger(__name__)

# Checkpoints that name no device were written on a CPU.
_CPU = "cpu"


def state_dict(context: TrainContext, state: TrainState, window: Window) -> dict[str, Any]:
    """Return the state from which a resumed run computes the same bits as an uninterrupted one.

    Args:
        context: Context of the run.
        state: Progress of the run.
        window: Sums since the last report.
    """
    unreported = {f"window.{context.ranks.rank}": window.state_dict()} if window.steps else {}
    return _shared_state(context, state) | _random_state(context) | unreported


def _shared_state(context: TrainContext, state: TrainState) -> dict[str, Any]:
    """Return the state that any number of ranks can load."""
    return {
        "model": context.model.state_dict(),
        "optimizer": context.optimizers.combined.state_dict(),
        "position": state.state_dict(),
    }


def _random_state(context: TrainContext) -> dict[str, Any]:
    """Return the states of this rank's random generators, which dropout draws from."""
    rank, cuda = context.ranks.rank, context.ranks.device.type == "cuda"
    return {f"rng.{rank}": torch.get_rng_state()} | ({f"cuda_rng.{rank}": torch.cuda.get_rng_state()} if cuda else {})


def written_by(context: TrainContext, state: TrainState, window: Window) -> dict[str, Any]:
    """Return the description of the run in the manifest of a checkpoint, which is read before the tensors are loaded.

    Args:
        context: Context of the run.
        state: Progress of the run.
        window: Sums since the last report.
    """
    return (
        _written_by(context)
        | ({"unreported_steps": window.steps} if window.steps else {})
        | ({"evaluation_pending": True} if state.evaluation_pending else {})
    )


def texts(context: TrainContext) -> dict[str, str]:
    """Return configuration and plan as files beside the tensors, for a checkpoint that is copied without its run."""
    return {CONFIG: dump_toml(context.config).rstrip("\n"), PLAN: dump_plan(context.plan).rstrip("\n")}


def _written_by(context: TrainContext) -> dict[str, Any]:
    return {
        "ranks": context.ranks.world_size,
        "threads": context.ranks.threads,
        "batch_size": context.batch_size,
        "precision": context.precision.saved(),
        **describe_data(context.dataset.schema, context.selection),
        **({} if context.ranks.device.type == _CPU else {"device": context.ranks.device.type}),
        **({"columns": cuts} if (cuts := column_cuts(context)) else {}),
        **({} if (metric := stopping_metric(context.config)) is None else {"early_stopping": metric}),
    }


def column_cuts(context: TrainContext) -> dict[str, list[int]]:
    """Return the shards' numbers of columns of each table that is cut by columns, if its optimizer depends on the cut.

    Row-wise Adagrad has one state for each shard of a row; with other optimizers the result is empty.
    """
    if not column_wise_remarks(context.plan):
        return {}
    return {
        table.table: [shard.columns for shard in table.shards(context.plan.cluster)]
        for table in context.plan.tables
        if table.sharding == "column_wise"
    }


def check_resumable(context: TrainContext, run_dir: Location, path: Location) -> None:
    """Refuse to resume a run with another dataset, batch size, cut by columns or configuration.

    The check is made before a file of the run is replaced.

    Args:
        context: Context of the run that resumes.
        run_dir: Directory of the run.
        path: Directory of its newest checkpoint.

    Raises:
        UserError: The checkpoint was written by a run that differs in one of these.
    """
    # A damaged checkpoint is no reason to refuse: `restore` is called with an earlier one.
    with suppress(DataError):
        manifest = read_manifest(path)
        _check_same(context, path, manifest.written_by)
        check_trained_with(context.config, run_dir, path, manifest)


def _check_same(context: TrainContext, path: Location, before: Mapping[str, Any]) -> None:
    now = _written_by(context)
    place = str(path)
    if before.get("dataset") != now["dataset"]:
        raise UserError(
            place,
            f"was trained on dataset {before.get('dataset')}, {context.dataset.path} is {now['dataset']}: "
            + describe_differences(before, context.selection),
            "a run goes on with the same dataset, since in another one its ids mean something else",
            "resume with data.path as it was, or start another run; on a dataset that was prepared from this one by "
            f"`ple-rec prep --append`, with {Option.INIT_FROM}",
        )
    ranks, batch = before.get("ranks"), before.get("batch_size")
    # Old checkpoints record no batch size.
    if batch is None and ranks != now["ranks"]:
        raise UserError(
            place,
            f"was written by a run with ranks = {ranks}; this one has ranks = {now['ranks']}",
            "it does not say its global batch size, so it goes on with the same number of ranks",
            f"resume with ranks = {ranks}, or start another {Option.RUN_DIR}",
        )
    if batch is not None and batch != now["batch_size"]:
        raise UserError(
            place,
            f"was written by a run of {batch} samples a step on {ranks} rank(s); this one has {now['batch_size']} on "
            f"{now['ranks']}",
            "a run goes on with the same steps, on any number of ranks",
            f"resume with {settings(f'train.batch_size={batch}', 'train.batch_size_per_rank=')}",
        )
    if before.get("columns") != now.get("columns"):
        was, cut = (value or "none" for value in (before.get("columns"), now.get("columns")))
        raise UserError(
            place,
            f"its tables are cut by columns as {was}, this run's as {cut}",
            "column_wise with row-wise Adagrad keeps the optimizer's state once for every shard of a row, so another "
            "cut is another optimizer",
            "resume with the same embeddings.sharding and number of ranks",
        )


def restore(context: TrainContext, path: Location, window: Window) -> TrainState:
    """Restore a run from a checkpoint, and return its progress (a collective).

    Model, optimizers, random state and window are filled. On another number of ranks or another kind of device, the
    random state is seeded by the seed of the run, the step and the rank.

    Args:
        context: Context of the run.
        path: Directory of a checkpoint whose checksums `CheckpointStore.newest_good` has verified.
        window: Window of the loop, which gets the sums that were not reported yet.

    Raises:
        UserError: The checkpoint was written with another dataset, batch size or cut by columns.
        DataError: The checkpoint does not fit the run, or holds values that no run can have.
    """
    manifest = read_manifest(path)
    before = manifest.written_by
    _check_same(context, path, before)
    context.optimizers.init_state()
    initial = initial_state(context)
    same_metric = before.get("early_stopping") == stopping_metric(context.config)
    old_device, device = before.get("device", _CPU), context.ranks.device.type
    same_ranks = (before.get("ranks"), old_device) == (context.ranks.world_size, device)
    tensors = _shared_state(context, initial if same_metric else TrainState())
    tensors |= _random_state(context) if same_ranks else {}
    windows = _empty_windows(context, before) if before.get("unreported_steps") else {}
    tensors |= windows
    load(path, tensors, verified=True)
    for key in windows:
        window.merge_state_dict(tensors[key])
    context.model.load_state_dict(tensors["model"])
    context.optimizers.combined.load_state_dict(tensors["optimizer"])
    with _explain_damage(path, "position"):
        if (step := tensors["position"]["step"]) != manifest.step:
            raise ValueError(f"it says step {step}")
        state = TrainState.from_state_dict(tensors["position"])
    state.evaluation_pending = bool(before.get("evaluation_pending"))
    if same_ranks:
        with _explain_damage(path, "random state"):
            torch.set_rng_state(tensors[f"rng.{context.ranks.rank}"])
            if context.ranks.device.type == "cuda":
                torch.cuda.set_rng_state(tensors[f"cuda_rng.{context.ranks.rank}"])
    else:
        torch.manual_seed(_seed(context, state.step))
        if context.ranks.is_main:
            on_old, on_new = ("", "") if old_device == device else (f" on {old_device}", f" on {device}")
            logger.info(
                f"{path.name} was written by {before.get('ranks')} rank(s){on_old}: the same samples and weights on "
                f"{context.ranks.world_size}{on_new}; dropout draws anew"
            )
    if not same_metric and initial.stopping is not None:
        state.stopping = initial.stopping
        if context.ranks.is_main:
            logger.info(f"early stopping counts from here on: {path} has no count of {stopping_metric(context.config)}")
    return state


@contextmanager
def _explain_damage(path: Location, part: str) -> Iterator[None]:
    """Raise a DataError that names a part of the checkpoint if the block refuses its values."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        rule = "a checkpoint holds what a run was at its step"
        raise DataError(f"{path}, {part}", short(error), rule, "use another checkpoint of the run") from error


def _empty_windows(context: TrainContext, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return windows to load into: that of this rank, or on another number of ranks, all of them on rank 0."""
    old_ranks, rank = int(before["ranks"]), context.ranks.rank
    ranks = [rank] if old_ranks == context.ranks.world_size else range(old_ranks) if rank == 0 else []
    return {f"window.{r}": Window(context.selection.tasks, context.ranks.device).state_dict() for r in ranks}


def _seed(context: TrainContext, step: int) -> int:
    text = f"{context.config.seed}/{step}/{context.ranks.world_size}/{context.ranks.rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
