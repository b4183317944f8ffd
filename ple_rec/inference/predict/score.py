"""Columns of the output from the logits of a batch: a prediction for every task, and one score that combines them.

The score is the logarithm of a product of factors with exponents, Eq. 1 (`ple_rec.ranking.fusion`); a factor is a
prediction, or the length of the item.

Shape suffixes: B rows of a batch with its padding, N rows without padding, K tasks, F factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import FusionConfig
from ple_rec.config.schema import Task
from ple_rec.errors import DataError, UserError
from ple_rec.inference.predict.batches import InputBatch
from ple_rec.ranking.fusion import compute_factors, exponent_array
from ple_rec.training.scores import binary_mask, scores_from_logits

SCORE = "score"


class PredictionColumns:
    """Columns of the output: a float32 prediction for each task, and the float64 `score`, the logarithm of Eq. 1.

    Args:
        tasks: Tasks in the order of the logits.
        dense: Names of the dense features, in the order of a batch.
        fusion: Fusion of the predictions to the score.

    Raises:
        UserError: A task is named "score".
    """

    def __init__(self, tasks: Sequence[Task], dense: Sequence[str], fusion: FusionConfig) -> None:
        self.names = [task.name for task in tasks]
        if SCORE in self.names:
            rule = f"the output has the score in a column `{SCORE}`"
            raise UserError(f"task {SCORE}", "has the name of the score's column", rule, "rename the task")
        self._kinds: dict[str, TaskKind] = {task.name: task.kind for task in tasks}
        self._binary_K, self._fusion = binary_mask(tasks), fusion
        self._exponents_1F = exponent_array(fusion)[None]
        self._length = None if fusion.length is None else list(dense).index(fusion.length.feature)

    def from_logits(self, input_batch: InputBatch, logits_BK: Tensor) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """Return the columns of a batch, and for each factor of the score the number of rows in which it is at a bound.

        Factors whose exponent is 0 are left out.

        Args:
            input_batch: Batch with the places of its rows.
            logits_BK: Logits of the rows, followed by those of the padding.

        Raises:
            DataError: A prediction is not finite.
        """
        n = input_batch.batch.rows
        scores_NK = scores_from_logits(logits_BK[:n], self._binary_K).numpy()
        if not (finite_NK := np.isfinite(scores_NK)).all():
            row, k = (int(i) for i in np.argwhere(~finite_NK)[0])
            raise DataError(
                input_batch.place(row),
                f"the prediction of {self.names[k]} is {scores_NK[row, k]}",
                "a prediction is finite; here the model's weights or the row's features are not",
                "look for values that training has never seen, or predict with another checkpoint",
            )
        predictions = {name: scores_NK[:, k].astype(np.float64) for k, name in enumerate(self.names)}
        length_N = None
        if self._length is not None:
            length_N = input_batch.batch.dense_BF[:n, self._length].double().cpu().numpy()
        factors = compute_factors(self._fusion, self._kinds, predictions, length_N)
        columns = {name: pa.array(np.ascontiguousarray(scores_NK[:, k])) for k, name in enumerate(self.names)}
        columns[SCORE] = pa.array(factors.scores(self._exponents_1F)[0])
        used = [name for name, exponent in zip(factors.names, self._exponents_1F[0], strict=True) if exponent != 0]
        return columns, {name: round(factors.clipped[name] * n) for name in used}
