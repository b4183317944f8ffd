"""Reuse of finished runs of other comparisons, which are copied so that they need not be trained again.

A run follows from its configuration, its seed and its data, and `ple_rec.analysis.series` compares these. If tuning
finds nothing better than the written values, all runs of a variant are those of the comparison without tuning.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ple_rec.analysis.compare.runs import COMPARISON, VariantRun, state_of
from ple_rec.analysis.compare.work import Work
from ple_rec.analysis.series import FAILED
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import ANALYSIS_PAGE, LOCK, claimed

logger = logging.getLogger(__name__)


def check_comparisons(directories: Sequence[Path]) -> None:
    """Refuse directories that hold no comparison.

    Raises:
        UserError: A directory lacks `compare.toml`.
    """
    for directory in directories:
        if not (directory / COMPARISON).is_file():
            raise UserError(
                Option.REUSE,
                f"{directory} holds no {COMPARISON}",
                "runs are taken over from the directory of a comparison",
                "give one that `ple-rec compare` wrote, as runs/compare/NAME",
            )


def reusable(work: Work, others: Sequence[Path]) -> dict[Path, list[VariantRun]]:
    """Return the runs that other comparisons have finished, by the directory of the comparison.

    Only runs are returned that are left for this host and wait for no trials.

    Args:
        work: Runs and trials of a comparison that are left.
        others: Directories of other comparisons, in order of preference; runs of variants of the same name are reused.
    """
    runs: dict[Path, list[VariantRun]] = {other: [] for other in others}
    for run in work.ready:
        for other in others:
            directory = _within(other, run)
            # The page of the analysis is the last file of a run.
            complete = (directory / ANALYSIS_PAGE).is_file()
            if complete and state_of(work.matrix, replace(run, directory=directory)).kind == "finished":
                runs[other].append(run)
                break
    return runs


def without_runs(work: Work, reused: Mapping[Path, Sequence[VariantRun]]) -> Work:
    """Return the work without the runs that are reused."""
    gone = [run for runs in reused.values() for run in runs]
    return replace(work, left=[run for run in work.left if run not in gone])


def copy_runs(reused: Mapping[Path, Sequence[VariantRun]]) -> dict[Path, list[VariantRun]]:
    """Copy runs of other comparisons, each in full or not at all.

    Args:
        reused: Runs by the directory of the other comparison, from `reusable`.

    Returns:
        Runs that were copied, by the same directories.
    """
    copied: dict[Path, list[VariantRun]] = {}
    for other, runs in reused.items():
        for run in runs:
            try:
                # The claim fails if another process trains the run.
                with claimed(run.directory):
                    _copy(_within(other, run), run)
            except (OSError, UserError) as error:
                logger.info(f"{_within(other, run)} is not copied, and trained here instead: {_reason(error)}")
            else:
                copied.setdefault(other, []).append(run)
    return copied


def _within(other: Path, run: VariantRun) -> Path:
    return other / run.variant / run.directory.name


def _copy(source: Path, run: VariantRun) -> None:
    part = run.directory.with_name(f".{run.directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(LOCK))
        for suffix in (".toml", ".log"):
            if source.with_name(source.name + suffix).is_file():
                shutil.copy(source.with_name(source.name + suffix), run.beside(suffix))
        run.beside(FAILED).unlink(missing_ok=True)
        shutil.rmtree(run.directory)
        part.rename(run.directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _reason(error: OSError | UserError) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        # A shutil.Error lists (source, target, reason) of every file; the first one is enough.
        return str(error.args[0][0][-1])
    return str(error)
