"""How long the runs of a comparison will take: by pilots before the first run, and by finished runs afterwards.

    seconds of a run = a sample x (training samples + rows evaluated + batches of gradient conflict) + rest

A pilot is a short run of a variant on the first rows of its dataset. It measures the seconds of a training sample and
the rest. As many pilots stand side by side as runs would, so imports, threads, shared memory and other work on the
machine count as they will. A pilot cannot measure how much faster evaluation is than training, how other variants
compare with the measured one, when early stopping ends a run, and how long saves take; the two bounds differ by these.
"""

from __future__ import annotations

import json
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
from ple_rec.analysis.compare.time_left import side_by_side
from ple_rec.analysis.compare.work import Work
from ple_rec.analysis.compare.workers import Outcome, Worker, Workers
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import dump_toml, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VOCAB_DIR, SplitInfo
from ple_rec.data.dataset import Dataset, read_columns
from ple_rec.errors import UserError
from ple_rec.runs.layout import LOG, write_text, writing
from ple_rec.storage import names_in
from ple_rec.text.units import short_duration

_FLOPS = 2e11  # FLOPs of a pilot, about: a few seconds of a core
_FEWEST, _MOST = 8, 64  # steps
_SMALLEST = 128  # samples of a batch that is cut to have no more FLOPs
_EVALUATED = 512  # rows of valid and test, at most


@dataclass(frozen=True)
class Pace:
    """Times of a pilot.

    Args:
        variant: Name of the variant.
        flops: FLOPs a sample of its dense layers, forward.
        start: Seconds until its process had imported everything.
        sample: Seconds a training sample.
        rest: Seconds of the run beside its steps and gradient conflict: assembly, an evaluation of few rows, a save,
            report and analysis.
    """

    variant: str
    flops: int
    start: float
    sample: float
    rest: float


def paces_of(variants: Sequence[Variant], workers: Sequence[Worker], tasks: int) -> list[Pace]:
    """Train a pilot for each worker, side by side.

    Args:
        variants: Variants that there is something to train of; a worker takes the next one, the first again in the end.
        workers: Workers as many as runs stand side by side.
        tasks: Number of tasks of each variant.

    Raises:
        UserError: a pilot failed, as a run of its variant would, or there is no room for it.
    """
    with TemporaryDirectory(prefix="ple-rec-pilot-") as folder:
        root = Path(folder)
        with writing(root):
            most = _MOST * max(_batch_size(variant.config) for variant in variants)
            rows: dict[Split, int] = {"train": most, "valid": _EVALUATED, "test": _EVALUATED}
            data = first_rows(Dataset(variants[0].config.data.path), root / "data", rows)
        waiting: list[tuple[Variant, RunConfig, Path, Future[Outcome | None]]] = []
        with Workers(workers) as running:
            for i in range(len(workers)):
                variant = variants[i % len(variants)]
                config, run_dir = _short(variant, data, tasks), root / f"run-{i}"
                file, log = run_dir.with_suffix(".toml"), run_dir.with_suffix(".log")
                write_text(file, dump_toml(config))
                waiting.append((variant, config, run_dir, running.submit(file, run_dir, log)))
            return [_pace(*each, tasks) for each in waiting]


def _batch_size(config: RunConfig) -> int:
    return config.train.batch_size or config.train.batch_size_per_rank or 1


def first_rows(dataset: Dataset, out: Path, rows: dict[Split, int]) -> Path:
    """Write a dataset directory of the first rows of each split of another one, with its vocabularies and statistics.

    Args:
        dataset: Dataset to cut.
        out: Directory to make.
        rows: Rows of each split, at most.

    Raises:
        UserError, DataError: what reading a split finds.
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
        whole = pa.concat_tables(tables)
        (out / split).mkdir(parents=True)
        size = max(1, -(-len(whole) // 16))
        pq.write_table(whole, (out / split / "part-00000.parquet").absolute(), row_group_size=size)
        splits[split] = SplitInfo(rows=len(whole), row_groups=-(-len(whole) // size))
    (out / SCHEMA_FILE).write_text(dump_toml(dataset.schema.model_copy(update={"splits": splits})))
    (out / VOCAB_DIR).mkdir()
    names = [f"{VOCAB_DIR}/{name}" for name in names_in(dataset.path / VOCAB_DIR)]
    for name in [STATS_FILE, *names]:
        if (dataset.path / name).is_file():
            (out / name).symlink_to(dataset.digests.local_copy(name).resolve())
    (out / SUCCESS_FILE).touch()
    return out


def _short(variant: Variant, data: Path, tasks: int) -> RunConfig:
    """Return the run with few steps on the first rows, one evaluation, and nobody who watches."""
    sample = 3 * variant.cost.flops_per_sample
    largest = _FLOPS / (sample * (_FEWEST + 2 * conflict_samples(1, tasks)))
    batch = min(_batch_size(variant.config), max(_SMALLEST, int(largest)))
    steps = max(_FEWEST, min(_MOST, int(_FLOPS / (sample * batch))))
    keys = {"epochs": None, "steps": steps, "evaluate_every": steps, "report_every": steps // 2}
    keys |= {"batch_size": batch, "batch_size_per_rank": None}
    values = {"data.path": str(data), **{f"train.{key}": value for key, value in keys.items()}}
    return with_values(variant.config, values | dict.fromkeys(("watch", "checkpoint", "early_stopping", "schedule")))


def _pace(variant: Variant, config: RunConfig, run_dir: Path, ending: Future[Outcome | None], tasks: int) -> Pace:
    outcome = ending.result()
    assert outcome is not None
    if outcome.code:
        rule = "it says how long the runs take, and is what they are but shorter"
        raise UserError(f"a pilot of {variant.name}", f"failed: {outcome.message}", rule, "correct that first")
    records = [json.loads(line) for line in (run_dir / LOG).read_text(encoding="utf-8").splitlines()]
    last = [record for record in records if record.get("split") == "train"][-1]  # the first steps are slower
    sample = 1 / max(last["samples_per_second"], 1e-9)
    batch = _batch_size(config)
    trained = (config.train.steps or 0) * batch + 2 * conflict_samples(batch, tasks)  # in training, and as analysed
    rest = max(outcome.seconds - sample * trained, 0.0)
    return Pace(variant.name, variant.cost.flops_per_sample, outcome.start, sample, rest)


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
