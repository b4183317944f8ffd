"""Opening of a trained run: its dataset and model, and the weights of one of its checkpoints.

Evaluation, prediction, export and analysis use `open_trained_run` and then `load_trained_weights`. `load_table_rows`
reads a single embedding table without a model.

Shape suffixes: R rows and D columns of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ple_rec.checkpoint.listing import find_checkpoint, require_checkpoint
from ple_rec.checkpoint.load import load_state
from ple_rec.checkpoint.manifest import explain_removal, read_manifest
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.config.words import suggestion
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.planning_inputs import is_unpooled
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DataError, UserError
from ple_rec.models.embeddings import weight_key
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.runs.layout import CONFIG
from ple_rec.runs.lineage import check_checkpoint_config, describe_differences
from ple_rec.storage import Location
from ple_rec.training.checks import global_batch_size, select_run_columns
from ple_rec.training.context import EvaluationContext, build_evaluation_context
from ple_rec.training.model import run_tables
from ple_rec.training.new_rows import read_new_rows_as_unknown, unknown_sources
from ple_rec.training.precision import saved_precision
from ple_rec.training.prepared import prepare_run


@contextmanager
def open_trained_run(
    config: RunConfig, run_dir: Location, checkpoint: str, dataset: DatasetDirectory | None = None
) -> Iterator[EvaluationContext]:
    """Yield the context of a trained run, in a process group of its own; its weights are not loaded yet.

    Args:
        config: Configuration of the run, with the overrides of an evaluation.
        run_dir: Directory of the run.
        checkpoint: Checkpoint that will be loaded: `best`, `latest` or `step-<n>`.
        dataset: Dataset of the configuration, if this process has opened it; None to open it.

    Raises:
        UserError: The configuration does not fit the dataset or this host.
        DataError: The dataset is damaged.
    """
    with process_group(config.runtime) as ranks:
        written_by = broadcast(run_on_rank_zero(lambda: _read_written_by(config, run_dir, checkpoint))) or {}
        prepared = prepare_run(_without_table_placement(config), ranks.world_size, dataset)
        yield build_evaluation_context(prepared.config, ranks, None, saved_precision(written_by), prepared)


def _read_written_by(config: RunConfig, run_dir: Location, checkpoint: str) -> Mapping[str, Any]:
    # `load_trained_weights` raises the error of a damaged checkpoint.
    with suppress(DataError):
        path = find_checkpoint(checkpoint_place(config, run_dir), checkpoint)
        return {} if path is None else read_manifest(path).written_by
    return {}


def find_trained_checkpoint(
    config: RunConfig, run_dir: Location, checkpoint: str, dataset: DatasetDirectory
) -> Location:
    """Return the directory of a checkpoint of the run, and refuse a dataset in which ids mean something else.

    It is called before columns are selected, because the error of a missing column would not say that the whole dataset
    is the wrong one.

    Args:
        config: Configuration of the run, with the overrides of an evaluation.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.
        dataset: Dataset to evaluate or to predict.

    Raises:
        UserError: There is no such checkpoint, it was trained with another configuration, or it was trained neither on
            the dataset nor on an ancestor of it.
        DataError: The manifest or the configuration is damaged.
    """
    path = require_checkpoint(checkpoint_place(config, run_dir), checkpoint)
    run_config = load_config(RunConfig, run_dir / CONFIG)
    with explain_removal(path):
        manifest = read_manifest(path)
        check_checkpoint_config(run_config, run_dir, path, manifest)
    written_by, schema = manifest.written_by, dataset.schema
    if written_by.get("dataset") not in schema.lineage():
        drop = [name for name in config.data.drop if name in schema.features()]
        known_vectors = [vector.name for vector in schema.vectors]
        vectors = None if (names := config.data.vectors) is None else [name for name in names if name in known_vectors]
        tasks = [task.name for task in config.tasks if task.name in {known.name for known in schema.tasks}]
        differences = describe_differences(written_by, dataset.select(drop=drop, tasks=tasks, vectors=vectors))
        raise UserError(
            str(dataset.path),
            f"is dataset {schema.fingerprint}",
            f"{path} was trained on {run_config.data.path}, dataset {written_by.get('dataset')} ({differences}); other "
            "vocabularies would make its ids mean something else",
            "give the dataset that it was trained on, or one that `ple-rec prep --append` made from it",
        )
    return path


def load_trained_weights(context: EvaluationContext, run_dir: Location, checkpoint: str) -> Location:
    """Load the weights of a checkpoint into the model, and return the directory of the checkpoint (a collective).

    Rows that the dataset has assigned to values since the dataset of the checkpoint are read as the row of unknown
    values, see `ple_rec.training.new_rows`.

    Args:
        context: Context of the run.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: As in `find_trained_checkpoint`.
        DataError: The checkpoint is damaged, or of another model.
    """
    path = find_trained_checkpoint(context.config, run_dir, checkpoint, context.dataset)
    state = {"model": context.model.state_dict()}
    load_state(path, state)
    read_new_rows_as_unknown(context, state, _trained_dataset(path))
    context.model.load_state_dict(state["model"])
    return path


def load_table_rows(config: RunConfig, run_dir: Location, checkpoint: str, table: str) -> Tensor:
    """Return the rows of one embedding table of a checkpoint, in fp32 and in the memory of this process.

    Rows that the dataset has assigned to values since the dataset of the checkpoint have the weights of the row of
    unknown values, as in `load_trained_weights`.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.
        table: Name of the table.

    Returns:
        Tensor of shape (number of rows allocated for the table, embedding dimension).

    Raises:
        UserError: The run has no such table, or as in `find_trained_checkpoint`.
        DataError: The checkpoint is damaged, or of another model.
    """
    dataset = DatasetDirectory(config.data.path)
    path = find_trained_checkpoint(config, run_dir, checkpoint, dataset)
    selection = select_run_columns(config, dataset)
    tables = {t.name: t for t in run_tables(config, selection)}
    if table not in tables:
        raise UserError("table", f'got "{table}"', suggestion(table, list(tables)), "name a table that the run reads")
    rows_RD = torch.empty(tables[table].num_embeddings, tables[table].embedding_dim)
    with process_group(config.runtime):
        load_state(path, {"model": {weight_key(table, unpooled=is_unpooled(tables[table])): rows_RD}})
    for row_R, source_R in unknown_sources(dataset, _trained_dataset(path), [table]).values():
        rows_RD[torch.from_numpy(row_R)] = rows_RD[torch.from_numpy(source_R)]
    return rows_RD


def _trained_dataset(path: Location) -> str:
    """Return the fingerprint of the dataset on which a checkpoint was trained."""
    with explain_removal(path):
        return str(read_manifest(path).written_by["dataset"])


def single_process_config(config: RunConfig, metrics: Mapping[str, Any]) -> RunConfig:
    """Return the configuration for one process, which has the global batch size of the run.

    Args:
        config: Configuration of the run.
        metrics: Content of its `metrics.json`, with the number of ranks; one rank is assumed if it lacks this number.
    """
    ranks = metrics.get("world_size")
    size = global_batch_size(config, ranks if isinstance(ranks, int) else 1)
    train = config.train.model_copy(update={"batch_size": size, "batch_size_per_rank": None})
    return config.model_copy(update={"train": train})


def _without_table_placement(config: RunConfig) -> RunConfig:
    """Return the configuration without the placement of single tables, which is meant for the hosts of the training."""
    unplaced = {"sharding": None, "kernel": None, "hosts": None}
    tables = {name: table.model_copy(update=unplaced) for name, table in config.embeddings.tables.items()}
    return config.model_copy(update={"embeddings": config.embeddings.model_copy(update={"tables": tables})})
