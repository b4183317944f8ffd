"""Reuse of finished runs of other comparisons, which are copied instead of trained again (`ple-rec compare --reuse`).

A run is reused if its configuration, its seed and its dataset are the same, which `ple_rec.analysis.series` compares.
So a tuned comparison can reuse the runs of an untuned one where tuning has found no better values.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ple_rec.analysis.compare.runs import COMPARISON_FILE, VariantRun, inspect_variant_run
from ple_rec.analysis.compare.work import Work
from ple_rec.analysis.series import FAILED
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import ANALYSIS_PAGE, LOCK, hold_lock

logger = logging.getLogger(__name__)


def check_comparisons(directories: Sequence[Path]) -> None:
    """Raise an error if one of some directories holds no comparison.

    Raises:
        UserError: A directory lacks `compare.toml`.
    """
    for directory in directories:
        if not (directory / COMPARISON_FILE).is_file():
            raise UserError(
                Option.REUSE,
                f"{directory} holds no {COMPARISON_FILE}",
                "finished runs are copied from the directory of another comparison",
                "give a directory that `ple-rec compare` wrote, such as runs/compare/NAME",
            )


def find_reusable_runs(work: Work, others: Sequence[Path]) -> dict[Path, list[VariantRun]]:
    """Return the runs of this host that another comparison has finished already, by the directory of that comparison.

    Runs whose variant has unfinished trials are left out, since their values are not known yet.

    Args:
        work: Unfinished runs and trials of this comparison.
        others: Directories of other comparisons, in order of preference. A run is looked up there by the name of its
            variant and its seed.
    """
    runs: dict[Path, list[VariantRun]] = {other: [] for other in others}
    for run in work.ready_runs:
        for other in others:
            directory = _run_dir_in(other, run)
            # A run writes the page of its analysis last.
            complete = (directory / ANALYSIS_PAGE).is_file()
            if complete and inspect_variant_run(work.matrix, replace(run, directory=directory)).kind == "finished":
                runs[other].append(run)
                break
    return runs


def without_runs(work: Work, reused: Mapping[Path, Sequence[VariantRun]]) -> Work:
    """Return the work without the reused runs."""
    reused_runs = [run for runs in reused.values() for run in runs]
    return replace(work, unfinished_runs=[run for run in work.unfinished_runs if run not in reused_runs])


def copy_runs(reused: Mapping[Path, Sequence[VariantRun]]) -> dict[Path, list[VariantRun]]:
    """Copy runs of other comparisons. A run that cannot be copied in full is not copied, and the log says why.

    Args:
        reused: Runs by the directory of the other comparison, as `find_reusable_runs` returns them.

    Returns:
        Runs that were copied, by the directory of the other comparison.
    """
    copied: dict[Path, list[VariantRun]] = {}
    for other, runs in reused.items():
        for run in runs:
            try:
                # Locking fails if another process trains the run.
                with hold_lock(run.directory):
                    _copy(_run_dir_in(other, run), run)
            except (OSError, UserError) as error:
                logger.info(f"{_run_dir_in(other, run)} is not copied but trained again: {_reason(error)}")
            else:
                copied.setdefault(other, []).append(run)
    return copied


def _run_dir_in(other: Path, run: VariantRun) -> Path:
    return other / run.variant / run.directory.name


def _copy(source: Path, run: VariantRun) -> None:
    """Copy the run directory `source` of another comparison to that of `run`, and the configuration and log beside it.

    The directory is copied under another name first, so that an incomplete copy does not look like a run.
    """
    draft = run.directory.with_name(f".{run.directory.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(LOCK))
        for suffix in (".toml", ".log"):
            if source.with_name(source.name + suffix).is_file():
                shutil.copy(source.with_name(source.name + suffix), run.sibling_file(suffix))
        run.sibling_file(FAILED).unlink(missing_ok=True)
        shutil.rmtree(run.directory)
        draft.rename(run.directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _reason(error: OSError | UserError) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        # A shutil.Error lists (source, target, reason) of every file; the first one is enough.
        return str(error.args[0][0][-1])
    return str(error)
