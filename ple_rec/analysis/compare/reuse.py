"""Finished runs of other comparisons, taken over in place of training the same again.

A run is what its configuration, its seed and its data make it. Where these are the same (`reusable.py`), so is the run:
where tuning finds nothing better than what was written, all runs of a variant are those of the comparison without it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ple_rec.analysis.compare.runs import Run, left_of
from ple_rec.analysis.compare.work import Work
from ple_rec.errors import UserError
from ple_rec.train.run_dir import LOCK, writing

CONFIG = "compare.toml"


def check_comparisons(directories: Sequence[Path]) -> None:
    """Refuse what is no comparison's directory.

    Raises:
        UserError: one is none.
    """
    for directory in directories:
        if not (directory / CONFIG).is_file():
            raise UserError(
                "--reuse",
                f"{directory} holds no {CONFIG}",
                "runs are taken over from the directory of a comparison",
                "give one that `ple-rec compare` wrote, as runs/compare/NAME",
            )


def take_over(work: Work, others: Sequence[Path], say: Callable[[str], None], *, copy: bool) -> Work:
    """Take finished runs of other comparisons, of variants of the same name, for those of this host that are left.

    Args:
        work: What is left of the comparison.
        others: Directories of comparisons; the first that has a run gives it.
        say: Told how many runs come from where.
        copy: Whether to copy them; else it is only said.

    Returns:
        The work without these runs.

    Raises:
        UserError: a file cannot be read or written.
    """
    for other in others:
        there = [run for run in work.ready if not left_of(work.matrix, [_within(run, other)], overwrite=True)]
        if copy:
            for run in there:
                _copy(_within(run, other).directory, run)
        if there:
            say(f"{len(there)} run(s) are taken from {other}, which has finished them with the same settings")
        work = replace(work, left=[run for run in work.left if run not in there])
    return work


def _within(run: Run, other: Path) -> Run:
    return replace(run, directory=other / run.variant / run.directory.name)


def _copy(source: Path, run: Run) -> None:
    """Copy a run, in full or not at all."""
    part = run.beside(".part")
    with writing(part):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(LOCK))
        for suffix in (".toml", ".log"):
            if source.with_name(source.name + suffix).is_file():
                shutil.copy(source.with_name(source.name + suffix), run.beside(suffix))
        run.beside(".failed").unlink(missing_ok=True)
        shutil.rmtree(run.directory, ignore_errors=True)
        part.rename(run.directory)
