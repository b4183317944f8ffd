"""A trained run opened again: its model, filled from one of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ple_rec.checkpoint.listing import find_checkpoint, require_checkpoint
from ple_rec.checkpoint.load import load
from ple_rec.checkpoint.manifest import explain_removal, read_manifest
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.config.words import suggestion
from ple_rec.data.dataset import Dataset
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DataError, UserError
from ple_rec.models.embeddings import table_configs
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.runs.layout import CONFIG
from ple_rec.runs.lineage import check_trained_with, what_differs
from ple_rec.storage import Location
from ple_rec.training.checks import global_batch_size, select
from ple_rec.training.context import EvaluationJob, assemble_evaluation
from ple_rec.training.precision import saved_precision


@contextmanager
def open_trained_run(config: RunConfig, run_dir: Location, checkpoint: str) -> Iterator[EvaluationJob]:
    """Give what an evaluation of a run needs, in a process group of its own; the weights are not yet loaded.

    Args:
        config: Configuration of the run, as far as an evaluation may change it.
        run_dir: Directory of the run.
        checkpoint: Checkpoint that will be loaded: `best`, `latest` or `step-<n>`.

    Raises:
        UserError, DataError: as of `assemble_evaluation`.
    """
    with process_group(config.runtime) as ranks:
        written_by = broadcast(run_on_rank_zero(lambda: _written_by(config, run_dir, checkpoint))) or {}
        yield assemble_evaluation(_placed_anew(config), ranks, None, saved_precision(written_by))


def _written_by(config: RunConfig, run_dir: Location, checkpoint: str) -> Mapping[str, Any]:
    with suppress(DataError):  # whoever loads a damaged checkpoint says so
        path = find_checkpoint(checkpoint_place(config, run_dir), checkpoint)
        return {} if path is None else read_manifest(path).written_by
    return {}


def trained_checkpoint(config: RunConfig, run_dir: Location, checkpoint: str, dataset: Dataset) -> Location:
    """Return a checkpoint of the run, once it is sure that its ids mean the same in a dataset.

    It comes before all else that is read of a dataset: what an unrelated one lacks is no help.

    Args:
        config: Configuration of the run, as far as an evaluation may change it.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.
        dataset: Dataset to evaluate or to predict.

    Raises:
        UserError: there is no such checkpoint, it was trained with another configuration, or neither on the dataset
            nor on an ancestor of it.
        DataError: its manifest or its configuration is damaged.
    """
    path = require_checkpoint(checkpoint_place(config, run_dir), checkpoint)
    own = load_config(RunConfig, run_dir / CONFIG)
    with explain_removal(path):
        manifest = read_manifest(path)
        check_trained_with(own, run_dir, path, manifest)
    written_by, schema = manifest.written_by, dataset.schema
    if written_by.get("dataset") not in schema.lineage():
        features = [feature.name for feature in schema.sparse] + [feature.name for feature in schema.dense]
        drop = [name for name in config.data.drop if name in features]
        tasks = [task.name for task in config.tasks if task.name in {known.name for known in schema.tasks}]
        raise UserError(
            str(dataset.path),
            f"is dataset {schema.fingerprint}",
            f"{path} was trained on {own.data.path}, dataset {written_by.get('dataset')} "
            f"({what_differs(written_by, dataset.select(drop=drop, tasks=tasks))}); other vocabularies would make its "
            "ids mean something else",
            "give the dataset that it was trained on, or one that `ple-rec prep --append` made from it",
        )
    return path


def load_checkpoint(job: EvaluationJob, run_dir: Location, checkpoint: str) -> Location:
    """Fill the model from a checkpoint of the run (a collective); which one that is.

    Args:
        job: Run whose model is filled.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: there is no such checkpoint, or the dataset is not the one that it was trained on.
        DataError: it is damaged, or of another model.
    """
    path = trained_checkpoint(job.config, run_dir, checkpoint, job.dataset)
    state = {"model": job.model.state_dict()}
    load(path, state)
    job.model.load_state_dict(state["model"])
    return path


def table_rows(config: RunConfig, run_dir: Location, checkpoint: str, table: str) -> Tensor:
    """Return the rows of one embedding table of a checkpoint, in fp32 and in the memory of this process.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        checkpoint: `best`, `latest` or `step-<n>`.
        table: Name of the table.

    Returns:
        (allocated rows, D).

    Raises:
        UserError: the run has no such table or checkpoint, or the dataset is not the one that it was trained on.
        DataError: the checkpoint is damaged, or of another model.
    """
    dataset = Dataset(config.data.path)
    path = trained_checkpoint(config, run_dir, checkpoint, dataset)
    selection = select(config, dataset)
    tables = {each.name: each for each in table_configs(config.embeddings, selection.sparse, selection.table_rows)}
    if table not in tables:
        raise UserError("table", f'got "{table}"', suggestion(table, list(tables)), "name a table that the run reads")
    rows_RD = torch.empty(tables[table].num_embeddings, tables[table].embedding_dim)
    with process_group(config.runtime):
        load(path, {"model": {f"embeddings.embedding_bags.{table}.weight": rows_RD}})
    return rows_RD


def single_process_config(config: RunConfig, metrics: Mapping[str, Any]) -> RunConfig:
    """With the batches that all ranks of the run had together.

    Args:
        config: Of the run.
        metrics: Its `metrics.json`, which says how many ranks those were.
    """
    ranks = metrics.get("world_size")
    size = global_batch_size(config, ranks if isinstance(ranks, int) else 1)
    train = config.train.model_copy(update={"batch_size": size, "batch_size_per_rank": None})
    return config.model_copy(update={"train": train})


def _placed_anew(config: RunConfig) -> RunConfig:
    """Without what places single tables, which is of the hosts that the run was trained on."""
    free = {"sharding": None, "kernel": None, "hosts": None}
    tables = {name: own.model_copy(update=free) for name, own in config.embeddings.tables.items()}
    return config.model_copy(update={"embeddings": config.embeddings.model_copy(update={"tables": tables})})
