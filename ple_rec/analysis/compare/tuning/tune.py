"""The trials of all variants, trained side by side; the next batch of a variant starts when its last one has ended."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from ple_rec.analysis.compare.cost import cost_of
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import submit_run
from ple_rec.analysis.compare.time_left import TimeLeft
from ple_rec.analysis.compare.tuning.study import FOLDER, Study, tuned_config
from ple_rec.analysis.compare.workers import Outcome, Workers, wait_for_some
from ple_rec.data.dataset import Dataset
from ple_rec.errors import PreemptedError, UserError
from ple_rec.text.units import metric_text
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer
from ple_rec.training.run_dir import claimed

logger = logging.getLogger(__name__)


def tune(studies: Sequence[Study], workers: Workers, until: float | None = None) -> None:
    """Train the trials that are left; one that fails counts as a trial, and the others go on.

    Args:
        studies: Of the variants, as they were read.
        workers: That train.
        until: No trial is started after this time (`time.monotonic`).

    Raises:
        UserError: a file cannot be written, or another process tunes one of these variants.
    """
    with ExitStack() as held:
        for study in studies:
            if study.left:
                held.enter_context(_held(study))
        _tune(studies, workers, until)


@contextmanager
def _held(study: Study) -> Iterator[None]:
    """Keep other processes from a variant's trials: a trial that one finds in use would count as failed, for good."""
    with ExitStack() as held:
        try:
            held.enter_context(claimed(study.folder / FOLDER))
        except UserError as error:
            raise UserError(
                error.place,
                error.value,
                "one process at a time tunes a variant",
                "wait for it, stop it, or give another --runs DIR",
            ) from error
        yield


def _tune(studies: Sequence[Study], workers: Workers, until: float | None) -> None:
    waiting: dict[Future[Outcome | None], tuple[Study, int]] = {}
    stopped: set[str] = set()  # variants of which a trial is to go on with the next call

    def start(study: Study) -> None:
        for number, run in study.next_runs():
            waiting[submit_run(run, workers, until)] = (study, number)

    for study in studies:
        start(study)
    left, ended, time_left = sum(study.left for study in studies), 0, TimeLeft(workers.jobs)
    time_left.note_running(waiting)
    while waiting:
        for future in wait_for_some(waiting):
            (study, number), outcome = waiting.pop(future), future.result()
            if outcome is None or outcome.code == PreemptedError.exit_code:
                stopped.add(study.variant.name)
                continue
            study.end(number, outcome)
            ended += 1
            time_left.note_ended(study.variant.name, outcome)
            submitted = {future: other.variant.name for future, (other, _) in waiting.items()}
            names = Counter({study.variant.name: study.left for study in studies if study.variant.name not in stopped})
            eta = time_left.text(submitted, list((names - Counter(submitted.values())).elements()))
            logger.info(f"trial {ended} of {left}{eta}: {study.variant.name}, trial {number}: {_words(study, number)}")
            busy = any(other is study for other, _ in waiting.values())
            if not busy and study.variant.name not in stopped:
                start(study)
    if stopped:
        logger.info(f"the time is up: {left - ended} trial(s) are left for the next call")


def tuned(matrix: Matrix, studies: Mapping[str, Study]) -> Matrix:
    """The comparison with the values of the best trial in each variant whose trials have ended."""
    variants = {
        name: _tuned(matrix, variant, studies[name]) if name in studies and not studies[name].left else variant
        for name, variant in matrix.variants.items()
    }
    return replace(matrix, variants=variants)


def _tuned(matrix: Matrix, variant: Variant, study: Study) -> Variant:
    config = tuned_config(study)
    if matrix.match != "none":  # the space has no key that changes the cost
        return replace(variant, config=config)
    width, _ = first_layer(config, select(config, Dataset(config.data.path)))
    return replace(variant, config=config, cost=cost_of(config, [task.name for task in matrix.tasks], width))


def _words(study: Study, number: int) -> str:
    value, best = study.value(number), study.best
    if value is None:
        return f"failed: {study.failed(number)}"
    among = study.value(best) if best is not None else None
    return f"{study.metric} {metric_text(value)}" + ("" if among is None else f", best {metric_text(among)}")
