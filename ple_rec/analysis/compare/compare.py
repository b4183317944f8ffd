"""A comparison from its configuration to its files."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ple_rec.analysis.compare.matrix import Matrix, matrix_of
from ple_rec.analysis.compare.page import write_page
from ple_rec.analysis.compare.results import results_of
from ple_rec.analysis.compare.runs import done_of, left_of, runs_of, train_runs
from ple_rec.analysis.compare.shares import share_of
from ple_rec.analysis.compare.text import format_costs, format_results
from ple_rec.analysis.compare.workers import Worker, Workers
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import dump_toml, recipe_names
from ple_rec.parallel.host import usable_cores
from ple_rec.train.run_dir import write_json, write_text, writing

CONFIG, RESULTS, LOCK = "compare.toml", "compare.json", ".lock"


@dataclass(frozen=True)
class Compared:
    """A comparison of which runs have finished.

    Args:
        json: What compare.json holds.
        failed: The runs that failed, as `<variant> seed <n>`.
    """

    json: str
    failed: list[str]


def run_comparison(
    compare: CompareConfig,
    folder: Path,
    overrides: Sequence[str],
    root: Path,
    say: Callable[[str], None],
    *,
    jobs: int | None = None,
    share: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    dry_run: bool = False,
    until: float | None = None,
    only: Sequence[str] | None = None,
) -> Compared | None:
    """Train what is left of a comparison, and write its results.

    Args:
        compare: The comparison.
        folder: That paths of its variants start from.
        overrides: Of every run's keys.
        root: Directory of the comparison.
        say: Told how it goes.
        jobs: Runs side by side; None: one a GPU, or one a usable core.
        share: (i, n): only every n-th run from the i-th is trained.
        overwrite: Remove runs of other settings that lie there.
        dry_run: Only say what there is to do.
        until: No run is started after this time (`time.monotonic`).
        only: Variants that are trained, beside the baseline; None: all.

    Returns:
        None for a dry run.

    Raises:
        UserError: the input is wrong, before anything is trained; later, a file that cannot be written.
    """
    matrix = matrix_of(compare, folder, overrides, only)
    runs = runs_of(matrix, root)
    index, of = share
    variants = list(matrix.variants)
    mine = [run for run in runs if (variants.index(run.variant) + run.seed) % of == index]
    own = left_of(matrix, mine, overwrite=overwrite, remove=not dry_run)
    left = own if of == 1 else [*own, *left_of(matrix, [r for r in runs if r not in mine], overwrite=overwrite)]
    jobs, devices = places_of(matrix, jobs)
    say("\n".join([format_costs(matrix), *matrix.remarks]))
    say(
        f"{len(runs)} runs ({len(matrix.variants)} variants x {len(matrix.seeds)} seeds) in {root}: "
        f"{len(runs) - len(left)} finished, {len(own)} to train here, {min(jobs, len(own)) or 1} side by side"
    )
    if dry_run:
        return None
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    write_text(root / CONFIG, dump_toml(_whole(compare, folder, overrides)))
    with share_of(root, index, of, say):
        if own:
            with Workers([Worker(device=devices[i % len(devices)]) for i in range(min(jobs, len(own)))]) as workers:
                train_runs(matrix.tasks, own, workers, say, until)
    with writing(root), (root / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several hosts the last one sees all
        done = done_of(matrix, runs)
        results = results_of(matrix, done, root)
        write_json(root / RESULTS, results)
        page = write_page(results, root)
    say(f"\n{format_results(results)}\n\nreport: {page}")
    failed = [f"{variant} seed {seed}" for variant, seeds in done.failed.items() for seed in seeds]
    return Compared(json.dumps(results, indent=1), failed)


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
