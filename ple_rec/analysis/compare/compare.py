"""A comparison from its configuration to its files."""

from __future__ import annotations

import json
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
from ple_rec.config.load import dump_toml
from ple_rec.parallel.host import usable_cores
from ple_rec.train.run_dir import write_json, write_text, writing

CONFIG, RESULTS = "compare.toml", "compare.json"


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

    Returns:
        None for a dry run.

    Raises:
        UserError: the input is wrong, before anything is trained; later, a file that cannot be written.
    """
    matrix = matrix_of(compare, folder, overrides)
    runs = runs_of(matrix, root)
    left = left_of(matrix, runs, overwrite=overwrite and not dry_run)
    index, of = share
    own = [run for i, run in enumerate(runs) if i % of == index and run in left]
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
    write_text(root / CONFIG, dump_toml(compare))
    with share_of(root, index, of, say):
        if own:
            with Workers([Worker(device=devices[i % len(devices)]) for i in range(min(jobs, len(own)))]) as workers:
                train_runs(matrix.tasks, own, workers, say, until)
    done = done_of(matrix, runs)
    results = results_of(matrix, done, root)
    write_json(root / RESULTS, results)
    page = write_page(results, root)
    say(f"\n{format_results(results)}\n\nreport: {page}")
    failed = [f"{variant} seed {seed}" for variant, seeds in done.failed.items() for seed in seeds]
    return Compared(json.dumps(results, indent=1), failed)


def places_of(matrix: Matrix, jobs: int | None) -> tuple[int, list[int | None]]:
    """How many runs stand side by side, and the GPU of each."""
    import torch

    kinds = {variant.config.runtime.device for variant in matrix.variants.values()}
    if kinds != {"cpu"} and (gpus := torch.cuda.device_count()):
        return jobs or gpus, list(range(gpus))
    threads = max(variant.config.runtime.threads or 1 for variant in matrix.variants.values())
    return jobs or max(1, usable_cores() // threads), [None]
