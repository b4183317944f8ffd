"""How long the runs of a comparison will take: between two bounds, from pilots, before the first run.

    seconds of a run = a sample x (training samples + rows evaluated + batches of gradient conflict) + rest

A pilot (pilot.py) tells the seconds of a training sample and the rest, as busy as the machine is. What it cannot tell
makes the difference of the bounds: how much less than a trained sample an evaluated one takes, how other variants
compare with the one that was measured, when early stopping ends a run, and what saves take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ple_rec.analysis.compare.cost import conflict_samples
from ple_rec.analysis.compare.matrix import Variant
from ple_rec.analysis.compare.pilot import Pace
from ple_rec.analysis.compare.resampling import RESAMPLES
from ple_rec.analysis.compare.time_left import side_by_side
from ple_rec.analysis.compare.work import Work
from ple_rec.config.base import Split
from ple_rec.config.schema import SplitInfo
from ple_rec.data.dataset import Dataset
from ple_rec.text.units import short_duration


class Bounds(NamedTuple):
    """Seconds, at least and at most."""

    low: float
    high: float

    def plus(self, other: Bounds) -> Bounds:
        """Return the bounds of one after the other."""
        return Bounds(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        """Both, as people say them."""
        return f"{short_duration(self.low)} to {short_duration(self.high)}"


_FORWARD = 1 / 3  # of a trained sample's time that an evaluated one takes at least: backward is twice the forward
_SAVE = 0.25  # of the rest of a run that a further evaluation adds at most, by its checkpoint
_RESAMPLED = Bounds(5e-9, 2e-8)  # of a row in a resample of a task
_AGAIN, _TRIAL = 0.75, 0.5  # of that rest, a later run of a process at least, and a trial
_ANALYSED = 2  # checkpoints of a run at most on which its analysis takes gradients: the best and the last
_END = 2.0  # rests that the page of the comparison takes at most


def forecast(work: Work, jobs: int, paces: Sequence[Pace]) -> Bounds:
    """Return the seconds that this host's trials and runs of a comparison will take, with their start and the page.

    Args:
        work: Runs and trials that are left.
        jobs: Number of runs side by side.
        paces: Times of pilots, one at least.
    """
    matrix = work.matrix
    splits = Dataset(matrix.variants[matrix.baseline].config.data.path).schema.splits

    def bounds(name: str, *, trial: bool) -> Bounds:
        own = [pace for pace in paces if pace.variant == name] or paces
        each = [_seconds(matrix.variants[name], splits, len(matrix.tasks), pace, trial=trial) for pace in own]
        return Bounds(min(each).low, max(found.high for found in each))

    trials = [bounds(study.variant.name, trial=True) for study in work.own_studies for _ in range(study.left)]
    runs = [bounds(run.variant, trial=False) for run in work.own]
    starts, rests = [pace.start for pace in paces], [pace.rest for pace in paces]
    resampled = splits["test"].rows * RESAMPLES * len(matrix.tasks) * len(work.runs)
    low = sum(side_by_side([each.low for each in part], jobs) for part in (trials, runs))
    high = sum(side_by_side([each.high for each in part], jobs) for part in (trials, runs))
    low += 2 * min(starts) + min(rests) + _RESAMPLED.low * resampled  # this program and its workers start; the page
    high += 2 * max(starts) + _END * max(rests) + _RESAMPLED.high * resampled
    return Bounds(low, high)


def _seconds(variant: Variant, splits: Mapping[Split, SplitInfo], tasks: int, pace: Pace, *, trial: bool) -> Bounds:
    """Return the bounds of one run, or of one trial, which is neither tested nor analysed."""
    train = variant.config.train
    batch = train.batch_size or train.batch_size_per_rank or 1
    epoch = -(-splits["train"].rows // batch)
    steps = train.steps or epoch * (train.epochs or 1)
    every = train.evaluate_every or epoch
    evaluations = -(-steps // every)
    early = variant.config.early_stopping
    fewest = evaluations if early is None else min(evaluations, early.patience + 1)
    tested = 0 if trial else 2 * splits["test"].rows  # evaluated, then scored row by row
    conflict = 0.0 if trial else conflict_samples(batch, tasks)
    ratio = variant.cost.flops_per_sample / pace.flops
    low = min(fewest * every, steps) * batch + fewest * (splits["valid"].rows * _FORWARD + conflict) + tested * _FORWARD
    high = steps * batch + evaluations * (splits["valid"].rows + conflict) + tested
    low, high = low + conflict, high + _ANALYSED * conflict
    return Bounds(
        pace.sample * min(1.0, ratio) * low + pace.rest * (_TRIAL if trial else _AGAIN),
        pace.sample * max(1.0, ratio) * high + pace.rest * (1 + _SAVE * (evaluations - 1)),
    )
