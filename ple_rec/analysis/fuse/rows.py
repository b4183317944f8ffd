"""What a fusion is searched on: a run's predictions on held-out rows, their labels, lists and video lengths.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ple_rec.analysis.analyze import of_one_process
from ple_rec.analysis.finished import finished_run
from ple_rec.analysis.test_rows import Rows
from ple_rec.config.base import Split, TaskKind
from ple_rec.config.words import suggestion
from ple_rec.errors import UserError
from ple_rec.train.job import EvaluationJob
from ple_rec.train.trained import load_checkpoint, opened

Floats = NDArray[np.float64]
_MEDIAN = 0.5


@dataclass(frozen=True)
class FusionRows:
    """Rows of a split, in its order.

    Args:
        labels: By task, (N,); 0 outside of its sample space: what was not clicked was not shared.
        weights: By task, s_i d_ik.
        predictions: By task: the probability of a binary task, the prediction of a regression.
        group_N: Whose list a row stands in; -1: in none.
        length_N: Of the video, NaN where it is missing; None where none is read.
    """

    labels: dict[str, Floats]
    weights: dict[str, Floats]
    predictions: dict[str, Floats]
    group_N: NDArray[np.int64]
    length_N: Floats | None


@dataclass(frozen=True)
class Predicted:
    """A run's predictions.

    Args:
        name: Of the run.
        checkpoint: That predicted.
        kinds: Of the tasks.
        dense: Names of the dense features.
        missing: Median length in train; None where no length is read.
        rows: By split.
    """

    name: str
    checkpoint: str
    kinds: dict[str, TaskKind]
    dense: tuple[str, ...]
    missing: float | None
    rows: dict[Split, FusionRows]


def predicted(run_dir: Path, splits: Sequence[Split], length: str | None, overrides: Sequence[str] = ()) -> Predicted:
    """Predict splits with the best checkpoint of a finished run, in this process.

    Args:
        run_dir: Of the run.
        splits: Which.
        length: Dense feature that holds the video's length; None: none is read.
        overrides: `a.b=c`, of what an evaluation may change.

    Raises:
        UserError: there is no finished run, no group column, or no such feature.
        DataError: a damaged checkpoint or dataset.
    """
    config, metrics = finished_run(run_dir, overrides)
    config = of_one_process(config, metrics)
    with opened(config, run_dir, "best") as job:
        names = tuple(feature.name for feature in job.selection.dense)
        if job.selection.group is None:
            raise UserError(
                config.data.path,
                "has no group column",
                "a fusion orders lists: the impressions of a request or a user",
                "name the column by `group` in the dataset's schema.toml, or prepare it with one",
            )
        if length is not None and length not in names:
            known = suggestion(length, names) if names else "the run reads no dense feature"
            raise UserError("--length", f'got "{length}"', known, "name a dense feature of the run")
        missing = None if length is None else _median(job, length)
        path = load_checkpoint(job, run_dir, "best")
        column = None if length is None else names.index(length)
        return Predicted(
            name=config.name,
            checkpoint=path.name,
            kinds={task.name: task.kind for task in job.selection.tasks},
            dense=names,
            missing=missing,
            rows={split: _rows(job, split, column) for split in splits},
        )


@torch.no_grad()
def _rows(job: EvaluationJob, split: Split, column: int | None) -> FusionRows:
    rows, lengths = Rows(job.selection.tasks), []
    job.model.eval()
    with closing(job.evaluation_loader(split).epoch(0)) as batches:
        for batch in batches:
            if column is not None:
                lengths.append(batch.dense_BF[: batch.rows, column].double().numpy())
            rows.update(batch, job.model(batch.to(job.ranks.device))[0])
    found = rows.arrays()
    names = [str(name) for name in found["tasks"]]
    labels, weights, scores = (
        {name: np.asarray(found[key][:, k], np.float64) for k, name in enumerate(names)}
        for key in ("labels", "weights", "scores")
    )
    group_N = np.asarray(found["group"], np.int64)
    return FusionRows(labels, weights, scores, group_N, np.concatenate(lengths) if lengths else None)


def _median(job: EvaluationJob, feature: str) -> float:
    """Of the training split, as `stats.json` has it."""
    quantiles = job.dataset.statistics()[feature]["train"]["quantiles"]
    return float(quantiles[int(_MEDIAN * (len(quantiles) - 1))])
