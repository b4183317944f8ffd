"""Finished runs of other comparisons, copied in place of training the same again.

A run follows from its configuration, its seed and its data, and `ple_rec.analysis.series` compares these. If tuning
finds nothing better than the written values, all runs of a variant are those of the comparison without tuning.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ple_rec.analysis.compare.runs import COMPARISON, Run, state_of
from ple_rec.analysis.compare.work import Work
from ple_rec.analysis.series import FAILED
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import ANALYSIS_PAGE, LOCK, claimed

logger = logging.getLogger(__name__)


def check_comparisons(directories: Sequence[Path]) -> None:
    """Refuse what is no comparison's directory.

    Raises:
        UserError: one is none.
    """
    for directory in directories:
        if not (directory / COMPARISON).is_file():
            raise UserError(
                Option.REUSE,
                f"{directory} holds no {COMPARISON}",
                "runs are taken over from the directory of a comparison",
                "give one that `ple-rec compare` wrote, as runs/compare/NAME",
            )


def reusable(work: Work, others: Sequence[Path]) -> dict[Path, list[Run]]:
    """The runs that are left for this host and wait for no trials, by the comparison that has finished them.

    Args:
        work: Runs and trials of a comparison that are left.
        others: Directories of comparisons, whose variants of the same name are looked at; the first that has a run
            gives it.
    """
    found: dict[Path, list[Run]] = {other: [] for other in others}
    for run in work.ready:
        for other in others:
            directory = _within(other, run)
            whole = (directory / ANALYSIS_PAGE).is_file()  # the last that a run gets
            if whole and state_of(work.matrix, replace(run, directory=directory)).kind == "finished":
                found[other].append(run)
                break
    return found


def without(work: Work, found: Mapping[Path, Sequence[Run]]) -> Work:
    """The work but for some runs."""
    gone = [run for runs in found.values() for run in runs]
    return replace(work, left=[run for run in work.left if run not in gone])


def copy_runs(found: Mapping[Path, Sequence[Run]]) -> dict[Path, list[Run]]:
    """Copy runs of other comparisons, each in full or not at all.

    Args:
        found: Of `reusable`.

    Returns:
        Those that were copied.
    """
    copied: dict[Path, list[Run]] = {}
    for other, runs in found.items():
        for run in runs:
            try:
                with claimed(run.directory):  # or another process trains it
                    _copy(_within(other, run), run)
            except (OSError, UserError) as error:
                logger.info(f"{_within(other, run)} is not copied, and trained here instead: {_reason(error)}")
            else:
                copied.setdefault(other, []).append(run)
    return copied


def _within(other: Path, run: Run) -> Path:
    return other / run.variant / run.directory.name


def _copy(source: Path, run: Run) -> None:
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
        return str(error.args[0][0][-1])  # the first file's
    return str(error)
