"""Write the data of a race: a dataset directory for our contender, and the same rows in one file for the others.

Shape suffixes: N rows, F dense features, K tasks, B batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.feed import write_feed
from benchmarks.peers.workload import TrainingRows, Workload
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Selection
from ple_rec.runtime.host import usable_cores
from ple_rec.training.prepared import prepare_run

RECIPE = "bench-feed"
# Number of training rows; an epoch of our contender then has 128 steps.
WRITTEN_ROWS = 1 << 19
# Number of batches that the other contenders repeat from memory, which can only favour them.
_MEMORY_BATCHES = 64


def prepare(folder: Path, users: int, threads: int | None, precision: str) -> Workload:
    """Write the data unless it exists, and return the workload.

    Args:
        folder: Folder of the data of this number of users.
        users: Approximate number of rows of the user table.
        threads: Number of threads of every contender; None: one per usable core.
        precision: Precision of the matrix products of every contender.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset"
    if not dataset.exists():
        unfinished = folder / "dataset.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_feed(unfinished, users, WRITTEN_ROWS)
        unfinished.rename(dataset)
    config = load_config(RunConfig, RECIPE, [f"data.path={dataset.resolve()}", f"train.precision={precision}"])
    return workload(config, folder, threads or usable_cores())


def workload(config: RunConfig, folder: Path, threads: int) -> Workload:
    """Write the rows that the other contenders read, and return the workload of a configuration.

    Args:
        config: Configuration of a PLE with equal levels, which all contenders can build, such as `bench-feed`.
        folder: Folder of the rows.
        threads: Number of threads of every contender.
    """
    run = prepare_run(config, 1)
    loader, selection = run.training_loader(0), run.selection
    with closing(loader.epoch(0)) as batches:
        rows = collect_rows(islice(batches, _MEMORY_BATCHES), selection)
    rows.write(folder / "rows.npz")
    model = config.model
    assert model.variant == "ple"
    level = model.levels[0]
    assert isinstance(level.task_experts, int)  # The libraries build equally many experts for each task.
    return Workload(
        dataset=str(Path(config.data.path).resolve()),
        rows=str((folder / "rows.npz").resolve()),
        folder=str(folder.resolve()),
        threads=threads,
        batch_size=loader.batch_size,
        precision=config.train.precision,
        tables={feature.name: run.dataset.schema.table_rows()[feature.table] for feature in selection.sparse},
        dense=[feature.name for feature in selection.dense],
        tasks={task.name: task.kind for task in selection.tasks},
        dim=config.embeddings.dim,
        levels=len(model.levels),
        task_experts=level.task_experts,
        shared_experts=level.shared_experts,
        expert_hidden=list(level.expert_hidden),
        tower_hidden=list(model.tower.hidden),
        learning_rate=config.dense_optimizer.learning_rate,
        table_learning_rate=config.table_optimizer.learning_rate,
    )


def collect_rows(batches: Iterator[Batch], selection: Selection) -> TrainingRows:
    """Return the rows of batches, in which every sparse feature has one value per row; see `TrainingRows`.

    Args:
        batches: Batches in the memory of the host.
        selection: Columns of the batches.
    """
    ids: list[NDArray[np.int32]] = []
    dense: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    in_space: list[NDArray[np.float32]] = []
    for batch in batches:
        assert batch.sparse is not None
        ids.append(batch.sparse.values().view(len(selection.sparse), batch.rows).numpy().astype(np.int32))
        dense.append(batch.dense_BF.numpy().T)
        labels.append(batch.labels_BK.numpy().T)
        in_space.append(batch.in_space_BK.numpy().T)
    dense_FN = np.log1p(np.nan_to_num(np.concatenate(dense, axis=1)).clip(min=0))
    dense_FN -= dense_FN.mean(1, keepdims=True)
    dense_FN /= np.maximum(dense_FN.std(1, keepdims=True), 1e-6)
    joined = (np.concatenate(ids, 1), dense_FN, np.concatenate(labels, 1), np.concatenate(in_space, 1))
    return TrainingRows(*(np.ascontiguousarray(array) for array in joined))
