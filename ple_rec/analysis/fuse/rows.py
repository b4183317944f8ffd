"""Rows on which `ple-rec fuse` searches a fusion: predictions of a finished run on held-out rows, and columns of logs.

A fusion computes one score for each video from the predictions of all tasks and the length of the video. The score
orders lists of candidates, such as the videos that one request has shown. Metrics of that order are named
`TASK.metric@K`, where K is a number of places at the top of a list. The metric value@K estimates the mean label at
these places as if videos had been shown evenly at random: it weights each row by 1 / propensity, the inverse of the
probability with which the row was shown, or uses only rows that were shown at random.

Options such as `--by` are those of `ple-rec fuse`; `--tell` adds a metric to its report.

Shape suffixes: N rows of a split, K tasks, L lists, B rows of a batch, F dense features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.finished import load_finished_run
from ple_rec.analysis.test_rows import RunScores, score_split
from ple_rec.config.base import Split, TaskKind
from ple_rec.config.run import RunConfig
from ple_rec.config.words import suggestion
from ple_rec.data import side_columns
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError
from ple_rec.ranking.lists import CandidateLists, Ints
from ple_rec.storage import Location
from ple_rec.training.checks import select_run_columns
from ple_rec.training.context import EvaluationContext
from ple_rec.training.trained import load_trained_weights, open_trained_run, single_process_config


@dataclass(frozen=True)
class LogColumns:
    """Options of `ple-rec fuse` that name columns of the dataset's Parquet files, and the bound of weights.

    Args:
        by: Column of lists: rows with equal values form one list. None for the dataset's subgroup column, or for its
            group column if it has no subgroups.
        users: Column of users, whom a bootstrap resamples for confidence intervals. None for the dataset's group
            column, or for `by` if the dataset has no group column.
        propensity: Column with the probability that a row was shown; None if it is the same for all rows.
        random: Column that is not 0 for rows shown at random (null counts as 0), so that value@K uses them alone; None
            to use all rows.
        clip: Greatest weight of a row in value@K, in units of the mean weight; None for no limit.
    """

    by: str | None = None
    users: str | None = None
    propensity: str | None = None
    random: str | None = None
    clip: float | None = None

    def check(self, has_value_metric: bool) -> None:
        """Refuse options that contradict each other.

        Args:
            has_value_metric: True if a metric value@K is computed.

        Raises:
            UserError: A value@K is computed and neither `propensity` nor `random` is named; or one of these is named
                and no value@K is computed; or `clip` is set without `propensity`.
        """
        column = self.propensity or self.random
        if has_value_metric and not column:
            rule = "it needs to know with which propensity rows were shown, or which rows were shown at random"
            raise UserError("value@K", "neither --propensity nor --random", rule, "name a column by one of them")
        if self.clip is not None and self.propensity is None:
            raise UserError("--clip", "given without --propensity", "it bounds weights 1 / propensity", "leave it out")
        if column and not has_value_metric:
            flag = "--propensity" if self.propensity else "--random"
            raise UserError(flag, f'got "{column}"', "only value@K uses it", "add --tell TASK.value@K, or leave it out")


@dataclass(frozen=True)
class SplitLog:
    """Lists, users and propensities of the rows of a split, in the order of the rows.

    If both `list_N` and `user_N` are None, the dataset's groups, which the predictions have, take their place.

    Args:
        list_N: Number of the list of each row, -1 for a row without a list; None if the options name no column of
            lists, of users or of rows shown at random.
        user_N: Number of the user of each row, -1 if unknown; None if `list_N` is None.
        propensity_N: Probability in (0, 1] that the row was shown; None if it is the same for all rows.
        random_N: True for rows that were shown at random; None if no column tells that.
    """

    list_N: Ints | None
    user_N: Ints | None
    propensity_N: Floats | None
    random_N: NDArray[np.bool_] | None


def read_log(dataset: DatasetDirectory, split: Split, columns: LogColumns) -> SplitLog:
    """Read the lists, users and propensities of a split's rows.

    Args:
        dataset: Dataset whose Parquet files have the columns.
        split: Split to read.
        columns: Names of the columns.

    Raises:
        UserError: A column is missing or has a wrong type, no list has two rows, a list has several users, or no list
            has two rows that were shown at random.
        DataError: A propensity is missing or lies outside (0, 1]. With `random`, only rows shown at random are checked.
    """
    place = str(dataset.path / split)
    list_N = user_N = propensity_N = random_N = None
    if columns.by or columns.users or columns.random:
        by = columns.by or dataset.schema.subgroup or dataset.schema.group
        assert by is not None, "a run without a group column is refused if no column is named"
        list_N = side_columns.codes(dataset, split, by, "--by")
        user_N = side_columns.codes(dataset, split, columns.users or dataset.schema.group or by, "--users")
        users_by_list(CandidateLists.from_groups(list_N, f"{place}, lists by {by}"), user_N)
    if columns.random is not None:
        random_N = side_columns.flags(dataset, split, columns.random, "--random")
        # `random` is named, so the lists have been read above.
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
        valid_N = (propensity_N > 0) & (propensity_N <= 1)
        if random_N is not None:
            valid_N |= ~random_N
        if not valid_N.all():
            row = int(valid_N.argmin())
            raise DataError(
                f"{place}, column {columns.propensity!r}, row {row}",
                "no propensity" if np.isnan(propensity_N[row]) else f"got {propensity_N[row]:g}",
                "a propensity is the probability with which the row was shown, above 0 and at most 1",
                "correct the logs, or estimate on other rows by --random",
            )
    return SplitLog(list_N, user_N, propensity_N, random_N)


def users_by_list(lists: CandidateLists, user_N: Ints) -> Ints:
    """Return the number of the user of each list, (L,). A list of an unknown user gets a number that no other list has.

    Args:
        lists: Lists of the split.
        user_N: User of every row of the split; -1 if unknown.

    Raises:
        UserError: A list has rows of several users.
    """
    listed_user_N = user_N[lists.row_N]
    user_L = listed_user_N[lists.start_L]
    mixed_L = np.add.reduceat(listed_user_N != np.repeat(user_L, lists.size_L), lists.start_L) > 0
    if mixed_L.any():
        raise UserError(
            "--users",
            f"{mixed_L.sum():,} of {len(user_L):,} lists have rows of several users",
            "intervals resample users with all of their lists",
            "name by --users the column with the user of each list; it may be the column of --by",
        )
    unknown_L = user_L < 0
    return np.where(unknown_L, user_L.max(initial=0) + 1 + np.arange(len(user_L)), user_L)


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FusionRows:
    """Rows of a split with their predictions, in the order of the split.

    The sample space of a task is the set of rows on which it is trained, such as the clicked videos for the task
    "shared". On all other rows the label is 0, because a video that was not clicked was not shared.

    Args:
        labels: Labels (N,) by task; 0 outside of the task's sample space.
        weights: Sample weights (N,) by task; 0 outside of the task's sample space.
        predictions: Probability of a binary task, or prediction of a regression task, (N,) by task.
        group_N: Value of the dataset's group column, -1 if it is null; None if the dataset has no group column.
        list_N: Value of the subgroup column, in the same form, or of the group column if the dataset has no subgroups.
        length_N: Length of each video, NaN if it is missing; None if no length is read.
    """

    labels: dict[str, Floats]
    weights: dict[str, Floats]
    predictions: dict[str, Floats]
    group_N: NDArray[np.int64] | None
    list_N: NDArray[np.int64] | None
    length_N: Floats | None


@dataclass(frozen=True)
class FusibleRun:
    """Finished run whose predictions a fusion can combine.

    Args:
        run_dir: Directory of the run.
        config: Configuration of the run, changed so that one process can evaluate it.
        kinds: Kind of each task, binary or regression, by its name.
        dense: Names of the dense features that the run reads.
        group: Name of the dataset's group column; None if it has no group column.
        lists: Name of the column whose equal values mark one list: that of the subgroup, or else that of the group.
    """

    run_dir: Location
    config: RunConfig
    kinds: dict[str, TaskKind]
    dense: tuple[str, ...]
    group: str | None
    lists: str | None

    def median(self, feature: str) -> float:
        """Return the median of a dense feature in the training split, from the dataset's `stats.json`.

        Raises:
            UserError: The run does not read the feature, or `stats.json` has no quantiles of it.
        """
        if feature not in self.dense:
            known = suggestion(feature, self.dense) if self.dense else "the run reads no dense feature"
            raise UserError("--length", f'got "{feature}"', known, "name a dense feature of the run")
        statistics = DatasetDirectory(self.config.data.path).statistics()
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
        """Refuse a run whose rows form no lists.

        Args:
            by: Column of lists: rows with equal values form one list. None for `lists`.

        Raises:
            UserError: The dataset has no group column, and `by` is None.
        """
        if self.group is None and by is None:
            raise UserError(
                self.config.data.path,
                "has no group column",
                "a fusion orders lists: the impressions of a request or a user",
                "name a column of its Parquet files by --by, or a group column for all uses by `group` in schema.toml",
            )


def load_fusible_run(run_dir: Location, overrides: Sequence[str] = ()) -> FusibleRun:
    """Read the configuration of a finished run, without its model.

    Args:
        run_dir: Directory of the run.
        overrides: New values for keys of the configuration that an evaluation may change, such as `data.path=other`.

    Raises:
        UserError: The directory has no finished run.
        DataError: The dataset is damaged.
    """
    config, metrics = load_finished_run(run_dir, overrides)
    selection = select_run_columns(config, DatasetDirectory(config.data.path))
    kinds = {task.name: task.kind for task in selection.tasks}
    dense = tuple(feature.name for feature in selection.dense)
    lists = selection.subgroup or selection.group
    return FusibleRun(run_dir, single_process_config(config, metrics), kinds, dense, selection.group, lists)


@dataclass(frozen=True)
class RunPredictions:
    """Predictions of a run on some splits.

    Args:
        run: Run whose model has predicted.
        checkpoint: Name of the checkpoint that was used, `step-<n>`.
        rows: Rows with their predictions, by split.
    """

    run: FusibleRun
    checkpoint: str
    rows: dict[Split, FusionRows]


def predict_splits(run: FusibleRun, splits: Sequence[Split], length: str | None) -> RunPredictions:
    """Predict all rows of some splits with the best checkpoint of a run, in this process.

    Args:
        run: Run whose model predicts.
        splits: Splits to predict.
        length: Dense feature that holds the length of the video; None to read no length.

    Raises:
        DataError: The checkpoint or the dataset is damaged.
    """
    with open_trained_run(run.config, run.run_dir, "best") as job:
        path = load_trained_weights(job, run.run_dir, "best")
        column = None if length is None else run.dense.index(length)
        return RunPredictions(run, path.name, {split: _predict_split(job, split, column) for split in splits})


def _predict_split(job: EvaluationContext, split: Split, column: int | None) -> FusionRows:
    """Predict the rows of a split.

    Args:
        job: Model, dataset and settings of the evaluation.
        split: Split to predict.
        column: Index of the video's length among the dense features; None to read no length.
    """
    rows, lengths = RunScores(job.selection.tasks), []
    with closing(score_split(job, split)) as scored:
        for batch, logits_BK, _ in scored:
            rows.update(batch, logits_BK)
            if column is not None:
                lengths.append(batch.dense_BF[: batch.rows, column].double().cpu().numpy())
    arrays = rows.arrays()
    names = [str(name) for name in arrays["tasks"]]
    labels, weights, scores = (
        {name: np.asarray(arrays[key][:, k], np.float64) for k, name in enumerate(names)}
        for key in ("labels", "weights", "scores")
    )
    group_N = np.asarray(arrays["group"], np.int64) if "group" in arrays else None
    list_N = np.asarray(arrays["subgroup"], np.int64) if "subgroup" in arrays else group_N
    return FusionRows(labels, weights, scores, group_N, list_N, np.concatenate(lengths) if lengths else None)
