"""Analysis of one trained run by `ple-rec analyze`: its gates, and how its tasks relate.

It makes two passes. The first scores the test split at the best checkpoint, for labels, scores and gates by value. The
second takes gradients on a few batches, at every checkpoint that the run has kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from ple_rec.analysis.conflict import conflicts, gradient_batches
from ple_rec.analysis.correlation import label_correlations
from ple_rec.analysis.finished import finished_run
from ple_rec.analysis.result import Analysis, AtStep
from ple_rec.analysis.sub_populations import GatesByValue
from ple_rec.analysis.test_rows import RunScores, score_split
from ple_rec.analysis.utilisation import recorded_gates, utilisation
from ple_rec.checkpoint.listing import finished_steps
from ple_rec.config.base import Split
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.slice_columns import slice_columns
from ple_rec.errors import UserError
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.slices import find_slicings
from ple_rec.training.trained import load_checkpoint, open_trained_run, single_process_config


def analyze(
    run_dir: Location, *, by: Sequence[str], batches: int, split: Split = "train", overrides: Sequence[str] = ()
) -> Analysis:
    """Analyse a finished run in this process, and write its `test_rows.npz`.

    Args:
        run_dir: Directory of the run.
        by: Columns of the test split whose values the gates are compared over, beside those of `evaluation.slices`.
        batches: Number of batches on which gradients are taken.
        split: Split of these batches.
        overrides: Changes of keys that an evaluation may change, for example `data.path=other`.

    Raises:
        UserError: There is no finished run, or no such column.
        DataError: The checkpoint or the dataset is damaged.
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
        conflict_batches = gradient_batches(job, split, batches) if len(tasks) > 1 else []
        return Analysis(
            name=config.name,
            variant=config.model.variant,
            tasks=tasks,
            checkpoint=path.name,
            utilisation=utilisation(recorded_gates(metrics), tasks),
            correlations=label_correlations(tasks, arrays["labels"], arrays["weights"]),
            gradient_split=split,
            gradient_batches=len(conflict_batches),
            steps=_conflict_by_step(job, run_dir, best, conflict_batches) if conflict_batches else (),
            sub_populations=by_value.compute(),
        )


def _columns(config: RunConfig, by: Sequence[str]) -> tuple[str, ...]:
    """Return all columns to slice by, which are checked before the model is built."""
    dataset = DatasetDirectory(config.data.path)
    slice_columns(dataset, "test", config.evaluation.slices)
    try:
        slice_columns(dataset, "test", by)
    except UserError as error:
        # The error names the key of the configuration, but the column came from `--by`.
        raise UserError("--by", error.value, error.rule, error.fix) from error
    return tuple(dict.fromkeys([*config.evaluation.slices, *by]))


def _score(job: EvaluationContext, columns: Sequence[str]) -> tuple[RunScores, GatesByValue]:
    """Score the rows of the test split, and sum the gates by the values of columns."""
    slicings = find_slicings(job.dataset, "test", columns, job.config.evaluation.slice_values)
    rows, by_value = RunScores(job.selection.tasks), GatesByValue(job.gate_labels, slicings)
    with closing(score_split(job, "test", slicings)) as scored:
        for batch, logits_BK, gates in scored:
            rows.update(batch, logits_BK)
            by_value.update(batch, gates)
    return rows, by_value


def _conflict_by_step(
    job: EvaluationContext, run_dir: Location, best: int, batches: Sequence[Batch]
) -> tuple[AtStep, ...]:
    """Return the conflict at every checkpoint of the run, on the same batches."""
    at_steps = []
    for step in finished_steps(checkpoint_place(job.config, run_dir)):
        load_checkpoint(job, run_dir, f"step-{step}")
        at_steps.append(AtStep(step, step == best, conflicts(job, batches)))
    return tuple(at_steps)
