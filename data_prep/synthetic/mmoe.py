"""`mmoe-synthetic`: two regression tasks whose similarity is set by one number (Ma et al., KDD 2018, section 3.2).

    w_1 = c u_1,   w_2 = c (p u_1 + sqrt(1 - p^2) u_2),   u_1, u_2 orthogonal unit vectors of R^d
    x ~ N(0, I_d),   y_k = w_k.x + sum_{i=1..m} sin(alpha_i (w_k.x) + beta_i) + eps_k,   eps_k ~ N(0, 0.01)

with c = 1, m = 10, alpha_i, beta_i ~ N(0, 1), and d = 512 as in the PLE paper. p is the cosine of the angle between the
weights w_1 and w_2. The correlation of the labels grows with p, but is not equal to it. All random numbers, u_k,
alpha_i and beta_i included, follow from the seed.

Rows are generated in blocks. The inputs x and the noise eps of a block depend on the seed, on d and on the number of
the block, but not on p, so datasets that differ only in p have the same inputs.

Shape suffixes: N rows of a block, D inputs, K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from data_prep.synthetic.files import ParquetLayout
from data_prep.synthetic.hashing import F32, F64, stream_key
from ple_rec.config.base import Split
from ple_rec.config.schema import DenseFeature, Task
from ple_rec.errors import UserError

NAME = "mmoe-synthetic"
FORMAT = 4  # Increase this number with each change that alters the bytes of the same arguments.
PAPER_ROWS = 1_400_000
MIN_ROWS = 1_000  # Valid and test have a tenth of the rows each.
PAPER_DIM, SCALE, WAVES, NOISE_VARIANCE = 512, 1.0, 10, 0.01  # d, c, m, and the variance of eps_k.
MIN_DIM = 2
BLOCK_ROWS = 8192
_PART_BLOCKS = 4
TASKS = tuple(Task(name=f"task{k}", kind="regression", label=f"y{k}") for k in (1, 2))


@dataclass(frozen=True)
class MmoePart:
    """Unit of work: blocks that become one Parquet file of a split.

    Args:
        index: Number of the file in its split.
        splits: The one split of the file, as a tuple.
        blocks: Number of each block, and its number of rows.
    """

    index: int
    splits: tuple[Split, ...]
    blocks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Mmoe:
    """Design of the dataset (`prepare.Design`).

    Args:
        rows: Number of rows: 80 % for train, and 10 % each for valid and test.
        correlation: Cosine p of the two weight vectors, in [-1, 1].
        seed: Seed of everything that is random.
        dim: Number of inputs d.

    Raises:
        UserError: An argument is out of its range.
    """

    rows: int = PAPER_ROWS
    correlation: float = 0.5
    seed: int = 0
    dim: int = PAPER_DIM

    def __post_init__(self) -> None:
        if self.rows < MIN_ROWS:
            raise UserError(
                "rows",
                f"got {self.rows}",
                f"valid and test have a tenth of the rows each, and need at least {MIN_ROWS // 10}",
                f"set {MIN_ROWS} or more; the paper has {PAPER_ROWS}",
            )
        if not -1 <= self.correlation <= 1:
            raise UserError(
                "correlation", f"got {self.correlation}", "it is a cosine of two weights", "set a number in [-1, 1]"
            )
        if self.dim < MIN_DIM:
            raise UserError(
                "dim",
                f"got {self.dim}",
                f"two orthogonal weights need at least {MIN_DIM} inputs",
                f"set {MIN_DIM} or more; the paper has {PAPER_DIM}",
            )

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs: x000, x001, ..."""
        return tuple(f"x{i:03d}" for i in range(self.dim))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks task1 and task2."""
        return TASKS

    def recipe(self) -> dict[str, Any]:
        """Return all that determines the content of the dataset."""
        return {"name": NAME, "format": FORMAT} | {
            "rows": self.rows,
            "dim": self.dim,
            "seed": self.seed,
            "correlation": float(self.correlation),
        }

    def schema_fields(self) -> Mapping[str, Any]:
        """Return the fields of `DatasetSchema` that the design determines.

        The inputs need no normaliser, since they are standard normal.
        """
        dense = tuple(DenseFeature(name=name, normaliser="none") for name in self.features)
        return {"name": NAME, "dense": dense, "tasks": TASKS}

    def slice_columns(self) -> tuple[str, ...]:
        """Return no columns, since there are no categorical features."""
        return ()

    def raw_values(self) -> Mapping[str, Mapping[int, str]]:
        """Return no raw values, since there are no embedding tables."""
        return {}

    def extra_statistics(self) -> Mapping[str, Any]:
        """Return `process`, the parameters of the equations. The MSE of a perfect model is about `noise_variance`."""
        alpha, beta = self.waves
        parameters = {"correlation": float(self.correlation), "seed": self.seed, "dim": self.dim, "scale": SCALE}
        return {"process": parameters | {"noise_variance": NOISE_VARIANCE, "alpha": alpha, "beta": beta}}

    def layout(self) -> ParquetLayout:
        """Return the layout of the parts, without dictionaries, since nearly all values differ."""
        names = [*self.features, *(t.label for t in TASKS), *(f"truth_{t.name}" for t in TASKS)]
        return ParquetLayout(pa.schema([(name, pa.float32()) for name in names]), split_bytes=tuple(names))

    def split_rows(self) -> dict[Split, int]:
        """Return the number of rows of every split."""
        evaluated = self.rows // 10
        return {"train": self.rows - 2 * evaluated, "valid": evaluated, "test": evaluated}

    def parts(self) -> list[MmoePart]:
        """Return the parts of the dataset, which can be generated in any order."""
        out, number = [], 0
        for split, rows in self.split_rows().items():
            # Even a small split has 16 blocks or more, that is, row groups for several ranks.
            size = max(1, min(BLOCK_ROWS, rows // 16))
            sizes = [min(size, rows - at) for at in range(0, rows, size)]
            blocks = list(enumerate(sizes, number))
            number += len(blocks)
            out += [
                MmoePart(i // _PART_BLOCKS, (split,), tuple(blocks[i : i + _PART_BLOCKS]))
                for i in range(0, len(blocks), _PART_BLOCKS)
            ]
        return out

    def tables(self, parts: Sequence[MmoePart]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """Yield the row groups of each part, in order, with their split."""
        for part in parts:
            yield ((part.splits[0], self.table(number, rows)) for number, rows in part.blocks)

    def table(self, number: int, rows: int) -> pa.Table:
        """Return a block: the inputs, the labels y1 and y2, and the labels without noise (truth_task1, truth_task2).

        Args:
            number: Number of the block.
            rows: Number of rows of the block.
        """
        random = self._random("block", number)
        x_DN = random.standard_normal((self.dim, rows), dtype=np.float32)
        noise_KN = random.standard_normal((2, rows)) * math.sqrt(NOISE_VARIANCE)
        projections_KN = self._projections(x_DN)
        columns: dict[str, NDArray[Any]] = dict(zip(self.features, x_DN, strict=True))
        clean = [self._wave(projection) for projection in projections_KN]
        for task, truth, noise in zip(TASKS, clean, noise_KN, strict=True):
            columns[task.label] = (truth + noise).astype(np.float32)
            columns[f"truth_{task.name}"] = truth.astype(np.float32)
        schema = self.layout().schema
        return pa.Table.from_arrays([pa.array(columns[name]) for name in schema.names], schema=schema)

    @cached_property
    def directions(self) -> tuple[list[float], list[float]]:
        """The orthogonal unit vectors u_1 and u_2. Sums are exactly rounded, so they are the same on every machine."""
        random = self._random("directions", 0)
        first, second = (random.standard_normal(self.dim).tolist() for _ in range(2))
        first = _unit(first)
        along = math.fsum(a * b for a, b in zip(first, second, strict=True))
        return first, _unit([b - along * a for a, b in zip(first, second, strict=True)])

    @cached_property
    def weights(self) -> tuple[list[float], list[float]]:
        """The weights w_1 and w_2."""
        p, q = self.correlation, math.sqrt(1 - self.correlation**2)
        first, second = self.directions
        return [SCALE * a for a in first], [SCALE * (p * a + q * b) for a, b in zip(first, second, strict=True)]

    @cached_property
    def waves(self) -> tuple[list[float], list[float]]:
        """The numbers alpha_i and beta_i of the sines, as two lists."""
        random = self._random("waves", 0)
        return random.standard_normal(WAVES).tolist(), random.standard_normal(WAVES).tolist()

    def _projections(self, x_DN: F32) -> list[F64]:
        """Return w_k.x of each row, by task.

        It is summed input by input, since the order of summation in a matrix product differs between machines.
        """
        out = [np.zeros(x_DN.shape[1]) for _ in TASKS]
        for x_N, *weights in zip(x_DN, *self.weights, strict=True):
            x64_N = x_N.astype(np.float64)
            for total, weight in zip(out, weights, strict=True):
                total += x64_N * weight
        return out

    def _wave(self, projection: F64) -> F64:
        """Return y_k without noise, as a function of w_k.x."""
        out = projection.copy()
        for alpha, beta in zip(*self.waves, strict=True):
            out += np.sin(alpha * projection + beta)
        return out

    def _random(self, purpose: str, number: int) -> Generator:
        return Generator(Philox(key=[stream_key(NAME, self.seed, purpose), number]))


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector]
