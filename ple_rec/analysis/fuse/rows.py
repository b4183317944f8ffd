"""What a fusion is searched on: a run's predictions on held-out rows, their labels, lists and video lengths.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.finished import finished_run
from ple_rec.analysis.test_rows import Rows, score_split
from ple_rec.config.base import Split, TaskKind
from ple_rec.config.run import RunConfig
from ple_rec.config.words import suggestion
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.storage import Location
from ple_rec.training.checks import select
from ple_rec.training.context import EvaluationJob
from ple_rec.training.trained import load_checkpoint, open_trained_run, single_process_config

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FusionRows:
    """Rows of a split, in its order.

    Args:
        labels: By task, (N,); 0 outside of its sample space: what was not clicked was not shared.
        weights: By task, s_i d_ik.
        predictions: By task: the probability of a binary task, the prediction of a regression.
        group_N: Of the dataset's group column: whose list a row stands in; -1: in none. None: there is no such column.
        length_N: Of the video, NaN where it is missing; None where none is read.
    """

    labels: dict[str, Floats]
    weights: dict[str, Floats]
    predictions: dict[str, Floats]
    group_N: NDArray[np.int64] | None
    length_N: Floats | None


@dataclass(frozen=True)
class Fusible:
    """A finished run whose predictions can be fused.

    Args:
        run_dir: Directory of the run.
        config: With its batches in one process.
        kinds: Of its tasks.
        dense: Names of the dense features that it reads.
        group: The dataset's group column.
    """

    run_dir: Location
    config: RunConfig
    kinds: dict[str, TaskKind]
    dense: tuple[str, ...]
    group: str | None

    def median(self, feature: str) -> float:
        """Of a dense feature in the training split, as `stats.json` has it.

        Raises:
            UserError: the run reads no such feature, or its statistics have no quantiles.
        """
        if feature not in self.dense:
            known = suggestion(feature, self.dense) if self.dense else "the run reads no dense feature"
            raise UserError("--length", f'got "{feature}"', known, "name a dense feature of the run")
        statistics = Dataset(self.config.data.path).statistics()
        try:
            quantiles = statistics[feature]["train"]["quantiles"]
            return float(quantiles[(len(quantiles) - 1) // 2])
        except (LookupError, TypeError, ValueError):
            raise UserError(
                f"{self.config.data.path}/stats.json",
                f"no quantiles of {feature} in train",
                "a missing length counts as the median one",
                "prepare the dataset with `ple-rec prep`, or give the length with `missing` in a file of --fusion",
            ) from None

    def check_lists(self, by: str | None) -> None:
        """Refuse a run whose rows nothing makes lists of.

        Args:
            by: Column whose rows of one value are a list; None: the dataset's group column.

        Raises:
            UserError: the dataset has no group column and none is named.
        """
        if self.group is None and by is None:
            raise UserError(
                self.config.data.path,
                "has no group column",
                "a fusion orders lists: the impressions of a request or a user",
                "name a column of its parts by --by, or one for all by `group` in its schema.toml",
            )


def fusible(run_dir: Location, overrides: Sequence[str] = ()) -> Fusible:
    """Look at a run before anything is predicted.

    Args:
        run_dir: Directory of the run.
        overrides: `a.b=c`, of what an evaluation may change.

    Raises:
        UserError: there is no finished run.
        DataError: a damaged dataset.
    """
    config, metrics = finished_run(run_dir, overrides)
    selection = select(config, Dataset(config.data.path))
    kinds = {task.name: task.kind for task in selection.tasks}
    dense = tuple(feature.name for feature in selection.dense)
    return Fusible(run_dir, single_process_config(config, metrics), kinds, dense, selection.group)


@dataclass(frozen=True)
class Predicted:
    """A run's predictions.

    Args:
        run: Whose.
        checkpoint: That predicted.
        rows: By split.
    """

    run: Fusible
    checkpoint: str
    rows: dict[Split, FusionRows]


def predicted(run: Fusible, splits: Sequence[Split], length: str | None) -> Predicted:
    """Predict splits with the best checkpoint, in this process.

    Args:
        run: Whose.
        splits: Which.
        length: Dense feature that holds the video's length; None: none is read.

    Raises:
        DataError: a damaged checkpoint or dataset.
    """
    with open_trained_run(run.config, run.run_dir, "best") as job:
        path = load_checkpoint(job, run.run_dir, "best")
        column = None if length is None else run.dense.index(length)
        return Predicted(run, path.name, {split: _rows(job, split, column) for split in splits})


def _rows(job: EvaluationJob, split: Split, column: int | None) -> FusionRows:
    rows, lengths = Rows(job.selection.tasks), []
    with closing(score_split(job, split)) as scored:
        for batch, logits_BK, _ in scored:
            rows.update(batch, logits_BK)
            if column is not None:
                lengths.append(batch.dense_BF[: batch.rows, column].double().cpu().numpy())
    found = rows.arrays()
    names = [str(name) for name in found["tasks"]]
    labels, weights, scores = (
        {name: np.asarray(found[key][:, k], np.float64) for k, name in enumerate(names)}
        for key in ("labels", "weights", "scores")
    )
    group_N = np.asarray(found["group"], np.int64) if "group" in found else None
    return FusionRows(labels, weights, scores, group_N, np.concatenate(lengths) if lengths else None)
