"""Predictions of a batch as columns of the output, and how many ids the model does not know.

Shape suffixes: B batch, N its rows or those of a chunk, K tasks, S sparse features, F single-valued ones, V items of a
bag feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.schema import DatasetSchema, Task
from ple_rec.data.arrow import BoolArray, IdArray, IntArray
from ple_rec.data.columns import Columns, Selection
from ple_rec.errors import DataError, UserError
from ple_rec.inference.predict.batches import InputBatch
from ple_rec.ranking.fusion import exponents_of, factors_of
from ple_rec.training.scores import binary_of, scores_of

IDS, WITHOUT_ROW, MISSING = range(3)  # what is counted, of each feature


@dataclass(frozen=True)
class Missing:
    """Flags of values that are not there; a dataset directory, whose row 0 stands for unknown ones too, has none.

    Args:
        single_FN: Flags of single-valued features.
        bags_V: Flags of the items of every bag feature.
    """

    single_FN: BoolArray
    bags_V: tuple[BoolArray, ...]


class IdCounter:
    """Counts ids, those in row 0 or in a row that unknown values share, and those of missing values, by feature.

    Args:
        selection: Features that are counted.
        schema: Schema of the dataset, for the rows that unknown values share.
    """

    def __init__(self, selection: Selection, schema: DatasetSchema) -> None:
        self._single, self._bags = len(selection.single), selection.bags
        shared = {table.name: table.allocated - table.hash_rows for table in schema.tables}
        self._shared_F1 = np.array([[shared[feature.table]] for feature in selection.single]).reshape(-1, 1)
        self._shared = [shared[feature.table] for feature in selection.bags]

    def count(self, columns: Columns, missing: Missing | None, start: int, stop: int) -> IntArray:
        """Return the counts of rows [start, stop) of a chunk, (S, 3)."""
        counts_S3 = np.zeros((self._single + len(self._bags), 3), np.int64)
        ids_FN = columns.ids_FN[:, start:stop]
        counts_S3[: self._single, IDS] = stop - start
        counts_S3[: self._single, WITHOUT_ROW] = _without_row(ids_FN, self._shared_F1).sum(1)
        if missing is not None:
            counts_S3[: self._single, MISSING] = missing.single_FN[:, start:stop].sum(1)
        for i, (bag, shared) in enumerate(zip(columns.bags, self._shared, strict=True)):
            first, last = bag.offsets[start], bag.offsets[stop]
            without = _without_row(bag.values[first:last], np.array(shared)).sum()
            absent = 0 if missing is None else missing.bags_V[i][first:last].sum()
            counts_S3[self._single + i] = last - first, without, absent
        return counts_S3


def _without_row(ids: IdArray, shared: IntArray) -> BoolArray:
    without: BoolArray = (ids == 0) | (ids >= shared)
    return without


def shares_of(features: Sequence[str], counts_S3: IntArray) -> dict[str, dict[str, float]]:
    """Return for each feature the share of unknown values among those that are there, and of missing ones in all."""
    shares = {}
    for name, (ids, without, missing) in zip(features, counts_S3.tolist(), strict=True):
        there = ids - missing
        shares[name] = {
            "unknown": (without - missing) / there if there else 0.0,
            "missing": missing / ids if ids else 0.0,
        }
    return shares


SCORE = "score"


class PredictionColumns:
    """The columns of the output: each task's prediction by its name, float32, and `score`, the log of Eq. 1, float64.

    Args:
        tasks: Tasks in the order of the logits.
        dense: Names of the dense features, in the order of a batch.
        fusion: Fusion that makes the score.

    Raises:
        UserError: A task has the name of another column.
    """

    def __init__(self, tasks: Sequence[Task], dense: Sequence[str], fusion: FusionConfig) -> None:
        self.names = [task.name for task in tasks]
        if SCORE in self.names:
            rule = f"the fused score stands in a column `{SCORE}`"
            raise UserError(f"task {SCORE}", "has the name of the score's column", rule, "name the task otherwise")
        self._kinds: dict[str, TaskKind] = {task.name: task.kind for task in tasks}
        self._binary_K, self._fusion = binary_of(tasks), fusion
        self._exponents_1F = exponents_of(fusion)[None]
        self._length = None if fusion.length is None else list(dense).index(fusion.length.feature)

    def of_batch(self, rows: InputBatch, logits_BK: Tensor) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """Return the columns of a batch, and for each factor that the score uses the number of values at a bound.

        Args:
            rows: Batch.
            logits_BK: Logits of its rows, and of its padding.

        Raises:
            DataError: A prediction is not finite.
        """
        n = rows.batch.rows
        scores_NK = scores_of(logits_BK[:n], self._binary_K).numpy()
        if not (finite_NK := np.isfinite(scores_NK)).all():
            row, k = (int(i) for i in np.argwhere(~finite_NK)[0])
            raise DataError(
                rows.place(row),
                f"the prediction of {self.names[k]} is {scores_NK[row, k]}",
                "predictions are finite; the model's weights, or the row's features, are not",
                "look for values that training has never seen, or predict with another checkpoint",
            )
        predictions = {name: scores_NK[:, k].astype(np.float64) for k, name in enumerate(self.names)}
        length_N = None
        if self._length is not None:
            length_N = rows.batch.dense_BF[:n, self._length].double().cpu().numpy()
        factors = factors_of(self._fusion, self._kinds, predictions, length_N)
        columns = {name: pa.array(np.ascontiguousarray(scores_NK[:, k])) for k, name in enumerate(self.names)}
        columns[SCORE] = pa.array(factors.scores(self._exponents_1F)[0])
        used = [name for name, exponent in zip(factors.names, self._exponents_1F[0], strict=True) if exponent != 0]
        return columns, {name: round(factors.clipped[name] * n) for name in used}
