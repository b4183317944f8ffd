"""Workload that every contender trains: sizes and rows, in files. Libraries read them without the rest of this project.

Shape suffixes: N rows, S sparse features, F dense features, K tasks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class Workload:
    """Reference workload at one number of users.

    Args:
        dataset: Dataset directory that our own contender reads.
        rows: File of `TrainingRows` that the other contenders read.
        folder: Folder in which a contender may write.
        threads: Number of threads of each contender.
        batch_size: Number of samples of a batch.
        precision: Precision of matrix products: `fp32`, `bf16`, or `auto`, which only our contender knows.
        tables: Number of rows of the embedding table of each sparse feature, by name of the feature.
        dense: Names of the dense features.
        tasks: Kind of each task, `binary` or `regression`, by its name.
        dim: Width of every table.
        levels: Number of levels of PLE.
        task_experts: Number of experts of each task on a level.
        shared_experts: Number of shared experts per level.
        expert_hidden: Widths of the layers of an expert.
        tower_hidden: Widths of the layers of a tower before its output.
        learning_rate: Learning rate of the dense optimizer.
        table_learning_rate: Learning rate of row-wise Adagrad.
    """

    dataset: str
    rows: str
    folder: str
    threads: int
    batch_size: int
    precision: str
    tables: dict[str, int]
    dense: list[str]
    tasks: dict[str, str]
    dim: int
    levels: int
    task_experts: int
    shared_experts: int
    expert_hidden: list[int]
    tower_hidden: list[int]
    learning_rate: float
    table_learning_rate: float

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in fp32."""
        return 4 * self.dim * sum(self.tables.values())

    def write(self, path: Path) -> None:
        """Write the workload as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        """Read the file that `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class TrainingRows(NamedTuple):
    """Rows of the training split, in the order of our loader's batches.

    Args:
        ids_SN: Table row of each sparse feature.
        dense_FN: Dense features as log(1 + x), standardised to mean 0 and standard deviation 1.
        labels_KN: Labels; 0 outside the task's sample space.
        in_space_KN: 1.0 inside the task's sample space, else 0.0.
    """

    ids_SN: NDArray[np.int32]
    dense_FN: NDArray[np.float32]
    labels_KN: NDArray[np.float32]
    in_space_KN: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """Write the rows as .npz."""
        with path.open("wb") as file:
            np.savez(file, **self._asdict())

    @classmethod
    def read(cls, path: str | Path) -> TrainingRows:
        """Read the file that `write` wrote into memory."""
        with np.load(path) as arrays:
            return cls(*(arrays[name] for name in cls._fields))

    def first(self, count: int) -> TrainingRows:
        """Return the first rows, as views."""
        return self.slice_rows(slice(count))

    def slice_rows(self, rows: slice) -> TrainingRows:
        """Return some of the rows, as views."""
        return TrainingRows(
            self.ids_SN[:, rows], self.dense_FN[:, rows], self.labels_KN[:, rows], self.in_space_KN[:, rows]
        )

    def copy(self) -> TrainingRows:
        """Return a copy."""
        return TrainingRows(self.ids_SN.copy(), self.dense_FN.copy(), self.labels_KN.copy(), self.in_space_KN.copy())

    def batches(self, batch_size: int) -> list[TrainingRows]:
        """Return all full batches, each a copy."""
        starts = range(0, self.ids_SN.shape[1] - batch_size + 1, batch_size)
        return [self.slice_rows(slice(start, start + batch_size)).copy() for start in starts]


class Cycle(Generic[T]):
    """Endless repetition of some batches. Each call of `take` goes on where the previous one ended."""

    def __init__(self, batches: list[T]) -> None:
        self._next: Iterator[T] = itertools.cycle(batches)

    def take(self, count: int) -> list[T]:
        """Return the next batches."""
        return list(itertools.islice(self._next, count))
