"""`ple-rec analyze`: what one trained run says of its tasks; `analysis.json`, `analysis.html` and `test_rows.npz`.

Two passes: one over the test split at the best checkpoint, for labels, scores and gates by value; and, at every
checkpoint that the run has kept, gradients on a few batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from ple_rec.analysis.conflict import Conflict, conflicts, gradient_batches
from ple_rec.analysis.correlation import Correlation, label_correlations
from ple_rec.analysis.finished import finished_run
from ple_rec.analysis.sub_populations import GatesByValue, SubPopulations
from ple_rec.analysis.test_rows import Rows, score_split
from ple_rec.analysis.utilisation import Utilisation, recorded_gates, utilisation
from ple_rec.checkpoint.listing import finished_steps
from ple_rec.config.base import Split
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import Dataset
from ple_rec.data.slice_columns import slice_columns
from ple_rec.errors import UserError
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationJob
from ple_rec.training.slices import find_slicings
from ple_rec.training.trained import load_checkpoint, open_trained_run, single_process_config


@dataclass(frozen=True)
class AtStep:
    """Gradient conflict at one checkpoint.

    Args:
        step: Of it.
        best: Whether it is the run's best.
        conflicts: Of every pair of tasks.
    """

    step: int
    best: bool
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True)
class Analysis:
    """All that is said of a run.

    Args:
        name: Of the run.
        variant: Of its model.
        tasks: By name.
        checkpoint: `step-<n>`, the best one.
        utilisation: Of its experts; without gates where the model has none.
        correlations: Of labels.
        gradient_split: Whose batches gradients were taken on.
        gradient_batches: How many.
        steps: Conflict at every checkpoint, ascending.
        sub_populations: Of each column that was asked for.
    """

    name: str
    variant: str
    tasks: tuple[str, ...]
    checkpoint: str
    utilisation: Utilisation
    correlations: tuple[Correlation, ...]
    gradient_split: Split
    gradient_batches: int
    steps: tuple[AtStep, ...]
    sub_populations: tuple[SubPopulations, ...]

    @property
    def at_best(self) -> AtStep | None:
        """Conflict at the best checkpoint; None for a single task."""
        return next((at for at in self.steps if at.best), None)

    def record(self) -> dict[str, Any]:
        """For `analysis.json`."""
        return {
            "format": 1,
            "name": self.name,
            "variant": self.variant,
            "tasks": list(self.tasks),
            "checkpoint": self.checkpoint,
            "utilisation": self.utilisation.record(),
            "label_correlations": [asdict(each) for each in self.correlations],
            "gradient_conflict": {
                "split": self.gradient_split,
                "batches": self.gradient_batches,
                "checkpoints": [
                    {"step": at.step, "best": at.best, "pairs": [each.record() for each in at.conflicts]}
                    for at in self.steps
                ],
            },
            "sub_populations": [asdict(each) for each in self.sub_populations],
        }


def analyze(
    run_dir: Location, *, by: Sequence[str], batches: int, split: Split = "train", overrides: Sequence[str] = ()
) -> Analysis:
    """Analyse a finished run in this process; writes `test_rows.npz`.

    Args:
        run_dir: Directory of the run.
        by: Columns of the test split whose values the gates are compared over, beside those of `evaluation.slices`.
        batches: On which gradients are taken.
        split: Of these batches.
        overrides: `a.b=c`, of what an evaluation may change.

    Raises:
        UserError: there is no finished run, or no such column.
        DataError: a damaged checkpoint or dataset.
    """
    config, metrics = finished_run(run_dir, overrides)
    config, columns = single_process_config(config, metrics), _columns(config, by)
    with open_trained_run(config, run_dir, "best") as job:
        path = load_checkpoint(job, run_dir, "best")
        rows, by_value = _score(job, columns)
        rows.write(run_dir)
        arrays = rows.arrays()
        tasks = tuple(task.name for task in job.tasks)
        best = int(path.name.removeprefix("step-"))
        taken = gradient_batches(job, split, batches) if len(tasks) > 1 else []
        return Analysis(
            name=config.name,
            variant=config.model.variant,
            tasks=tasks,
            checkpoint=path.name,
            utilisation=utilisation(recorded_gates(metrics), tasks),
            correlations=label_correlations(tasks, arrays["labels"], arrays["weights"]),
            gradient_split=split,
            gradient_batches=len(taken),
            steps=_over_training(job, run_dir, best, taken) if taken else (),
            sub_populations=by_value.compute(),
        )


def _columns(config: RunConfig, by: Sequence[str]) -> tuple[str, ...]:
    """All columns to slice by, checked before the model is built."""
    dataset = Dataset(config.data.path)
    slice_columns(dataset, "test", config.evaluation.slices)
    try:
        slice_columns(dataset, "test", by)
    except UserError as error:  # which speaks of the key of the configuration
        raise UserError("--by", error.value, error.rule, error.fix) from error
    return tuple(dict.fromkeys([*config.evaluation.slices, *by]))


def _score(job: EvaluationJob, columns: Sequence[str]) -> tuple[Rows, GatesByValue]:
    """Keep what the model says of the rows of the test split, and its gates by the values of columns."""
    slicings = find_slicings(job.dataset, "test", columns, job.config.evaluation.slice_values)
    rows, by_value = Rows(job.selection.tasks), GatesByValue(job.legends, slicings)
    with closing(score_split(job, "test", slicings)) as scored:
        for batch, logits_BK, gates in scored:
            rows.update(batch, logits_BK)
            by_value.update(batch, gates)
    return rows, by_value


def _over_training(job: EvaluationJob, run_dir: Location, best: int, batches: Sequence[Batch]) -> tuple[AtStep, ...]:
    """At every checkpoint that is kept, on the same batches."""
    steps = finished_steps(checkpoint_place(job.config, run_dir))
    found = []
    for step in steps:
        load_checkpoint(job, run_dir, f"step-{step}")
        found.append(AtStep(step, step == best, conflicts(job, batches)))
    return tuple(found)
