"""Analysis of one finished run by `ple-rec analyze`: how its gates weight experts, and how its tasks relate.

Each level of the model has experts. A gate is a softmax over the experts that one output of a level reads; an output is
a task, or experts of the next level. The analysis makes two passes. The first one scores the test split at the best
checkpoint: it collects labels and scores, and averages the gates for each value of some columns. The second one takes
the gradients of the tasks on a few batches, at every checkpoint that the run has kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from ple_rec.analysis.conflict import gradient_batches, measure_conflicts
from ple_rec.analysis.correlation import label_correlations
from ple_rec.analysis.finished import load_finished_run
from ple_rec.analysis.result import Analysis, CheckpointConflicts
from ple_rec.analysis.sub_populations import GatesByValue
from ple_rec.analysis.test_rows import RunScores, score_split
from ple_rec.analysis.utilisation import compute_utilisation, read_gate_levels
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
from ple_rec.training.trained import load_trained_weights, open_trained_run, single_process_config


def analyze(
    run_dir: Location, *, by: Sequence[str], batches: int, split: Split = "train", overrides: Sequence[str] = ()
) -> Analysis:
    """Analyse a finished run in this process, and write the labels and scores of its test split to `test_rows.npz`.

    Args:
        run_dir: Directory of the run.
        by: Columns of the test split. Gates are averaged for each value of these columns and of those of
            `evaluation.slices`.
        batches: Largest number of batches on which gradients are taken; for a single task, none are taken.
        split: Split of these batches.
        overrides: Changes of keys that an evaluation may change, for example `data.path=other`.

    Raises:
        UserError: There is no finished run, no such column, or `test_rows.npz` cannot be written.
        DataError: The checkpoint or the dataset is damaged.
    """
    config, metrics = load_finished_run(run_dir, overrides)
    config, columns = single_process_config(config, metrics), _columns(config, by)
    with open_trained_run(config, run_dir, "best") as job:
        path = load_trained_weights(job, run_dir, "best")
        rows, by_value = _score(job, columns)
        rows.write(run_dir)
        arrays = rows.arrays()
        tasks = tuple(task.name for task in job.tasks)
        best_step = int(path.name.removeprefix("step-"))
        conflict_batches = gradient_batches(job, split, batches) if len(tasks) > 1 else []
        return Analysis(
            name=config.name,
            variant=config.model.variant,
            tasks=tasks,
            checkpoint=path.name,
            utilisation=compute_utilisation(read_gate_levels(metrics), tasks),
            correlations=label_correlations(tasks, arrays["labels"], arrays["weights"]),
            gradient_split=split,
            gradient_batches=len(conflict_batches),
            steps=_conflict_by_step(job, run_dir, best_step, conflict_batches) if conflict_batches else (),
            sub_populations=by_value.compute(),
        )


def _columns(config: RunConfig, by: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `evaluation.slices` and of `by`; raise UserError if the test split lacks one."""
    dataset = DatasetDirectory(config.data.path)
    slice_columns(dataset, "test", config.evaluation.slices)
    try:
        slice_columns(dataset, "test", by)
    except UserError as error:
        # The error names a key of the configuration, but the column came from `--by`.
        raise UserError("--by", error.value, error.rule, error.fix) from error
    return tuple(dict.fromkeys([*config.evaluation.slices, *by]))


def _score(job: EvaluationContext, columns: Sequence[str]) -> tuple[RunScores, GatesByValue]:
    """Score the rows of the test split, and sum the gates for each value of the columns."""
    slicings = find_slicings(job.dataset, "test", columns, job.config.evaluation.slice_values)
    rows, by_value = RunScores(job.selection.tasks), GatesByValue(job.gate_labels, slicings)
    with closing(score_split(job, "test", slicings)) as scored:
        for batch, logits_BK, gates in scored:
            rows.update(batch, logits_BK)
            by_value.update(batch, gates)
    return rows, by_value


def _conflict_by_step(
    job: EvaluationContext, run_dir: Location, best_step: int, batches: Sequence[Batch]
) -> tuple[CheckpointConflicts, ...]:
    """Return the gradient conflict at every checkpoint of the run, on the same batches."""
    conflict_by_step = []
    for step in finished_steps(checkpoint_place(job.config, run_dir)):
        load_trained_weights(job, run_dir, f"step-{step}")
        conflict_by_step.append(CheckpointConflicts(step, step == best_step, measure_conflicts(job, batches)))
    return tuple(conflict_by_step)
