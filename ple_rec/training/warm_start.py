"""Warm start: a run starts from the weights of another run, for example yesterday's model with today's data.

The new run takes tables, dense parameters, statistics of the normalisers and the state of both optimizers from the
checkpoint. Steps, learning-rate schedule, position in the data, random state, best score and the count of early
stopping start at zero. Free rows of tables, which have no value yet, are in the checkpoint with their initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from ple_rec.checkpoint.load import load
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.diff import changed_beyond
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema
from ple_rec.data.columns import Selection
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.errors import DataError, Option, UserError
from ple_rec.models.build import check_values
from ple_rec.runs.checkpoints import identity
from ple_rec.runs.layout import CONFIG, INIT, METRICS, checkpoints_of
from ple_rec.runs.lineage import check_trained_with, input_changes
from ple_rec.runs.read import RunFiles
from ple_rec.storage import Location, location, short
from ple_rec.training.context import TrainContext
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.restore import column_cuts

# Number of differences that a refusal names.
_MOST_SHOWN = 5

# These keys change neither the shape or the meaning of a parameter nor the state of its optimizer. Tasks and features
# are compared by the columns that the two runs read, in `changed`.
_MAY_DIFFER = (
    "name",
    "seed",
    "data",
    "tasks",
    "embeddings.init_scale",
    "model.dropout",
    "model.input_dropout",
    "model.tower.dropout",
    "model.orthogonality",
    "dense_optimizer.learning_rate",
    "dense_optimizer.weight_decay",
    "dense_optimizer.betas",
    "dense_optimizer.clip_norm",
    "table_optimizer.learning_rate",
    "table_optimizer.weight_decay",
    "table_optimizer.eps",
    "schedule",
    "train.batch_size",
    "train.batch_size_per_rank",
    "train.epochs",
    "train.steps",
    "train.report_every",
    "train.evaluate_every",
    "train.best_metric",
    "train.weight_schedule",
    "train.precision",
    "train.exact_auc_limit",
    "early_stopping",
    "evaluation",
    "watch",
    "checkpoint",
    "runtime",
)


@dataclass(frozen=True)
class Start:
    """Checkpoint of another run that a run takes its first weights from; the content of `init_from.json`.

    Args:
        run: Directory of the other run.
        checkpoint: Name of its checkpoint, `step-<n>`.
        dataset: Fingerprint of the dataset that it was trained on.
        seed: Seed of the initial rows of the tables, in the first run of a chain of warm starts.
        init_scale: Scale of these initial rows.
    """

    run: str
    checkpoint: str
    dataset: str
    seed: int
    init_scale: float

    @property
    def path(self) -> Location:
        """Directory of the checkpoint."""
        return checkpoints_of(self.run_dir) / self.checkpoint

    @property
    def run_dir(self) -> Location:
        """Directory of the other run."""
        return location(self.run)


def starting_point(prepared: PreparedRun, run_dir: Location, init_from: tuple[Location, str] | None) -> Start | None:
    """Return the checkpoint that a new run takes its first weights from; None for random weights.

    Args:
        prepared: Run that begins.
        run_dir: Directory of the run.
        init_from: Directory of another run and its checkpoint (`best`, `latest` or `step-<n>`); None for random
            weights.

    Raises:
        UserError: There is no such run or checkpoint, the run did not finish, its dataset is no ancestor of this one's,
            or its parameters or optimizer state would not fit.
        DataError: A file of the other run is damaged. With random weights: a dense feature has no value to normalise
            by.
    """
    if init_from is None:
        dense = prepared.selection.dense
        check_values(dense, prepared.dataset.statistics() if dense else {})
        return None
    run, checkpoint = init_from
    if identity(run) == identity(run_dir):
        raise UserError(
            f"{Option.INIT_FROM} {run}",
            "is the run directory itself",
            "a run starts from another run",
            f"give another {Option.RUN_DIR} or name, or go on with the run by {Option.RESUME}",
        )
    start = _start_from_finished(run, checkpoint)
    _check_fits(start, prepared)
    return start


def recorded_start(run_dir: Location) -> Start | None:
    """Return the checkpoint that a run took its first weights from; None if they were random.

    Raises:
        DataError: The file `init_from.json` is damaged.
    """
    file = run_dir / INIT
    if not file.is_file():
        return None
    try:
        return TypeAdapter(Start).validate_json(file.read_text(), strict=True)
    except (OSError, ValueError) as error:
        raise DataError(
            str(file),
            f"unreadable ({short(error)})",
            "it says where the run has started",
            "copy the run directory again",
        ) from error


def load_start(context: TrainContext, start: Start) -> None:
    """Fill the model and both optimizers from the checkpoint (a collective); any number of ranks may have written it.

    Raises:
        UserError: The checkpoint is gone, or its tables are cut by columns in another way.
        DataError: The checkpoint is damaged, or does not fit.
    """
    run_on_rank_zero(lambda: _check_columns(context, start))
    context.optimizers.init_state()
    state = {"model": context.model.state_dict(), "optimizer": context.optimizers.combined.state_dict()}
    load(start.path, state)
    context.model.load_state_dict(state["model"])
    context.optimizers.combined.load_state_dict(state["optimizer"])


def _start_from_finished(run: Location, checkpoint: str) -> Start:
    if not (run / CONFIG).is_file():
        raise UserError(f"{Option.INIT_FROM} {run}", f"no {CONFIG}", "a run directory has one", "name a trained run")
    store = CheckpointStore(checkpoints_of(run))
    files, latest = RunFiles(run), store.find("latest")
    steps = files.metrics.get("steps")
    if damage := files.damage.get(METRICS):
        rule, fix = "it tells what the run was", "copy the run directory again"
        raise DataError(str(run / METRICS), f"unreadable ({damage})", rule, fix)
    if latest is None or read_manifest(latest).step != steps:
        raise UserError(
            f"{Option.INIT_FROM} {run}",
            "the run has not finished",
            "a run starts from one that has trained to its end and was evaluated",
            f"finish it: ple-rec train --run-dir {run} --resume",
        )
    path = store.require(checkpoint)
    config, first = load_config(RunConfig, run / CONFIG), recorded_start(run)
    seed, scale = (config.seed, config.embeddings.init_scale) if first is None else (first.seed, first.init_scale)
    return Start(str(run), path.name, str(_written_by(path).get("dataset")), seed, scale)


def _check_fits(start: Start, prepared: PreparedRun) -> None:
    config, dataset, selection = prepared.config, prepared.dataset, prepared.selection
    _check_descent(start, dataset.path, dataset.schema)
    before = load_config(RunConfig, start.run_dir / CONFIG)
    manifest = read_manifest(start.path)
    check_trained_with(before, start.run_dir, start.path, manifest)
    recorded = manifest.written_by
    differences = [
        f"{key} was {old!r}, is {new!r}"
        for key, old, new in changed_beyond(before, config, _MAY_DIFFER)
        if not key.startswith("tasks[") and not (key.startswith("embeddings.") and key.endswith(".sharding"))
    ]
    differences += input_changes(recorded, selection)
    differences += _resized(recorded, selection)
    if differences:
        more = f"; and {len(differences) - _MOST_SHOWN} more" if len(differences) > _MOST_SHOWN else ""
        raise UserError(
            f"{Option.INIT_FROM} {start.run}",
            "; ".join(differences[:_MOST_SHOWN]) + more,
            "the weights fit the same model, tasks, features, tables and kinds of optimizers only",
            f"train with {Option.CONFIG.to(f'{start.run}/{CONFIG}')} and change what may differ by {Option.OVERRIDES}, "
            f"or leave out {Option.INIT_FROM}",
        )


def _check_descent(start: Start, path: Location, schema: DatasetSchema) -> None:
    if start.dataset in schema.lineage():
        return
    descent = f"{len(schema.lineage()) - 1} ancestor(s)" if len(schema.lineage()) > 1 else "no ancestors"
    raise UserError(
        f"{Option.INIT_FROM} {start.run}",
        f"was trained on dataset {start.dataset}",
        f"{path} is {schema.fingerprint} with {descent}, none of them that; its ids would mean something else",
        "train on that dataset, or on one prepared from it by `ple-rec prep --append`",
    )


def _resized(recorded: Mapping[str, Any], selection: Selection) -> list[str]:
    """Return a line for each table of the run whose number of rows differs; widths are keys of the configuration."""
    before, now = recorded.get("table_rows", {}), selection.table_rows
    tables = dict.fromkeys(feature.table for feature in selection.sparse)
    return [
        f"table {name} had {before[name]:,} rows, has {now[name]:,} rows"
        for name in tables
        if name in before and before[name] != now[name]
    ]


def _check_columns(context: TrainContext, start: Start) -> None:
    """Refuse another cut by columns, since a row-wise optimizer has one state for each shard of a row."""
    path = CheckpointStore(start.path.parent).require(start.checkpoint)
    before, now = _written_by(path).get("columns", {}), column_cuts(context)
    if before != now:
        raise UserError(
            f"{Option.INIT_FROM} {start.run}",
            f"its tables are cut by columns as {before or 'none'}, this run's as {now or 'none'}",
            "the optimizer's state of a table that is cut by columns fits the same cut only",
            f"train with the same embeddings.sharding and number of ranks, or leave out {Option.INIT_FROM}",
        )


def _written_by(path: Location) -> dict[str, Any]:
    return dict(read_manifest(path).written_by)
