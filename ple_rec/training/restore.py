"""What a checkpoint holds of a run, and how a run goes on from it, on as many ranks as it had or on others."""

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
from ple_rec.runs.lineage import check_trained_with, data_head, what_differs
from ple_rec.storage import Location, short
from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import stopping_metric
from ple_rec.training.progress import Window
from ple_rec.training.state import TrainState, initial_state

logger = logging.getLogger(__name__)

_CPU = "cpu"  # the device of checkpoints that name none


def state_dict(job: TrainContext, position: TrainState, window: Window) -> dict[str, Any]:
    """All that a resumed run needs to go on as if it had never stopped."""
    unreported = {f"window.{job.ranks.rank}": window.state_dict()} if window.steps else {}
    return _shared(job, position) | _random(job) | unreported


def _shared(job: TrainContext, position: TrainState) -> dict[str, Any]:
    """What any number of ranks can load."""
    return {
        "model": job.model.state_dict(),
        "optimizer": job.optimizers.combined.state_dict(),
        "position": position.saved(),
    }


def _random(job: TrainContext) -> dict[str, Any]:
    """The random state of this rank, of which dropout draws."""
    rank, cuda = job.ranks.rank, job.ranks.device.type == "cuda"
    return {f"rng.{rank}": torch.get_rng_state()} | ({f"cuda_rng.{rank}": torch.cuda.get_rng_state()} if cuda else {})


def written_by(job: TrainContext, position: TrainState, window: Window) -> dict[str, Any]:
    """Return what a reader of a checkpoint must know of the run before it loads."""
    return (
        _written_by(job)
        | ({"unreported_steps": window.steps} if window.steps else {})
        | ({"evaluation_pending": True} if position.evaluation_pending else {})
    )


def texts(job: TrainContext) -> dict[str, str]:
    """Files that lie beside the tensors of a checkpoint, for whoever finds it alone."""
    return {CONFIG: dump_toml(job.config).rstrip("\n"), PLAN: dump_plan(job.plan).rstrip("\n")}


def _written_by(job: TrainContext) -> dict[str, Any]:
    return {
        "ranks": job.ranks.world_size,
        "threads": job.ranks.threads,
        "batch_size": job.batch_size,
        "precision": job.precision.saved(),
        **data_head(job.dataset.schema, job.selection),
        **({} if job.ranks.device.type == _CPU else {"device": job.ranks.device.type}),
        **({"columns": cuts} if (cuts := column_cuts(job)) else {}),
        **({} if (metric := stopping_metric(job.config)) is None else {"early_stopping": metric}),
    }


def column_cuts(job: TrainContext) -> dict[str, list[int]]:
    """Return the columns of each shard of every table whose optimizer has a state for each of them; empty without."""
    if not column_wise_remarks(job.plan):
        return {}
    return {
        table.table: [shard.columns for shard in table.shards(job.plan.cluster)]
        for table in job.plan.tables
        if table.sharding == "column_wise"
    }


def check_resumable(job: TrainContext, run_dir: Location, path: Location) -> None:
    """Refuse to resume a run of other samples, steps, cuts or configuration, before anything is written.

    Args:
        job: The run as it is to be resumed.
        run_dir: Directory of the run.
        path: Directory of its newest checkpoint.

    Raises:
        UserError: the checkpoint was written by such a run.
    """
    with suppress(DataError):  # its configuration is damaged: an earlier checkpoint is used
        manifest = read_manifest(path)
        _check_same(job, path, manifest.written_by)
        check_trained_with(job.config, run_dir, path, manifest)


def _check_same(job: TrainContext, path: Location, before: Mapping[str, Any]) -> None:
    now = _written_by(job)
    place = str(path)
    if before.get("dataset") != now["dataset"]:
        raise UserError(
            place,
            f"was trained on dataset {before.get('dataset')}, {job.dataset.path} is {now['dataset']}: "
            + what_differs(before, job.selection),
            "a run goes on with the same dataset, since in another one its ids mean something else",
            "resume with data.path as it was, or start another run; on a dataset that was prepared from this one by "
            f"`ple-rec prep --append`, with {Option.INIT_FROM}",
        )
    ranks, batch = before.get("ranks"), before.get("batch_size")
    if batch is None and ranks != now["ranks"]:  # before batch sizes were written
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


def restore(job: TrainContext, path: Location, window: Window) -> TrainState:
    """Fill model, optimizers, random states and the window from a checkpoint that `newest_good` has found.

    Where the run stands, then (a collective).

    On another number of ranks, or on another kind of device, the random states, of which dropout draws, follow from the
    seed, the step and the rank.

    Raises:
        UserError: the checkpoint is of other samples, steps or cuts.
        DataError: it does not fit.
    """
    position = initial_state(job)
    manifest = read_manifest(path)
    before = manifest.written_by
    _check_same(job, path, before)
    job.optimizers.init_state()
    counted = before.get("early_stopping") == stopping_metric(job.config)
    wrote, here = before.get("device", _CPU), job.ranks.device.type
    same = (before.get("ranks"), wrote) == (job.ranks.world_size, here)
    state = _shared(job, position if counted else TrainState()) | (_random(job) if same else {})
    windows = _windows(job, before) if before.get("unreported_steps") else {}
    state |= windows
    load(path, state, verified=True)
    for key in windows:
        window.merge_state_dict(state[key])
    job.model.load_state_dict(state["model"])
    job.optimizers.combined.load_state_dict(state["optimizer"])
    with _possible(path, "position"):
        if (step := state["position"]["step"]) != manifest.step:
            raise ValueError(f"it says step {step}")
        saved = TrainState.of_saved(state["position"])
    saved.evaluation_pending = bool(before.get("evaluation_pending"))
    if same:
        with _possible(path, "random state"):
            torch.set_rng_state(state[f"rng.{job.ranks.rank}"])
            if job.ranks.device.type == "cuda":
                torch.cuda.set_rng_state(state[f"cuda_rng.{job.ranks.rank}"])
    else:
        torch.manual_seed(_seed(job, saved.step))
        if job.ranks.is_main:
            there, now = ("", "") if wrote == here else (f" on {wrote}", f" on {here}")
            logger.info(
                f"{path.name} was written by {before.get('ranks')} rank(s){there}: the same samples and weights on "
                f"{job.ranks.world_size}{now}; dropout draws anew"
            )
    if not counted and position.stopping is not None:
        saved.stopping = position.stopping
        if job.ranks.is_main:
            logger.info(f"early stopping counts from here on: {path} has no count of {stopping_metric(job.config)}")
    return saved


@contextmanager
def _possible(path: Location, what: str) -> Iterator[None]:
    """Turn what an impossible value raises into a DataError: `what` a checkpoint says."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        rule = "a checkpoint holds what a run was at its step"
        raise DataError(f"{path}, {what}", short(error), rule, "use another checkpoint of the run") from error


def _windows(job: TrainContext, before: Mapping[str, Any]) -> dict[str, Any]:
    """To be filled: this rank's window, or on rank 0 those of all ranks where there were others."""
    ranks, rank = int(before["ranks"]), job.ranks.rank
    own = [rank] if ranks == job.ranks.world_size else range(ranks) if rank == 0 else []
    return {f"window.{r}": Window(job.selection.tasks, job.ranks.device).state_dict() for r in own}


def _seed(job: TrainContext, step: int) -> int:
    text = f"{job.config.seed}/{step}/{job.ranks.world_size}/{job.ranks.rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
