"""Estimate of the time that the runs of a comparison will take, from short runs (pilots).

    seconds of a run = seconds per sample x (training samples + evaluated rows + samples of gradient conflict) + rest

A measurement of gradient conflict counts as the training samples that take as long. A pilot is a short run of a variant
on the first rows of the dataset. It measures the seconds per training sample, and the rest of a run: model building,
saves, report and analysis. As many pilots run in parallel as runs will, so their times include the cost of imports,
threads, shared memory and other work on the machine.

Pilots do not show how much faster evaluation is than training, how fast a variant without a pilot is, when early
stopping ends a run, and how long saves take. The lower bound of the estimate assumes the best case of each of these,
the upper bound the worst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.analysis.compare.equal_cost import conflict_samples
from ple_rec.analysis.compare.matrix import Variant
from ple_rec.analysis.compare.resampling import RESAMPLES
from ple_rec.analysis.compare.time_left import makespan
from ple_rec.analysis.compare.work import Work
from ple_rec.analysis.compare.workers import Outcome, Worker, Workers
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import dump_toml, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import (
    HISTORIES_DIR,
    SCHEMA_FILE,
    STATS_FILE,
    SUCCESS_FILE,
    VECTORS_DIR,
    VOCAB_DIR,
    SplitInfo,
)
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.errors import UserError
from ple_rec.runs.layout import explain_write_errors, write_text
from ple_rec.runs.read import RunFiles
from ple_rec.storage import names_in
from ple_rec.text.units import short_duration

# A pilot computes about this many FLOPs, which take a core a few seconds.
_PILOT_FLOPS = 2e11
# Bounds of the number of steps of a pilot.
_FEWEST_STEPS, _MOST_STEPS = 8, 64
# A batch is not made smaller than this to save FLOPs.
_SMALLEST_BATCH = 128
# Number of rows of each split on which a pilot is evaluated.
_EVALUATED_ROWS = 512


@dataclass(frozen=True)
class Pace:
    """Times of a pilot.

    Args:
        variant: Name of the variant.
        flops: Forward FLOPs of its dense layers for one sample.
        start: Seconds from the start of its process until all modules were imported.
        sample: Seconds per training sample.
        rest: Seconds of the run outside of its steps and gradient conflict: model building, an evaluation of few rows,
            a save, report and analysis.
    """

    variant: str
    flops: int
    start: float
    sample: float
    rest: float


def measure_paces(variants: Sequence[Variant], workers: Sequence[Worker], tasks: int) -> list[Pace]:
    """Train a pilot on each worker, all in parallel, and return their times.

    Args:
        variants: Variants with unfinished runs or trials; the workers take them in turn.
        workers: One worker for each parallel run.
        tasks: Number of tasks of each variant.

    Raises:
        UserError: A pilot failed, as a run of its variant would, or the disk is full.
    """
    with TemporaryDirectory(prefix="ple-rec-pilot-") as folder:
        root = Path(folder)
        with explain_write_errors(root):
            most = _MOST_STEPS * max(_batch_size(variant.config) for variant in variants)
            rows: dict[Split, int] = {"train": most, "valid": _EVALUATED_ROWS, "test": _EVALUATED_ROWS}
            data = write_first_rows(DatasetDirectory(variants[0].config.data.path), root / "data", rows)
        waiting: list[tuple[Variant, RunConfig, Path, Future[Outcome | None]]] = []
        with Workers(workers) as running:
            for i in range(len(workers)):
                variant = variants[i % len(variants)]
                config, run_dir = _pilot_config(variant, data, tasks), root / f"run-{i}"
                file, log = run_dir.with_suffix(".toml"), run_dir.with_suffix(".log")
                write_text(file, dump_toml(config))
                waiting.append((variant, config, run_dir, running.submit(file, run_dir, log)))
            return [_measured_pace(*each, tasks) for each in waiting]


def _batch_size(config: RunConfig) -> int:
    return config.train.batch_size or config.train.batch_size_per_rank or 1


def write_first_rows(dataset: DatasetDirectory, out: Path, rows: dict[Split, int]) -> Path:
    """Write the first rows of each split to a new dataset with the same vocabularies, events, statistics and so on.

    Args:
        dataset: Dataset whose rows are copied.
        out: New directory.
        rows: Largest number of rows of each split.

    Returns:
        The new directory.

    Raises:
        UserError, DataError: A split cannot be read.
    """
    splits: dict[Split, SplitInfo] = {}
    for split in SPLITS:
        tables: list[pa.Table] = []
        left = rows[split]
        for group in dataset.row_groups(split, []):
            table = read_columns(group, group.footer.schema.to_arrow_schema().names)
            tables.append(table.slice(0, left))
            if (left := left - len(tables[-1])) <= 0:
                break
        first_rows = pa.concat_tables(tables)
        (out / split).mkdir(parents=True)
        # A row group for each of the 16 shards into which a loader divides an epoch by default.
        size = max(1, -(-len(first_rows) // 16))
        pq.write_table(first_rows, (out / split / "part-00000.parquet").absolute(), row_group_size=size)
        splits[split] = SplitInfo(rows=len(first_rows), row_groups=-(-len(first_rows) // size))
    (out / SCHEMA_FILE).write_text(dump_toml(dataset.schema.model_copy(update={"splits": splits})), encoding="utf-8")
    names = [STATS_FILE]
    events = [f"{HISTORIES_DIR}/{history.name}" for history in dataset.schema.histories]
    for folder in (VOCAB_DIR, VECTORS_DIR, *events):
        (out / folder).mkdir(parents=True)
        names += [f"{folder}/{name}" for name in names_in(dataset.path / folder)]
    for name in names:
        if (dataset.path / name).is_file():
            (out / name).symlink_to(dataset.digests.local_copy(name).resolve())
    (out / SUCCESS_FILE).touch()
    return out


def _pilot_config(variant: Variant, data: Path, tasks: int) -> RunConfig:
    """Return the configuration of a pilot: few steps on the first rows, one evaluation, and no loggers."""
    # A backward pass takes twice the FLOPs of a forward pass, so training takes three times as many as a forward pass.
    training_flops = 3 * variant.cost.flops_per_sample
    # A pilot measures gradient conflict twice.
    largest_batch = _PILOT_FLOPS / (training_flops * (_FEWEST_STEPS + 2 * conflict_samples(1, tasks)))
    batch = min(_batch_size(variant.config), max(_SMALLEST_BATCH, int(largest_batch)))
    steps = max(_FEWEST_STEPS, min(_MOST_STEPS, int(_PILOT_FLOPS / (training_flops * batch))))
    keys = {"epochs": None, "steps": steps, "evaluate_every": steps, "report_every": steps // 2}
    keys |= {"batch_size": batch, "batch_size_per_rank": None}
    values = {"data.path": str(data), **{f"train.{key}": value for key, value in keys.items()}}
    return with_values(variant.config, values | dict.fromkeys(("watch", "checkpoint", "early_stopping", "schedule")))


def _measured_pace(
    variant: Variant, config: RunConfig, run_dir: Path, ending: Future[Outcome | None], tasks: int
) -> Pace:
    outcome = ending.result()
    # Only a run with a deadline may have no outcome.
    assert outcome is not None
    if outcome.code:
        rule = "a pilot is a short run, from which the time of all runs is estimated"
        raise UserError(f"a pilot of {variant.name}", f"failed: {outcome.message}", rule, "correct that first")
    # The first steps are slower, so take the speed from the last record of training.
    last = RunFiles(run_dir).log.last("train")
    sample = 1 / max(last["samples_per_second"], 1e-9)
    batch = _batch_size(config)
    # A pilot measures gradient conflict twice: once in training and once in the analysis.
    trained_samples = (config.train.steps or 0) * batch + 2 * conflict_samples(batch, tasks)
    rest = max(outcome.seconds - sample * trained_samples, 0.0)
    return Pace(variant.name, variant.cost.flops_per_sample, outcome.start, sample, rest)


class Bounds(NamedTuple):
    """Bounds of a time, in seconds."""

    low: float
    high: float

    def plus(self, other: Bounds) -> Bounds:
        """Return the bounds of the sum of this time and another one."""
        return Bounds(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        """Return both bounds as text, such as `2 min to 3 min 20 s`."""
        return f"{short_duration(self.low)} to {short_duration(self.high)}"


# A backward pass takes twice as long as a forward pass, so evaluation takes at least this share of a training sample.
_FORWARD_SHARE = 1 / 3
# A further evaluation writes a checkpoint, which adds at most this share of the rest of a run.
_SAVE_SHARE = 0.25
# Bounds of the seconds that one row takes in one resample of one task.
_RESAMPLED_ROW = Bounds(5e-9, 2e-8)
# The `rest` of a later run in the same process, and of a trial, is at least this share of that of a first run.
_LATER_RUN_SHARE, _TRIAL_SHARE = 0.75, 0.5
# The analysis of a run measures gradient conflict at two checkpoints at most, the best and the last one.
_ANALYSED_CHECKPOINTS = 2
# The page of the comparison takes at most this many times the `rest` of a run.
_PAGE_RESTS = 2.0


def estimate_seconds(work: Work, jobs: int, paces: Sequence[Pace]) -> Bounds:
    """Return bounds of the seconds until this host has trained its trials and runs and drawn the page of results.

    Args:
        work: Unfinished runs and trials.
        jobs: Number of runs in parallel.
        paces: Times of one pilot or more.
    """
    matrix = work.matrix
    splits = DatasetDirectory(matrix.variants[matrix.baseline].config.data.path).schema.splits

    def bounds(name: str, *, trial: bool) -> Bounds:
        own = [pace for pace in paces if pace.variant == name] or paces
        by_pace = [_run_bounds(matrix.variants[name], splits, len(matrix.tasks), pace, trial=trial) for pace in own]
        return Bounds(min(by_pace).low, max(each.high for each in by_pace))

    trials = [bounds(study.variant.name, trial=True) for study in work.own_studies for _ in range(study.trials_left)]
    runs = [bounds(run.variant, trial=False) for run in work.own_runs]
    starts, rests = [pace.start for pace in paces], [pace.rest for pace in paces]
    resampled = splits["test"].rows * RESAMPLES * len(matrix.tasks) * len(work.runs)
    low = sum(makespan([each.low for each in part], jobs) for part in (trials, runs))
    high = sum(makespan([each.high for each in part], jobs) for part in (trials, runs))
    # Add the start of this program and then of its workers, the intervals over test rows, and the page.
    low += 2 * min(starts) + min(rests) + _RESAMPLED_ROW.low * resampled
    high += 2 * max(starts) + _PAGE_RESTS * max(rests) + _RESAMPLED_ROW.high * resampled
    return Bounds(low, high)


def _run_bounds(variant: Variant, splits: Mapping[Split, SplitInfo], tasks: int, pace: Pace, *, trial: bool) -> Bounds:
    """Return bounds of the seconds of one run, or of one trial, which is neither tested nor analysed."""
    train = variant.config.train
    batch = train.batch_size or train.batch_size_per_rank or 1
    epoch = -(-splits["train"].rows // batch)
    steps = train.steps or epoch * (train.epochs or 1)
    every = train.evaluate_every or epoch
    evaluations = -(-steps // every)
    early = variant.config.early_stopping
    # At the earliest, early stopping ends a run `patience` evaluations after the first one.
    fewest = evaluations if early is None else min(evaluations, early.patience + 1)
    # The test split is evaluated, and the analysis scores it again.
    tested = 0 if trial else 2 * splits["test"].rows
    conflict = 0.0 if trial else conflict_samples(batch, tasks)
    ratio = variant.cost.flops_per_sample / pace.flops
    evaluated = splits["valid"].rows
    # Count the training, its evaluations, the test and the analysis as training samples that take as long.
    fewest_samples = min(fewest * every, steps) * batch + fewest * (evaluated * _FORWARD_SHARE + conflict)
    fewest_samples += tested * _FORWARD_SHARE
    most_samples = steps * batch + evaluations * (evaluated + conflict) + tested
    fewest_samples, most_samples = fewest_samples + conflict, most_samples + _ANALYSED_CHECKPOINTS * conflict
    return Bounds(
        pace.sample * min(1.0, ratio) * fewest_samples + pace.rest * (_TRIAL_SHARE if trial else _LATER_RUN_SHARE),
        pace.sample * max(1.0, ratio) * most_samples + pace.rest * (1 + _SAVE_SHARE * (evaluations - 1)),
    )
