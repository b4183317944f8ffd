"""`test_rows.npz`: what a finished run's best checkpoint says of every row of the test split, for statistics over rows.

    labels   (N, K) float32   0 outside of a task's sample space
    weights  (N, K) float32   s_i d_ik: the sample weight, 0 outside of the task's sample space
    scores   (N, K) float32   probability of a binary task, prediction of a regression
    group    (N,)   int64     of the dataset's group column, -1 where it is null; only where the dataset has one
    tasks    (K,)   str       in the order of the columns

Rows stand in the order of the dataset's test split. Shape suffixes: N rows, B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ple_rec.analysis.finished import finished_run
from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.models.losses.sums import weight_BK
from ple_rec.train.job import EvaluationJob
from ple_rec.train.run_dir import TEST_ROWS, write_stream
from ple_rec.train.trained import load_checkpoint, opened


class Rows:
    """Labels, weights and scores of the rows seen; 12 bytes for each row and task, and 8 for its group.

    Args:
        tasks: In the order of the logits.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)
        self._binary_K = torch.tensor([task.kind == "binary" for task in tasks])
        self._parts: dict[str, list[NDArray[np.generic]]] = {"labels": [], "weights": [], "scores": [], "group": []}

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        """Add a batch without its padding."""
        n = batch.rows
        logits = logits_BK[:n].double().cpu()  # so that few probabilities are rounded to the same one
        scores = torch.where(self._binary_K, logits.sigmoid(), logits)
        weights = weight_BK(batch.in_space_BK, batch.weight_B)[:n]
        for name, values in (("labels", batch.labels_BK[:n]), ("weights", weights), ("scores", scores)):
            self._parts[name].append(values.float().cpu().numpy().copy())
        if batch.group_B is not None:
            self._parts["group"].append(batch.group_B[:n].cpu().numpy().astype(np.int64))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of them, by name."""
        found = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        return found | {"tasks": np.array([task.name for task in self._tasks])}

    def write(self, run_dir: Path) -> Path:
        """Write `test_rows.npz` whole or not at all.

        Raises:
            UserError: the disk is full or not writable.
        """
        path, arrays = run_dir / TEST_ROWS, self.arrays()
        write_stream(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        return path


def collect(run_dir: Path) -> Path:
    """Score the test split with the best checkpoint of a finished run, in one pass and one process.

    Args:
        run_dir: Of the run.

    Returns:
        The path of the file that is written.

    Raises:
        UserError: there is no finished run, or not its dataset, or no room.
        DataError: a damaged checkpoint or dataset.
    """
    config, _ = finished_run(run_dir)
    with opened(config, run_dir, "best") as job:
        return collect_from(job, run_dir)


@torch.no_grad()
def collect_from(job: EvaluationJob, run_dir: Path) -> Path:
    """As `collect`, with what is assembled already, of one rank; its model keeps the weights of the best checkpoint.

    Args:
        job: Of the run.
        run_dir: Of the run.
    """
    assert job.ranks.world_size == 1, "rows stand in the order of the split on one rank alone"
    load_checkpoint(job, run_dir, "best")
    rows, training = Rows(job.selection.tasks), job.model.training
    job.model.eval()
    with closing(job.evaluation_loader("test").epoch(0)) as batches:
        for batch in batches:
            rows.update(batch, job.model(batch.to(job.ranks.device))[0])
    job.model.train(training)
    return rows.write(run_dir)
