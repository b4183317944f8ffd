"""What every contender trains: sizes and rows, as a file that needs nothing of this project to read.

Shape suffixes: N rows, S sparse features, F dense features, K tasks, B batch.
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
    """The reference workload at one number of users.

    Args:
        dataset: Directory that our own contender reads.
        rows: File of `Rows`, for the others.
        folder: Where a contender may write.
        threads: Of each contender.
        batch_size: B.
        precision: Precision of matrix products: `fp32`, `bf16`, or `auto`, which only our contender knows.
        tables: Rows of the table of each sparse feature, by its name.
        dense: Names of the dense features.
        tasks: Their kinds, `binary` or `regression`, by name.
        dim: Of every table.
        levels: Of PLE.
        task_experts: Own experts per task and level.
        shared_experts: Per level.
        expert_hidden: Widths of an expert.
        tower_hidden: Widths of a tower before its output.
        learning_rate: Of the dense optimizer.
        table_learning_rate: Of row-wise Adagrad.
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
        """Of all tables, in fp32."""
        return 4 * self.dim * sum(self.tables.values())

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        """The inverse of `write`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Rows(NamedTuple):
    """Rows of the training split, in the order of our loader's batches.

    Args:
        ids_SN: Table rows.
        dense_FN: log(1 + x), then mean 0 and standard deviation 1.
        labels_KN: 0 outside the task's sample space.
        in_space_KN: 1.0 where the label counts.
    """

    ids_SN: NDArray[np.int32]
    dense_FN: NDArray[np.float32]
    labels_KN: NDArray[np.float32]
    in_space_KN: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """As .npz."""
        with path.open("wb") as file:
            np.savez(file, **self._asdict())

    @classmethod
    def read(cls, path: str | Path) -> Rows:
        """The inverse of `write`, in memory."""
        with np.load(path) as arrays:
            return cls(*(arrays[name] for name in cls._fields))

    def first(self, count: int) -> Rows:
        """The first rows, as views."""
        return self.part(slice(count))

    def part(self, of: slice) -> Rows:
        """Some of the rows, as views."""
        return Rows(self.ids_SN[:, of], self.dense_FN[:, of], self.labels_KN[:, of], self.in_space_KN[:, of])

    def copied(self) -> Rows:
        """In memory of its own."""
        return Rows(self.ids_SN.copy(), self.dense_FN.copy(), self.labels_KN.copy(), self.in_space_KN.copy())

    def batches(self, batch_size: int) -> list[Rows]:
        """The whole batches, each in memory of its own."""
        starts = range(0, self.ids_SN.shape[1] - batch_size + 1, batch_size)
        return [self.part(slice(start, start + batch_size)).copied() for start in starts]


class Cycle(Generic[T]):
    """Batches over and over: `take(3)` goes on where the last call ended."""

    def __init__(self, batches: list[T]) -> None:
        self._next: Iterator[T] = itertools.cycle(batches)

    def take(self, count: int) -> list[T]:
        """The next ones."""
        return list(itertools.islice(self._next, count))
