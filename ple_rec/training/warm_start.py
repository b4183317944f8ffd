"""Warm start: a run starts from the weights of another run, for example yesterday's model with today's data.

The new run takes tables, dense parameters, statistics of the normalisers and the state of both optimizers from the
checkpoint. Steps, learning-rate schedule, position in the data, random state, best score and the count of early
stopping begin anew. Rows of the tables that belong to other values than in the dataset of the checkpoint, or were free
there, begin anew, too: with their initial weights, drawn with the seed and scale of the first run of a series of warm
starts, and without optimizer state.

If the two runs differ in `model.history`, the dense layers do not fit, since they read other inputs. Then only the
tables, with the state of their optimizer, and the statistics of the normalisers come from the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from torchrec.distributed.types import ShardedTensor

from ple_rec.checkpoint.load import load_state
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.diff import disallowed_differences
from ple_rec.config.load import load_config
from ple_rec.config.model import HISTORY
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import DatasetSchema
from ple_rec.data.columns import Selection
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.sharding import table_of_key
from ple_rec.distributed.table_rows import TableOrigin
from ple_rec.errors import DataError, Option, UserError
from ple_rec.models.build import check_dense_values
from ple_rec.models.embeddings import unpooled_tables, weight_key
from ple_rec.runs.checkpoints import full_address
from ple_rec.runs.layout import CONFIG, INIT, METRICS, configured_checkpoint_place
from ple_rec.runs.lineage import check_checkpoint_config, input_changes
from ple_rec.runs.read import RunFiles
from ple_rec.storage import Location, location, short_message
from ple_rec.training.context import EvaluationContext, TrainContext
from ple_rec.training.new_rows import reset_new_rows
from ple_rec.training.prepared import PreparedRun
from ple_rec.training.restore import column_shard_widths

logger = logging.getLogger(__name__)

# Modules of the model whose buffers are statistics of the training split.
_NORMALISERS = ("normalise.", "vectors.")
# Number of differences that a refusal names.
_MOST_SHOWN = 5

# Keys in which the two runs may differ, because they change neither the shape or the meaning of a parameter nor the
# state of its optimizer. Tasks and features are compared by the columns that the two runs read (`input_changes`).
# `_check_fits` allows further keys.
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
    "model.history",
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
    "train.pipeline",
    "train.precision",
    "train.compile",
    "train.exact_auc_limit",
    "early_stopping",
    "evaluation",
    "watch",
    "checkpoint",
    "runtime",
)


@dataclass(frozen=True)
class WarmStart:
    """Checkpoint of another run that a run takes its first weights from; the content of `init_from.json`.

    Args:
        run: Directory of the other run.
        checkpoint: Name of its checkpoint, `step-<n>`.
        dataset: Fingerprint of the dataset that it was trained on.
        seed: Seed of the initial weights of the tables. Like `init_scale`, it is that of the first run if warm starts
            follow one another.
        init_scale: Scale of the initial weights of the tables.
    """

    run: str
    checkpoint: str
    dataset: str
    seed: int
    init_scale: float

    @property
    def path(self) -> Location:
        """Directory of the checkpoint."""
        return configured_checkpoint_place(self.run_dir) / self.checkpoint

    @property
    def run_dir(self) -> Location:
        """Directory of the other run."""
        return location(self.run)


def resolve_warm_start(
    prepared_run: PreparedRun, run_dir: Location, init_from: tuple[Location, str] | None
) -> WarmStart | None:
    """Return the checkpoint that a new run takes its first weights from; None for random weights.

    Args:
        prepared_run: Run that begins.
        run_dir: Directory of the run.
        init_from: Directory of another run and its checkpoint (`best`, `latest` or `step-<n>`); None for random
            weights.

    Raises:
        UserError: There is no such run or checkpoint, the run did not finish, its dataset is not an ancestor of this
            run's dataset, or its parameters or optimizer state would not fit.
        DataError: A file of the other run is damaged; or, with random weights, a dense feature has no value to
            normalise by.
    """
    if init_from is None:
        dense = prepared_run.selection.dense
        check_dense_values(dense, prepared_run.dataset.statistics() if dense else {})
        return None
    run, checkpoint = init_from
    if full_address(run) == full_address(run_dir):
        raise UserError(
            f"{Option.INIT_FROM} {run}",
            "is the run directory itself",
            "a run starts from another run",
            f"give another {Option.RUN_DIR} or name, or go on with the run by {Option.RESUME}",
        )
    warm_start = _warm_start_of_finished_run(run, checkpoint)
    _check_fits(warm_start, prepared_run)
    return warm_start


def read_warm_start(run_dir: Location) -> WarmStart | None:
    """Return the checkpoint that a run took its first weights from; None if they were random.

    Raises:
        DataError: The file `init_from.json` is damaged.
    """
    file = run_dir / INIT
    if not file.is_file():
        return None
    try:
        return TypeAdapter(WarmStart).validate_json(file.read_text(encoding="utf-8"), strict=True)
    except (OSError, ValueError) as error:
        raise DataError(
            str(file),
            f"unreadable ({short_message(error)})",
            "it names the checkpoint that the run started from",
            "copy the run directory again",
        ) from error


def load_warm_start(context: TrainContext, warm_start: WarmStart) -> None:
    """Load the model and both optimizers from the checkpoint (a collective).

    Any number of ranks may have written it, as long as column-wise tables have shards of the same widths. If its run
    has another `model.history`, only the tables, their optimizer and the normalisers are loaded.

    Raises:
        UserError: The checkpoint is gone, the dataset does not descend from the one that it was trained on, or its
            column-wise tables have shards of other widths.
        DataError: The checkpoint is damaged, or does not fit.
    """

    def check() -> RunConfig:
        # A run that is resumed before its first checkpoint may have another dataset than the one that it began with.
        _check_descent(warm_start, context.dataset.path, context.dataset.schema)
        _check_shard_widths(context, warm_start)
        file = warm_start.path / CONFIG
        # A checkpoint of an early version has no configuration. Its run had no histories, so neither has this one.
        return load_config(RunConfig, file) if file.is_file() else context.config

    before = broadcast(run_on_rank_zero(check))
    assert before is not None  # `broadcast` returns the value of rank 0.
    has_same_layers = not context.selection.histories or _history(before) == _history(context.config)
    if has_same_layers:
        context.optimizers.init_state()
    state = {"model": context.model.state_dict(), "optimizer": context.optimizers.combined.state_dict()}
    load_state(warm_start.path, state if has_same_layers else _state_without_dense_layers(context, state, before))
    if not has_same_layers and context.ranks.is_main:
        change = f"model.history was {_history(before)}, is {_history(context.config)}"
        logger.info(f"the dense layers begin with random weights, since {change}")
    reset_new_rows(context, state, warm_start.dataset, table_origins(context, warm_start))
    context.model.load_state_dict(state["model"])
    context.optimizers.combined.load_state_dict(state["optimizer"])


def _history(config: RunConfig) -> str:
    return config.model.history or HISTORY


def _state_without_dense_layers(
    context: TrainContext, state: Mapping[str, Any], before: RunConfig
) -> dict[str, dict[str, Any]]:
    """Return the parts of a state that a run with another `model.history` has, under the keys of that run.

    Args:
        context: Context of the run that begins.
        state: State of its model and optimizers, whose tensors the result shares.
        before: Configuration of the other run.
    """
    unpooled = unpooled_tables(before.model, context.selection.histories)
    tables, model = {}, {}
    for key, value in state["model"].items():
        if isinstance(value, ShardedTensor):
            tables[key] = weight_key(table_of_key(key), unpooled=table_of_key(key) in unpooled)
            model[tables[key]] = value
    statistics = {name for name, _ in context.unwrapped_model.named_buffers() if name.startswith(_NORMALISERS)}
    model |= {key: value for key, value in state["model"].items() if key in statistics}
    optimizer = {tables[key]: value for key, value in state["optimizer"]["state"].items() if key in tables}
    return {"model": model, "optimizer": {"state": optimizer}}


def table_origins(context: EvaluationContext, warm_start: WarmStart | None) -> dict[str, TableOrigin]:
    """Return the origin of the initial values of each table of a run, by name of the table.

    Args:
        context: Context of the run.
        warm_start: Checkpoint that the run took its first weights from; None if they were random.
    """
    seed, scale = context.config.seed, context.config.embeddings.init_scale
    if warm_start is not None:
        seed, scale = warm_start.seed, warm_start.init_scale
    return {t.table: TableOrigin(t.table, t.rows, t.dim, seed, scale) for t in context.plan.tables}


def _warm_start_of_finished_run(run: Location, checkpoint: str) -> WarmStart:
    if not (run / CONFIG).is_file():
        raise UserError(f"{Option.INIT_FROM} {run}", f"no {CONFIG}", "a run directory has one", "name a trained run")
    store = CheckpointStore(configured_checkpoint_place(run))
    files, latest = RunFiles(run), store.find("latest")
    steps = files.metrics.get("steps")
    if damage := files.damage.get(METRICS):
        rule, fix = "it says whether the run has finished", "copy the run directory again"
        raise DataError(str(run / METRICS), f"unreadable ({damage})", rule, fix)
    if latest is None or read_manifest(latest).step != steps:
        raise UserError(
            f"{Option.INIT_FROM} {run}",
            "the run has not finished",
            "a run starts from another run that has been trained to its end and evaluated",
            f"finish it: ple-rec train --run-dir {run} --resume",
        )
    path = store.require(checkpoint)
    config, earlier = load_config(RunConfig, run / CONFIG), read_warm_start(run)
    seed, scale = (config.seed, config.embeddings.init_scale) if earlier is None else (earlier.seed, earlier.init_scale)
    return WarmStart(str(run), path.name, str(_written_by(path).get("dataset")), seed, scale)


def _check_fits(warm_start: WarmStart, prepared_run: PreparedRun) -> None:
    config, dataset, selection = prepared_run.config, prepared_run.dataset, prepared_run.selection
    _check_descent(warm_start, dataset.path, dataset.schema)
    before = load_config(RunConfig, warm_start.run_dir / CONFIG)
    manifest = read_manifest(warm_start.path)
    check_checkpoint_config(before, warm_start.run_dir, warm_start.path, manifest)
    recorded = manifest.written_by
    # With another `model.history`, the dense layers begin anew, so the sizes of its attention may differ, too.
    # Without histories, neither key has an effect.
    has_other_attention = not selection.histories or _history(before) != _history(config)
    hidden = ("model.history_hidden",) if has_other_attention else ()
    # `input_changes` compares the tasks, and `load_warm_start` the shards, since the model is not sharded before.
    differences = [
        f"{key} was {old!r}, is {new!r}"
        for key, old, new in disallowed_differences(before, config, (*_MAY_DIFFER, *hidden))
        if not key.startswith("tasks[") and not (key.startswith("embeddings.") and key.endswith(".sharding"))
    ]
    differences += input_changes(recorded, selection)
    differences += _resized(recorded, selection)
    if differences:
        more = f"; and {len(differences) - _MOST_SHOWN} more" if len(differences) > _MOST_SHOWN else ""
        raise UserError(
            f"{Option.INIT_FROM} {warm_start.run}",
            "; ".join(differences[:_MOST_SHOWN]) + more,
            "the weights fit the same model, tasks, features, tables and kinds of optimizers only",
            f"train with {Option.CONFIG.with_value(f'{warm_start.run}/{CONFIG}')} and change what may differ by "
            f"{Option.OVERRIDES}, or leave out {Option.INIT_FROM}",
        )


def _check_descent(warm_start: WarmStart, path: Location, schema: DatasetSchema) -> None:
    if warm_start.dataset in schema.lineage():
        return
    descent = f"{len(schema.lineage()) - 1} ancestor(s)" if len(schema.lineage()) > 1 else "no ancestors"
    raise UserError(
        f"{Option.INIT_FROM} {warm_start.run}",
        f"was trained on dataset {warm_start.dataset}",
        f"{path} is {schema.fingerprint} with {descent}; a run starts only from the same dataset or an ancestor, since "
        "ids of other datasets mean something else",
        "train on that dataset, or on one prepared from it by `ple-rec prep --append`",
    )


def _resized(recorded: Mapping[str, Any], selection: Selection) -> list[str]:
    """Return a line for each table of the run whose number of rows differs."""
    before, now = recorded.get("table_rows", {}), selection.table_rows
    tables = dict.fromkeys(feature.table for feature in selection.sparse)
    return [
        f"table {name} had {before[name]:,} rows, has {now[name]:,} rows"
        for name in tables
        if name in before and before[name] != now[name]
    ]


def _check_shard_widths(context: TrainContext, warm_start: WarmStart) -> None:
    """Refuse other widths of column-wise shards, since a row-wise optimizer has one state for each shard of a row."""
    path = CheckpointStore(warm_start.path.parent).require(warm_start.checkpoint)
    before, now = _written_by(path).get("columns", {}), column_shard_widths(context)
    if before != now:
        raise UserError(
            f"{Option.INIT_FROM} {warm_start.run}",
            f"its column_wise shards are {before or 'none'}, this run's are {now or 'none'}",
            "row-wise Adagrad keeps one state for each shard of a row, so shards of other widths need another state",
            f"train with the same embeddings.sharding and number of ranks, or leave out {Option.INIT_FROM}",
        )


def _written_by(path: Location) -> dict[str, Any]:
    return dict(read_manifest(path).written_by)
