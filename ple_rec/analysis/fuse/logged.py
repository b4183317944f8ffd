"""How the log was made: which rows are candidates together, whose they are, and with what probability each was shown.

Shape suffixes: N rows, L lists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.fuse.rows import Floats
from ple_rec.config.base import Split
from ple_rec.data import side_columns
from ple_rec.data.dataset import Dataset
from ple_rec.errors import DataError, UserError
from ple_rec.ranking.lists import Ints, Lists


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
