"""Train and compare variants (model configurations), each with several seeds, and write `compare.json`.

`ple-rec compare` and `ple_rec.compare` call `run_comparison`. A run is one training of a variant with one seed. A trial
is a training with one choice of the hyperparameters to tune, which is judged on the validation split. Several hosts may
share one comparison: each trains a share of the runs, and each rewrites the results from all runs that have finished.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.estimate import estimate_seconds, measure_paces
from ple_rec.analysis.compare.matrix import Matrix, build_matrix
from ple_rec.analysis.compare.results import compute_results
from ple_rec.analysis.compare.reuse import copy_runs, find_reusable_runs, without_runs
from ple_rec.analysis.compare.runs import COMPARISON_FILE
from ple_rec.analysis.compare.scheduler import train_runs
from ple_rec.analysis.compare.shares import hold_share
from ple_rec.analysis.compare.tuning.tune import add_tuning_results, tune
from ple_rec.analysis.compare.work import Share, Work, create_studies, read_work
from ple_rec.analysis.compare.workers import Worker, Workers
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml, recipe_names
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import explain_write_errors, write_json, write_text
from ple_rec.runtime.host import usable_cores
from ple_rec.storage.locks import take_lock

logger = logging.getLogger(__name__)

RESULTS, LOCK = "compare.json", ".lock"


@dataclass(frozen=True)
class ComparisonResult:
    """Results of a comparison whose runs need not all have finished.

    Args:
        json: Content of compare.json.
        failed: Names of the runs that failed, as `<variant> seed <n>`.
        stopped: Names of the trials and runs that a signal stopped in this call. The next call resumes them.
    """

    json: str
    failed: list[str]
    stopped: list[str]


def run_comparison(
    compare: CompareConfig,
    folder: Path,
    overrides: Sequence[str],
    directory: RunDirectory,
    *,
    report: Callable[[Mapping[str, Any], RunDirectory], object],
    jobs: int | None = None,
    share: Share = (0, 1),
    overwrite: bool = False,
    dry_run: bool = False,
    deadline: float | None = None,
    trained_variants: Sequence[str] | None = None,
    reuse: Sequence[Path] = (),
) -> ComparisonResult | None:
    """Train the trials and runs of a comparison that have not finished, and write its results.

    Args:
        compare: Configuration of the comparison.
        folder: Folder to which relative paths in the configuration are relative.
        overrides: Changes of every run's configuration, for example `train.steps=10`.
        directory: Directory of the comparison.
        report: Function that writes the page of the results from the content of compare.json and the directory.
        jobs: Number of runs to train in parallel; None for one per GPU, or on a CPU for as many as its cores allow.
        share: (i, n) if this host is number i, from 0, of the n hosts that divide the runs (`Work.is_own`).
        overwrite: True to remove trials and runs of other settings from the directory, except in a dry run.
        dry_run: True to log the unfinished work and an estimate of its time. Only short runs for this estimate train.
        deadline: Time (`time.monotonic`) after which no run is started; None for no limit.
        trained_variants: Names of the variants to train; the baseline is always trained. None for all.
        reuse: Directories of comparisons whose finished runs of the same settings are copied.

    Returns:
        Results of the comparison, or None for a dry run.

    Raises:
        UserError: The input is invalid, and nothing has been trained; or a file cannot be written, or another process
            tunes one of the variants.
        DataError: The dataset is damaged.
    """
    root = directory.folder
    matrix = build_matrix(compare, folder, overrides, trained_variants)
    studies = create_studies(matrix, compare.tune, root)
    work = read_work(matrix, studies, root, share, overwrite=overwrite, remove=not dry_run)
    jobs, devices = jobs_and_devices(matrix, jobs)
    logger.info("\n".join([matrix.describe(), *matrix.remarks]))
    reused = find_reusable_runs(work, reuse)
    for other, runs in reused.items():
        if runs:
            logger.info(f"{len(runs)} run(s) need no training: {other} has finished them with the same settings")
    remaining_work = without_runs(work, reused)
    logger.info(remaining_work.describe(str(directory.address), jobs))
    if dry_run:
        if pilots := create_workers(remaining_work, jobs, devices):
            logger.info(f"{len(pilots)} short run(s) estimate the time ...")
            bounds = estimate_seconds(
                remaining_work, jobs, measure_paces(remaining_work.variants_left, pilots, len(matrix.tasks))
            )
            logger.info(f"estimated time: {bounds}, if the machine stays as busy as it is now")
        return None
    with explain_write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with _hold_lock(root):
        write_text(root / COMPARISON_FILE, dump_toml(_with_absolute_paths(compare, folder, overrides)))
    stopped: list[str] = []
    with hold_share(root, *share):
        work = without_runs(work, copy_runs(reused))
        if parallel_workers := create_workers(work, jobs, devices):
            with Workers(parallel_workers, directory.push) as workers:
                if work.trials_left:
                    stopped += tune(work.own_studies, workers, deadline)
                    work = read_work(matrix, studies, root, share, overwrite=overwrite, remove=True)
                    work = without_runs(work, copy_runs(find_reusable_runs(work, reuse)))
                stopped += train_runs(matrix.tasks, work.ready_runs, workers, deadline)
    # Read the work again, since other hosts may have finished runs meanwhile. The host that ends last sees all runs.
    # With `overwrite`, a run of other settings counts as missing instead of being refused.
    with _hold_lock(root):
        work = read_work(matrix, studies, root, share, overwrite=True)
        outcomes = work.outcomes()
        results = add_tuning_results(compute_results(work.matrix, outcomes, root), work.studies)
        write_json(root / RESULTS, results)
        report(results, directory)
    failed = [f"{variant} seed {seed}" for variant, seeds in outcomes.failed.items() for seed in seeds]
    return ComparisonResult(json.dumps(results, indent=1), failed, stopped)


@contextmanager
def _hold_lock(root: Path) -> Iterator[None]:
    """Hold a lock inside the block, so that no other host writes the files of the whole comparison meanwhile."""
    with explain_write_errors(root), (root / LOCK).open("w", encoding="utf-8") as lock:
        take_lock(lock, wait=math.inf)
        yield


def create_workers(work: Work, jobs: int, devices: Sequence[str | None]) -> list[Worker]:
    """Return a worker for each run that trains in parallel. A worker starts its process with its first run.

    Args:
        work: Work of the comparison, whose unfinished runs and trials are counted.
        jobs: Largest number of runs in parallel.
        devices: GPUs that the workers take in turn, as `jobs_and_devices` returns them.

    Raises:
        UserError: There is work, but a variant cannot be trained on its `runtime.device` here.
    """
    from ple_rec.distributed.process_group import rank_device

    count = min(jobs, max(len(work.own_runs), work.trials_left))
    if count:
        for device in {variant.config.runtime.device for variant in work.matrix.variants.values()}:
            rank_device(device, local_rank=0)
    return [Worker(device=devices[i % len(devices)]) for i in range(count)]


def _with_absolute_paths(compare: CompareConfig, folder: Path, overrides: Sequence[str]) -> CompareConfig:
    """Return the configuration with absolute paths and all overrides, so that it does not depend on the caller."""
    recipes = recipe_names()
    variants = {
        name: variant.model_copy(
            update={
                "base": variant.base if variant.base in recipes else str((folder / variant.base).resolve()),
                "overrides": (*variant.overrides, *overrides),
            }
        )
        for name, variant in compare.variants.items()
    }
    return compare.model_copy(update={"variants": variants})


def jobs_and_devices(matrix: Matrix, jobs: int | None) -> tuple[int, Sequence[str | None]]:
    """Return the number of parallel runs, and the names of the GPUs as CUDA_VISIBLE_DEVICES has them.

    The list of names is [None] without a GPU, or if all variants are to train on the CPU.

    Args:
        matrix: Variants of the comparison.
        jobs: Number of runs that the user wants; None for one per GPU, or on a CPU for as many as its cores allow.
    """
    import torch

    device_settings = {variant.config.runtime.device for variant in matrix.variants.values()}
    if device_settings != {"cpu"} and (gpus := torch.cuda.device_count()):
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return jobs or gpus, named.split(",")[:gpus]
    threads = max(variant.config.runtime.threads or 1 for variant in matrix.variants.values())
    return jobs or max(1, usable_cores() // threads), [None]
