"""Pilots: short runs of variants on the first rows of their dataset, by the processes that would train the real ones.

As many stand side by side as runs would, so what they take is what runs take here and now: imports, threads, memory
that processes share, and whatever else the machine does, all count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.analysis.compare.cost import conflict_samples
from ple_rec.analysis.compare.matrix import Variant
from ple_rec.analysis.compare.workers import Outcome, Worker, Workers
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import dump_toml, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import SCHEMA_FILE, STATS_FILE, SUCCESS_FILE, VOCAB_DIR, SplitInfo
from ple_rec.data.dataset import Dataset, read_columns
from ple_rec.errors import UserError
from ple_rec.runs.layout import LOG, write_text, writing
from ple_rec.storage import names_in

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
