"""`--value NAME=TASK*FEATURE`: a label times a feature, such as the share of a video that is watched x its seconds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ple_rec.analysis.fuse.rows import Floats, Fusible
from ple_rec.config.base import Split
from ple_rec.data import side_columns
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError

_TEXT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z_][A-Za-z0-9_]*)\*(\w+)")


@dataclass(frozen=True)
class Valued:
    """What a row is worth: a task's label times a feature.

    Args:
        name: By which metrics call it, as they call tasks.
        task: Of the run.
        feature: Dense feature of the run; one that is missing counts as the median of train.
    """

    name: str
    task: str
    feature: str

    @classmethod
    def parse(cls, text: str, tasks: Collection[str], dense: Collection[str]) -> Valued:
        """Read one.

        Raises:
            UserError: it is none, or names no task or feature of the run, or takes the name of a task.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            rule = "it is NAME=TASK*FEATURE"
            raise UserError("--value", f'got "{text}"', rule, "for example watch_time=vcr*video_seconds")
        name, task, feature = found.groups()
        if name in tasks:
            raise UserError("--value", f'got "{text}"', f"{name} is a task of the run", "give it another name")
        if task not in tasks:
            raise UserError("--value", f'got "{text}"', f"the tasks are {', '.join(tasks)}", "name one of them")
        if feature not in dense:
            known = f"the dense features are {', '.join(dense)}" if dense else "the run reads no dense feature"
            raise UserError("--value", f'got "{text}"', known, "name one of them")
        return cls(name, task, feature)

    @classmethod
    def parse_all(cls, texts: Sequence[str], tasks: Collection[str], dense: Collection[str]) -> list[Valued]:
        """Read several.

        Raises:
            UserError: as of `parse`, or two of one name.
        """
        found = [cls.parse(text, tasks, dense) for text in dict.fromkeys(texts)]
        names = [valued.name for valued in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError("--value", f"two of the name {twice[0]}", "metrics tell them by it", "rename one")
        return found

    def factor(self, run: Fusible, split: Split) -> Floats:
        """The feature of every row of a split.

        Raises:
            UserError: the feature has no median in `stats.json`.
            DataError: a damaged dataset.
        """
        factor_N = side_columns.numbers(Dataset(run.config.data.path), split, self.feature, "--value")
        missing_N = np.isnan(factor_N)
        if missing_N.any():
            factor_N = np.where(missing_N, run.median(self.feature), factor_N)
        return factor_N


def with_values(labels: Mapping[str, Floats], factors: Mapping[Valued, Floats]) -> dict[str, Floats]:
    """Labels by task and, beside them, what `--value` names, (N,) each."""
    return {**labels, **{valued.name: labels[valued.task] * factor_N for valued, factor_N in factors.items()}}
