"""A comparison from its configuration to its files."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ple_rec.analysis.compare.estimate import forecast, paces_of
from ple_rec.analysis.compare.matrix import Matrix, matrix_of
from ple_rec.analysis.compare.results import results_of
from ple_rec.analysis.compare.reuse import copy_runs, reusable, without
from ple_rec.analysis.compare.runs import COMPARISON
from ple_rec.analysis.compare.scheduler import train_runs
from ple_rec.analysis.compare.shares import share_of
from ple_rec.analysis.compare.text import format_costs, format_results
from ple_rec.analysis.compare.tuning.report import with_tuning
from ple_rec.analysis.compare.tuning.tune import tune
from ple_rec.analysis.compare.work import Share, Work, studies_of, work_of
from ple_rec.analysis.compare.workers import Worker, Workers
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml, recipe_names
from ple_rec.reports.compare.page import write_page
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import write_json, write_text, writing
from ple_rec.runtime.host import usable_cores
from ple_rec.storage.locks import take_lock

logger = logging.getLogger(__name__)

RESULTS, LOCK = "compare.json", ".lock"


@dataclass(frozen=True)
class Compared:
    """A comparison of which runs have finished.

    Args:
        json: Content of compare.json.
        failed: Names of the runs that failed, as `<variant> seed <n>`.
        stopped: Names of the trials and runs of this call that were asked to stop, and are left for the next.
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
    jobs: int | None = None,
    share: Share = (0, 1),
    overwrite: bool = False,
    dry_run: bool = False,
    until: float | None = None,
    only: Sequence[str] | None = None,
    reuse: Sequence[Path] = (),
) -> Compared | None:
    """Train what is left of a comparison, and write its results.

    Args:
        compare: The comparison.
        folder: That paths of its variants start from.
        overrides: Of every run's keys.
        directory: Directory of the comparison.
        jobs: Runs side by side; None: one a GPU, or one a usable core.
        share: (i, n): only every n-th run from the i-th is trained; where variants are tuned, only every n-th variant.
        overwrite: Remove runs of other settings that lie there.
        dry_run: Only say what there is to do.
        until: No run is started after this time (`time.monotonic`).
        only: Variants that are trained, beside the baseline; None: all.
        reuse: Directories of comparisons whose finished runs of the same settings are taken over.

    Returns:
        None for a dry run.

    Raises:
        UserError: the input is wrong, before anything is trained; later, a file that cannot be written.
    """
    root = directory.folder
    matrix = matrix_of(compare, folder, overrides, only)
    studies = studies_of(matrix, compare.tune, root)
    work = work_of(matrix, studies, root, share, overwrite=overwrite, remove=not dry_run)
    jobs, devices = places_of(matrix, jobs)
    logger.info("\n".join([format_costs(matrix), *matrix.remarks]))
    taken = reusable(work, reuse)
    for other, runs in taken.items():
        if runs:
            logger.info(f"{len(runs)} run(s) need no training: {other} has finished them with the same settings")
    left = without(work, taken)
    logger.info(left.describe(str(directory.address), jobs))
    if dry_run:
        if pilots := workers_of(left, jobs, devices):
            logger.info(f"how long, {len(pilots)} short run(s) tell ...")
            told = forecast(left, jobs, paces_of(left.variants, pilots, len(matrix.tasks)))
            logger.info(f"{told}, as busy as this machine is now")
        return None
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        write_text(root / COMPARISON, dump_toml(_whole(compare, folder, overrides)))
    stopped: list[str] = []
    with share_of(root, *share):
        work = without(work, copy_runs(taken))
        if side_by_side := workers_of(work, jobs, devices):
            with Workers(side_by_side, directory.push) as workers:
                if work.trials:
                    stopped += tune(work.own_studies, workers, until)
                    work = work_of(matrix, studies, root, share, overwrite=overwrite, remove=True)
                    work = without(work, copy_runs(reusable(work, reuse)))
                stopped += train_runs(matrix.tasks, work.ready, workers, until)
    with _locked(root):  # of several hosts the last one sees all
        work = work_of(matrix, studies, root, share, overwrite=True)  # with what other hosts have found
        done = work.done()
        results = with_tuning(results_of(work.matrix, done, root), work.studies)
        write_json(root / RESULTS, results)
        page = write_page(results, root)
    logger.info(f"\n{format_results(results)}\n\nreport: {directory.address / page.name}")
    failed = [f"{variant} seed {seed}" for variant, seeds in done.failed.items() for seed in seeds]
    return Compared(json.dumps(results, indent=1), failed, stopped)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Write files of the whole comparison while no other share does."""
    with writing(root), (root / LOCK).open("w") as lock:
        take_lock(lock, wait=math.inf)
        yield


def workers_of(work: Work, jobs: int, devices: Sequence[str | None]) -> list[Worker]:
    """Return as many workers as stand side by side; none has started its process.

    Args:
        work: Runs and trials that are left.
        jobs: Largest number of runs side by side.
        devices: GPU of each place, as `places_of` gives them.
    """
    count = min(jobs, max(len(work.own), work.trials))
    return [Worker(device=devices[i % len(devices)]) for i in range(count)]


def _whole(compare: CompareConfig, folder: Path, overrides: Sequence[str]) -> CompareConfig:
    """The comparison as it was trained, to be trained again from anywhere."""
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
    """How many runs stand side by side, and the GPU of each, by its name among those that this process sees."""
    import torch

    kinds = {variant.config.runtime.device for variant in matrix.variants.values()}
    if kinds != {"cpu"} and (gpus := torch.cuda.device_count()):
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return jobs or gpus, named.split(",")[:gpus]
    threads = max(variant.config.runtime.threads or 1 for variant in matrix.variants.values())
    return jobs or max(1, usable_cores() // threads), [None]
