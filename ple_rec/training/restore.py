"""State of a run in a checkpoint, and its restoration on the same or another number of ranks.

`state_dict`, `describe_run_state` and `config_and_plan_texts` return what a checkpoint holds; `check_resumable` and
`restore` read it. The training loop and `ple_rec.training.run` call them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ple_rec.checkpoint.load import load_state
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.config.load import dump_toml
from ple_rec.config.plan import column_wise_remarks, dump_plan
from ple_rec.errors import DataError, Option, UserError, overrides_text
from ple_rec.runs.layout import CONFIG, PLAN
from ple_rec.runs.lineage import check_checkpoint_config, describe_data, describe_differences
from ple_rec.storage import Location, short_message
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import stopping_metric
from ple_rec.training.progress import ReportWindow
from ple_rec.training.state import TrainState, initial_state

logger = logging.getLogger(__name__)

# Checkpoints that name no device were written on a CPU.
_CPU = "cpu"


def state_dict(context: TrainContext, state: TrainState, window: ReportWindow) -> dict[str, Any]:
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


def describe_run_state(context: TrainContext, state: TrainState, window: ReportWindow) -> dict[str, Any]:
    """Return the description of the run in the manifest of a checkpoint, which is read before the tensors are loaded.

    Args:
        context: Context of the run.
        state: Progress of the run.
        window: Sums since the last report.
    """
    return (
        _describe_run(context)
        | ({"unreported_steps": window.steps} if window.steps else {})
        | ({"evaluation_pending": True} if state.evaluation_pending else {})
    )


def config_and_plan_texts(context: TrainContext) -> dict[str, str]:
    """Return the texts of configuration and plan by file name.

    They are saved with each checkpoint, so that a copy of the checkpoint can be used without the run directory.
    """
    return {CONFIG: dump_toml(context.config).rstrip("\n"), PLAN: dump_plan(context.plan).rstrip("\n")}


def _describe_run(context: TrainContext) -> dict[str, Any]:
    return {
        "ranks": context.ranks.world_size,
        "threads": context.ranks.threads,
        "batch_size": context.batch_size,
        "precision": context.precision.saved(),
        **describe_data(context.dataset.schema, context.selection),
        **({} if context.ranks.device.type == _CPU else {"device": context.ranks.device.type}),
        **({"columns": widths} if (widths := column_shard_widths(context)) else {}),
        **({} if (metric := stopping_metric(context.config)) is None else {"early_stopping": metric}),
    }


def column_shard_widths(context: TrainContext) -> dict[str, list[int]]:
    """Return the numbers of columns of the shards of each column-wise table, if its optimizer state depends on them.

    Row-wise Adagrad has one state value for each shard of a row; with other optimizers the result is empty.
    """
    if not column_wise_remarks(context.plan):
        return {}
    return {
        table.table: [shard.columns for shard in table.shards(context.plan.cluster)]
        for table in context.plan.tables
        if table.sharding == "column_wise"
    }


def check_resumable(context: TrainContext, run_dir: Location, path: Location) -> None:
    """Refuse to resume a run with another dataset, batch size, column-wise sharding or configuration.

    Rank 0 calls this before it replaces any file of the run. A damaged manifest is not refused here.

    Args:
        context: Context of the run that resumes.
        run_dir: Directory of the run.
        path: Directory of its newest checkpoint.

    Raises:
        UserError: The checkpoint was written by a run that differs in one of these.
    """
    # If this checkpoint is damaged, `restore` will be called with an earlier one, so the run is not refused here.
    with suppress(DataError):
        manifest = read_manifest(path)
        _check_same_run(context, path, manifest.written_by)
        check_checkpoint_config(context.config, run_dir, path, manifest)


def _check_same_run(context: TrainContext, path: Location, before: Mapping[str, Any]) -> None:
    now = _describe_run(context)
    place = str(path)
    if before.get("dataset") != now["dataset"]:
        raise UserError(
            place,
            f"was trained on dataset {before.get('dataset')}, {context.dataset.path} is {now['dataset']}: "
            + describe_differences(before, context.selection),
            "a run goes on with the same dataset, since ids of another dataset mean something else",
            "resume with data.path as it was, or start a new run; on a dataset that was prepared from this one by "
            f"`ple-rec prep --append`, start it with {Option.INIT_FROM}",
        )
    ranks, batch = before.get("ranks"), before.get("batch_size")
    # Checkpoints of old versions record no batch size.
    if batch is None and ranks != now["ranks"]:
        raise UserError(
            place,
            f"was written by a run with ranks = {ranks}; this one has ranks = {now['ranks']}",
            "the checkpoint does not record its global batch size, so it goes on with the same number of ranks",
            f"resume with ranks = {ranks}, or start a new run with another {Option.RUN_DIR}",
        )
    if batch is not None and batch != now["batch_size"]:
        raise UserError(
            place,
            f"was written by a run of {batch} samples a step on {ranks} rank(s); this one has {now['batch_size']} on "
            f"{now['ranks']}",
            "a run goes on with the same steps, on any number of ranks",
            f"resume with {overrides_text(f'train.batch_size={batch}', 'train.batch_size_per_rank=')}",
        )
    if before.get("columns") != now.get("columns"):
        old, new = (value or "none" for value in (before.get("columns"), now.get("columns")))
        raise UserError(
            place,
            f"its column_wise shards are {old}, this run's are {new}",
            "row-wise Adagrad keeps one state for each shard of a row, so shards of other widths need another state",
            "resume with the same embeddings.sharding and number of ranks",
        )


def restore(context: TrainContext, path: Location, window: ReportWindow) -> TrainState:
    """Restore a run from a checkpoint, and return its progress (a collective).

    Model, optimizers and random state are overwritten. On another number of ranks or another kind of device, the random
    generators are instead seeded from the seed of the run, the step, the number of ranks and the rank. The count of
    early stopping begins anew if the configuration now watches another metric.

    Args:
        context: Context of the run.
        path: Directory of a checkpoint whose checksums `CheckpointStore.newest_undamaged` has verified.
        window: Empty window of the training loop, to which the checkpoint's sums since the last report are added.

    Raises:
        UserError: The checkpoint was written with another dataset, batch size or column-wise sharding.
        DataError: The checkpoint does not fit the run, or holds values that no run can have.
    """
    manifest = read_manifest(path)
    before = manifest.written_by
    _check_same_run(context, path, before)
    context.optimizers.init_state()
    initial = initial_state(context)
    same_metric = before.get("early_stopping") == stopping_metric(context.config)
    old_device, device = before.get("device", _CPU), context.ranks.device.type
    same_ranks = (before.get("ranks"), old_device) == (context.ranks.world_size, device)
    tensors = _shared_state(context, initial if same_metric else TrainState())
    tensors |= _random_state(context) if same_ranks else {}
    windows = _empty_windows(context, before) if before.get("unreported_steps") else {}
    tensors |= windows
    load_state(path, tensors, verified=True)
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
                f"{context.ranks.world_size}{on_new}; dropout draws other random numbers"
            )
    if not same_metric and initial.stopping is not None:
        state.stopping = initial.stopping
        if context.ranks.is_main:
            logger.info(f"early stopping counts from here on: {path} has no count of {stopping_metric(context.config)}")
    return state


@contextmanager
def _explain_damage(path: Location, entry: str) -> Iterator[None]:
    """Raise a DataError that names an entry of the checkpoint, if the block refuses the entry's values."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        rule = "a checkpoint holds the state of a run at its step"
        raise DataError(f"{path}, {entry}", short_message(error), rule, "use another checkpoint of the run") from error


def _empty_windows(context: TrainContext, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return empty windows to load into: this rank's window, or on another number of ranks, all windows on rank 0."""
    old_ranks, rank = int(before["ranks"]), context.ranks.rank
    ranks = [rank] if old_ranks == context.ranks.world_size else range(old_ranks) if rank == 0 else []
    return {f"window.{r}": ReportWindow(context.selection.tasks, context.ranks.device).state_dict() for r in ranks}


def _seed(context: TrainContext, step: int) -> int:
    text = f"{context.config.seed}/{step}/{context.ranks.world_size}/{context.ranks.rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
