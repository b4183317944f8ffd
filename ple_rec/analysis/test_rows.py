"""`test_rows.npz`: labels, and scores of a finished run's best checkpoint, for every row of the test split.

Statistics over rows, such as a bootstrap, need them. A task's sample space is the set of rows that count for it. This
module can also score another split, whose arrays `ple-rec fuse` uses in memory.

    labels   (N, K) float32   0 outside of a task's sample space
    weights  (N, K) float32   weight of the sample, 0 outside of the task's sample space
    scores   (N, K) float32   probability of a binary task, prediction of a regression
    group    (N,)   int64     value of the dataset's group column, -1 if it is null; absent without such a column
    subgroup (N,)   int64     value of the dataset's subgroup column, in the same way
    tasks    (K,)   str       names of the tasks, in the order of the columns

Rows stand in the order of the split.

Shape suffixes: N rows, B batch, K tasks, C columns, O outputs and E experts of a gate matrix.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ple_rec.config.base import Split
from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.data.slices import Slicing
from ple_rec.models.losses import loss_weights_BK
from ple_rec.runs.directory import hold_to_add
from ple_rec.runs.layout import TEST_ROWS, write_stream
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.evaluate import score_batches
from ple_rec.training.scores import binary_mask, scores_from_logits


def score_split(
    job: EvaluationContext, split: Split, slicings: tuple[Slicing, ...] = ()
) -> Generator[tuple[Batch, Tensor, Sequence[Tensor]]]:
    """Yield each batch of a split, its logits_BK, and A_BOE of each mixing of experts, in the order of the rows.

    The caller closes the generator.

    Args:
        job: Evaluation with one rank.
        split: Split to read.
        slicings: Columns whose values the batches hold as codes (`Batch.slices_BC`).

    Raises:
        DataError: The dataset is damaged.
    """
    with closing(job.evaluation_loader(split, slicings).epoch(0)) as batches:
        yield from score_batches(job.model, batches, job.ranks.device)


class RunScores:
    """Labels, weights and scores of rows in memory: 12 bytes for each row and task, and 8 for a group of a row.

    Args:
        tasks: Tasks in the order of the logits.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)
        self._binary_K = binary_mask(tasks)
        names = ("labels", "weights", "scores", "group", "subgroup")
        self._parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in names}

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        """Add a batch without its padding."""
        n = batch.rows
        scores = scores_from_logits(logits_BK[:n], self._binary_K)
        weights = loss_weights_BK(batch.in_space_BK, batch.weight_B)[:n]
        for name, values in (("labels", batch.labels_BK[:n]), ("weights", weights), ("scores", scores)):
            self._parts[name].append(values.float().cpu().numpy().copy())
        for name, group_B in (("group", batch.group_B), ("subgroup", batch.subgroup_B)):
            if group_B is not None:
                self._parts[name].append(group_B[:n].cpu().numpy().astype(np.int64))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of all rows by their names in `test_rows.npz`."""
        arrays = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        return arrays | {"tasks": np.array([task.name for task in self._tasks])}

    def write(self, run_dir: Location) -> Location:
        """Write `test_rows.npz` whole or not at all, and return its path.

        Raises:
            UserError: The file cannot be written, or the run is in a store and a process trains it.
        """
        path, arrays = run_dir / TEST_ROWS, self.arrays()
        with hold_to_add(run_dir):
            write_stream(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        return path


def read_rows(run_dir: Location, tasks: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a run's `test_rows.npz`; None if the file is missing or damaged, or lacks a task.

    Args:
        run_dir: Directory of the run.
        tasks: Names of the tasks, in the order that the columns of the arrays will have.
    """
    try:
        with (run_dir / TEST_ROWS).open("rb") as file, np.load(file) as arrays:
            rows = {name: arrays[name] for name in arrays.files}
        order = [[str(name) for name in rows["tasks"]].index(name) for name in tasks]
        return rows | {name: rows[name][:, order] for name in ("labels", "weights", "scores")}
    except (OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile):
        return None
