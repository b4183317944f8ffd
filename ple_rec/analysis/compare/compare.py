"""Comparison of variants, from its configuration to `compare.json`."""

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

from ple_rec.analysis.compare.estimate import forecast, paces_of
from ple_rec.analysis.compare.matrix import Matrix, matrix_of
from ple_rec.analysis.compare.results import results_of
from ple_rec.analysis.compare.reuse import copy_runs, reusable, without_runs
from ple_rec.analysis.compare.runs import COMPARISON
from ple_rec.analysis.compare.scheduler import train_runs
from ple_rec.analysis.compare.shares import share_of
from ple_rec.analysis.compare.tuning.tune import tune, with_tuning
from ple_rec.analysis.compare.work import Share, Work, studies_of, work_of
from ple_rec.analysis.compare.workers import Worker, Workers
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml, recipe_names
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import write_json, write_text, writing
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
        stopped: Names of the trials and runs that were asked to stop in this call, and are left for the next.
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
    until: float | None = None,
    only: Sequence[str] | None = None,
    reuse: Sequence[Path] = (),
) -> ComparisonResult | None:
    """Train the remaining trials and runs of a comparison, and write its results.

    Args:
        compare: Configuration of the comparison.
        folder: Folder that relative paths of its variants start from.
        overrides: Changes of every run's keys, for example `train.steps=10`.
        directory: Directory of the comparison.
        report: Function that writes the page of the results from the content of compare.json and the directory.
        jobs: Number of runs side by side; None for one a GPU, or one a usable core.
        share: (i, n) to train every n-th run from the i-th; with tuning, every n-th variant.
        overwrite: True to remove runs of other settings from the directory.
        dry_run: True to log the remaining work and its time, and to train nothing.
        until: Time (`time.monotonic`) after which no run is started.
        only: Variants that are trained, beside the baseline; None for all.
        reuse: Directories of comparisons whose finished runs of the same settings are copied.

    Returns:
        Results of the comparison, or None for a dry run.

    Raises:
        UserError: The input is wrong, before anything is trained; or later, a file cannot be written.
    """
    root = directory.folder
    matrix = matrix_of(compare, folder, overrides, only)
    studies = studies_of(matrix, compare.tune, root)
    work = work_of(matrix, studies, root, share, overwrite=overwrite, remove=not dry_run)
    jobs, devices = places_of(matrix, jobs)
    logger.info("\n".join([matrix.describe(), *matrix.remarks]))
    reused = reusable(work, reuse)
    for other, runs in reused.items():
        if runs:
            logger.info(f"{len(runs)} run(s) need no training: {other} has finished them with the same settings")
    left = without_runs(work, reused)
    logger.info(left.describe(str(directory.address), jobs))
    if dry_run:
        if pilots := workers_of(left, jobs, devices):
            logger.info(f"{len(pilots)} short run(s) estimate the time ...")
            bounds = forecast(left, jobs, paces_of(left.variants, pilots, len(matrix.tasks)))
            logger.info(f"{bounds}, as busy as this machine is now")
        return None
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        write_text(root / COMPARISON, dump_toml(_whole(compare, folder, overrides)))
    stopped: list[str] = []
    with share_of(root, *share):
        work = without_runs(work, copy_runs(reused))
        if side_by_side := workers_of(work, jobs, devices):
            with Workers(side_by_side, directory.push) as workers:
                if work.trials:
                    stopped += tune(work.own_studies, workers, until)
                    work = work_of(matrix, studies, root, share, overwrite=overwrite, remove=True)
                    work = without_runs(work, copy_runs(reusable(work, reuse)))
                stopped += train_runs(matrix.tasks, work.ready, workers, until)
    # The work is read again for the results of other hosts; the last of them sees all runs.
    with _locked(root):
        work = work_of(matrix, studies, root, share, overwrite=True)
        outcomes = work.outcomes()
        results = with_tuning(results_of(work.matrix, outcomes, root), work.studies)
        write_json(root / RESULTS, results)
        report(results, directory)
    failed = [f"{variant} seed {seed}" for variant, seeds in outcomes.failed.items() for seed in seeds]
    return ComparisonResult(json.dumps(results, indent=1), failed, stopped)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock on files of the whole comparison, so that no other share writes them inside the block."""
    with writing(root), (root / LOCK).open("w") as lock:
        take_lock(lock, wait=math.inf)
        yield


def workers_of(work: Work, jobs: int, devices: Sequence[str | None]) -> list[Worker]:
    """Return as many workers as can run side by side; none has started its process.

    Args:
        work: Runs and trials that are left.
        jobs: Largest number of runs side by side.
        devices: Name of the GPU of each place, as `places_of` returns them.
    """
    count = min(jobs, max(len(work.own), work.trials))
    return [Worker(device=devices[i % len(devices)]) for i in range(count)]


def _whole(compare: CompareConfig, folder: Path, overrides: Sequence[str]) -> CompareConfig:
    """Return the comparison with all overrides and absolute paths, so that it can be trained again from anywhere."""
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


def places_of(matrix: Matrix, jobs: int | None) -> tuple[int, Sequence[str | None]]:
    """Return the number of runs side by side, and the name of each place's GPU in CUDA_VISIBLE_DEVICES.

    Args:
        matrix: Variants of the comparison.
        jobs: Number of runs that the user wants; None for one a GPU, or one a usable core.
    """
    import torch

    kinds = {variant.config.runtime.device for variant in matrix.variants.values()}
    if kinds != {"cpu"} and (gpus := torch.cuda.device_count()):
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return jobs or gpus, named.split(",")[:gpus]
    threads = max(variant.config.runtime.threads or 1 for variant in matrix.variants.values())
    return jobs or max(1, usable_cores() // threads), [None]
