"""A run that starts from the weights of another: yesterday's model, trained on with today's data.

What the checkpoint gives: tables, dense parameters, statistics of the normalisers, state of both optimizers. What
starts anew: steps and with them the schedule, the position in the data, random state, the best score, the count of
early stopping. Rows that no value had yet are in the checkpoint too, at their initial values.
"""

from __future__ import annotations

import json
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
from ple_rec.runs.lineage import changed, check_trained_with
from ple_rec.runs.results import mapping
from ple_rec.storage import Location, location, short
from ple_rec.training.context import TrainContext
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.restore import column_cuts

_SHOWN = 5  # differences that a refusal names

# What changes neither a parameter, nor what it means, nor the state that an optimizer keeps of it. Tasks and features
# are compared by what the two runs make of them.
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
    """Where a run's first weights come from: what its `init_from.json` holds.

    Args:
        run: Directory of the run that trained them.
        checkpoint: Name of its checkpoint, `step-<n>`.
        dataset: Fingerprint of the dataset that they were trained on.
        seed: From which the rows of the tables once started, in the first run of the chain.
        init_scale: Their scale then.
    """

    run: str
    checkpoint: str
    dataset: str
    seed: int
    init_scale: float

    @property
    def path(self) -> Location:
        """Of the checkpoint."""
        return checkpoints_of(self.run_dir) / self.checkpoint

    @property
    def run_dir(self) -> Location:
        """Directory of the run that trained them."""
        return location(self.run)


def starting_point(prepared: PreparedRun, run_dir: Location, init_from: tuple[Location, str] | None) -> Start | None:
    """Return where the first weights of a run that begins come from; None for random ones.

    Args:
        prepared: Run that begins.
        run_dir: Directory of the run.
        init_from: Directory of another run and its checkpoint: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: there is no such run or checkpoint, or the run did not finish; its dataset is no ancestor of this
            one's; or a parameter, or the state of an optimizer, would not fit.
        DataError: a file of the other run is damaged, or the weights are random and a normaliser has no value.
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
    start = _finished(run, checkpoint)
    _check_fits(start, prepared)
    return start


def recorded_start(run_dir: Location) -> Start | None:
    """Return where the first weights of a run came from; None where they were random.

    Raises:
        DataError: `init_from.json` is damaged.
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


def load_start(job: TrainContext, start: Start) -> None:
    """Fill the model and both optimizers from the checkpoint, written by any number of ranks (a collective).

    Raises:
        UserError: the checkpoint is gone, or a table is cut by columns in another way.
        DataError: the checkpoint is damaged, or does not fit.
    """
    run_on_rank_zero(lambda: _check_columns(job, start))
    job.optimizers.init_state()
    state = {"model": job.model.state_dict(), "optimizer": job.optimizers.combined.state_dict()}
    load(start.path, state)
    job.model.load_state_dict(state["model"])
    job.optimizers.combined.load_state_dict(state["optimizer"])


def _finished(run: Location, checkpoint: str) -> Start:
    if not (run / CONFIG).is_file():
        raise UserError(f"{Option.INIT_FROM} {run}", f"no {CONFIG}", "a run directory has one", "name a trained run")
    store = CheckpointStore(checkpoints_of(run))
    steps, latest = _json(run / METRICS).get("steps"), store.find("latest")
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
    found = [
        f"{key} was {old!r}, is {new!r}"
        for key, old, new in changed_beyond(before, config, _MAY_DIFFER)
        if not key.startswith("tasks[") and not (key.startswith("embeddings.") and key.endswith(".sharding"))
    ]
    found += changed(recorded, selection)
    found += _resized(recorded, selection)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(
            f"{Option.INIT_FROM} {start.run}",
            "; ".join(found[:_SHOWN]) + more,
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
    """Return what tables that the run reads have other rows; their dims are keys of the configuration."""
    before, now = recorded.get("table_rows", {}), selection.table_rows
    read = dict.fromkeys(feature.table for feature in selection.sparse)
    return [
        f"table {name} had {before[name]:,} rows, has {now[name]:,} rows"
        for name in read
        if name in before and before[name] != now[name]
    ]


def _check_columns(job: TrainContext, start: Start) -> None:
    """Refuse another cut by columns: a row-wise optimizer keeps its state once for every piece of a row."""
    path = CheckpointStore(start.path.parent).require(start.checkpoint)
    before, now = _written_by(path).get("columns", {}), column_cuts(job)
    if before != now:
        raise UserError(
            f"{Option.INIT_FROM} {start.run}",
            f"its tables are cut by columns as {before or 'none'}, this run's as {now or 'none'}",
            "the optimizer's state of a table that is cut by columns fits the same cut only",
            f"train with the same embeddings.sharding and number of ranks, or leave out {Option.INIT_FROM}",
        )


def _written_by(path: Location) -> dict[str, Any]:
    return dict(read_manifest(path).written_by)


def _json(file: Location) -> dict[str, Any]:
    """Return the content of a JSON file of the other run; nothing if it is not there.

    Raises:
        DataError: it is damaged.
    """
    try:
        return dict(mapping(json.loads(file.read_text())))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            str(file), f"unreadable ({error})", "it tells what the run was", "copy the run directory again"
        ) from error
