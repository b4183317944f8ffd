"""Rows on which a fusion is searched: predictions of a run on held-out rows, labels, lists, lengths and propensities.

Shape suffixes: N rows, K tasks, L lists.
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
from ple_rec.data import side_columns
from ple_rec.data.dataset import Dataset
from ple_rec.errors import DataError, UserError
from ple_rec.ranking.lists import Ints, Lists
from ple_rec.storage import Location
from ple_rec.training.checks import select
from ple_rec.training.context import EvaluationJob
from ple_rec.training.trained import load_checkpoint, open_trained_run, single_process_config


@dataclass(frozen=True)
class LogColumns:
    """Columns of the dataset's parts, as the command line names them.

    Args:
        by: Whose rows of one value are a list; None: the dataset's group column.
        users: Whose values are resampled; None: the dataset's group column, or `by` where it has none.
        propensity: Probability with which a row was shown; None: the same for all.
        random: Tells which rows were exposed at random, on which alone values are estimated; None: all rows.
        clip: Greatest weight, in units of the mean; None: none.
    """

    by: str | None = None
    users: str | None = None
    propensity: str | None = None
    random: str | None = None
    clip: float | None = None

    def check(self, values: bool) -> None:
        """Refuse what does not go together.

        Args:
            values: Whether a value@K is asked for.

        Raises:
            UserError: a value@K without a way to estimate it, or a way without one.
        """
        known = self.propensity or self.random
        if values and not known:
            rule = "it has to be known how rows were shown: with which propensity, or which ones at random"
            raise UserError("value@K", "neither --propensity nor --random", rule, "name the dataset's column by one")
        if self.clip is not None and self.propensity is None:
            raise UserError("--clip", "given without --propensity", "it bounds weights 1 / propensity", "leave it out")
        if known and not values:
            flag = "--propensity" if self.propensity else "--random"
            raise UserError(flag, f'got "{known}"', "only value@K uses it", "add --tell TASK.value@K, or leave it out")


@dataclass(frozen=True)
class Log:
    """Of a split, in its order.

    Args:
        list_N: -1: in no list; None: of the dataset's group column, which comes with the predictions.
        user_N: -1: nobody known; None where `list_N` is: each list is a user's.
        propensity_N: In (0, 1]; None: the same for all.
        random_N: Whether a row was exposed at random; None: not asked.
    """

    list_N: Ints | None
    user_N: Ints | None
    propensity_N: Floats | None
    random_N: NDArray[np.bool_] | None


def read_log(dataset: Dataset, split: Split, columns: LogColumns) -> Log:
    """Read the columns of a split.

    Raises:
        UserError: a column that is not there or of another type, lists of several users, or no list of rows that were
            exposed at random.
        DataError: a propensity outside (0, 1] of a row that counts.
    """
    place = str(dataset.path / split)
    list_N = user_N = propensity_N = random_N = None
    if columns.by or columns.users or columns.random:
        by = columns.by or dataset.schema.group
        assert by is not None, "a run without a group column is refused where no column is named"
        list_N = side_columns.codes(dataset, split, by, "--by")
        user_N = side_columns.codes(dataset, split, columns.users or dataset.schema.group or by, "--users")
        users_of(Lists.of(list_N, f"{place}, lists by {by}"), user_N)
    if columns.random is not None:
        random_N = side_columns.flags(dataset, split, columns.random, "--random")
        assert list_N is not None
        if np.bincount(list_N[random_N & (list_N >= 0)]).max(initial=0) < 2:
            raise UserError(
                f"--random {columns.random}",
                f"{random_N.sum():,} of {len(random_N):,} rows of {place}, no two of them in one list",
                "values are estimated on lists of rows that were exposed at random",
                "take a split with more such rows, longer lists by --by, or a log with propensities",
            )
    if columns.propensity is not None:
        propensity_N = side_columns.numbers(dataset, split, columns.propensity, "--propensity")
        good_N = (propensity_N > 0) & (propensity_N <= 1)
        if random_N is not None:
            good_N |= ~random_N
        if not good_N.all():
            row = int(good_N.argmin())
            raise DataError(
                f"{place}, column {columns.propensity!r}, row {row}",
                "no propensity" if np.isnan(propensity_N[row]) else f"got {propensity_N[row]:g}",
                "a propensity is the probability with which the row was shown, above 0 and at most 1",
                "correct the logs, or estimate on other rows by --random",
            )
    return Log(list_N, user_N, propensity_N, random_N)


def users_of(lists: Lists, user_N: Ints) -> Ints:
    """Whose each list is, (L,); lists of nobody known are each another one's.

    Args:
        lists: Of the rows.
        user_N: Of every row of the split; -1: nobody known.

    Raises:
        UserError: a list with rows of two users.
    """
    own_N = user_N[lists.row_N]
    user_L = own_N[lists.start_L]
    mixed_L = np.add.reduceat(own_N != np.repeat(user_L, lists.size_L), lists.start_L) > 0
    if mixed_L.any():
        raise UserError(
            "--users",
            f"{mixed_L.sum():,} of {len(user_L):,} lists have rows of several users",
            "intervals resample users with all of their lists",
            "name by --users the column that says whose a list is; it may be that of --by",
        )
    unknown_L = user_L < 0
    return np.where(unknown_L, user_L.max(initial=0) + 1 + np.arange(len(user_L)), user_L)


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
