"""A trained run opened again: its model, filled from one of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ple_rec.checkpoint.load import load
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.checkpoint.place import Place
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.parallel.process_group import process_group
from ple_rec.train.checkpoints import checkpoint_place
from ple_rec.train.checks import global_batch_size
from ple_rec.train.job import EvaluationJob, assemble_evaluation
from ple_rec.train.precision import began_with
from ple_rec.train.trained_on import what_differs


@contextmanager
def opened(config: RunConfig, run_dir: Path, checkpoint: str) -> Iterator[EvaluationJob]:
    """What an evaluation of a run needs, in a process group of its own; its weights are those of no checkpoint yet.

    Args:
        config: Of the run, as far as an evaluation may change it.
        run_dir: Of the run.
        checkpoint: That will be loaded: `best`, `latest` or `step-<n>`.

    Raises:
        UserError, DataError: as of `assemble_evaluation`.
    """
    with process_group(config.runtime) as ranks:
        yield assemble_evaluation(_placed_anew(config), ranks, None, began_with(config, run_dir, checkpoint))


def load_checkpoint(job: EvaluationJob, run_dir: Path, checkpoint: str) -> Place:
    """Fill the model from a checkpoint of the run (a collective); which one that is.

    Args:
        job: Of the run.
        run_dir: Of the run.
        checkpoint: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: there is no such checkpoint, or the dataset is not the one that it was trained on.
        DataError: it is damaged, or of another model.
    """
    path = CheckpointStore(checkpoint_place(job.config, run_dir)).require(checkpoint)
    written_by, dataset = read_manifest(path).written_by, job.dataset.schema
    if written_by.get("dataset") not in dataset.lineage():
        raise UserError(
            str(job.dataset.path),
            f"fingerprint {dataset.fingerprint}",
            f"{path} was trained on {written_by.get('dataset')} ({what_differs(written_by, job.selection)}); other "
            "vocabularies would make its ids mean something else",
            "evaluate the dataset that it was trained on, or one that names it among its ancestors",
        )
    state = {"model": job.model.state_dict()}
    load(path, state)
    job.model.load_state_dict(state["model"])
    return path


def of_one_process(config: RunConfig, metrics: Mapping[str, Any]) -> RunConfig:
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
