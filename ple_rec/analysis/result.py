"""Result of the analysis of a run: dataclasses with the values of `analysis.json`, its page and its tables.

`ple_rec.analysis.analyze` computes the values, and `ple_rec.reports` shows them. The experts of one level of the model
belong to a task or are shared. An output of a level is a task, the shared experts of the next level, or a single expert
of the next level. A gate is a softmax over the experts that one output reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from ple_rec.config.base import Split


@dataclass(frozen=True)
class ExpertWeight:
    """Weight of an expert in one gate.

    Args:
        name: Name of the expert, `owner.index`, where the owner is a task or `shared`.
        shared: True if the expert belongs to no task.
        mean: Mean of the weight over the samples of a split.
        std: Standard deviation of the weight over these samples.
    """

    name: str
    shared: bool
    mean: float
    std: float


@dataclass(frozen=True)
class Gate:
    """A gate over two experts or more.

    Args:
        level: Number of the level, from 1.
        output: Output of the level that has the gate: a task, `shared`, or an expert of the next level.
        experts: Weight of each expert that the gate reads.
    """

    level: int
    output: str
    experts: tuple[ExpertWeight, ...]

    @property
    def of_shared(self) -> float:
        """Sum of the mean weights of shared experts."""
        return sum(expert.mean for expert in self.experts if expert.shared)


@dataclass(frozen=True)
class GateDifference:
    """Distances between the gates of two tasks on one level (`utilisation.py` has the equations).

    Args:
        level: Number of the level, from 1.
        tasks: Names of the two tasks.
        shared: Names of the experts that both gates read, which are the shared experts below.
        among_shared: Distance between the weights of the shared experts; None if there is only one such expert, or if a
            gate gives them no weight.
        shared_and_own: Distance between all weights, where the experts that are not shared count as one more expert;
            None if a gate has no weight at all.
    """

    level: int
    tasks: tuple[str, str]
    shared: tuple[str, ...]
    among_shared: float | None
    shared_and_own: float | None


@dataclass(frozen=True)
class Utilisation:
    """Gates of a model, bottom level first, and the differences between tasks; both empty without gates."""

    gates: tuple[Gate, ...]
    differences: tuple[GateDifference, ...]

    def record(self) -> dict[str, Any]:
        """Return the utilisation as `analysis.json` holds it."""
        gates = [asdict(gate) | {"of_shared": gate.of_shared} for gate in self.gates]
        return {"gates": gates, "differences": [asdict(difference) for difference in self.differences]}


def parse_gates(record: Mapping[str, Any]) -> list[Gate]:
    """Return the gates from the output of `Utilisation.record`; none if it has no key `gates`."""
    return [
        Gate(gate["level"], gate["output"], tuple(ExpertWeight(**expert) for expert in gate["experts"]))
        for gate in record.get("gates", ())
    ]


@dataclass(frozen=True)
class Cosines:
    """Cosines between the gradients of two tasks, one for each batch.

    Args:
        values: Cosine of each batch. A batch has no cosine if no element is nonzero in both gradients.
        reached: Mean number of elements that are nonzero in both gradients, over all batches, also those without a
            cosine.
    """

    values: tuple[float, ...]
    reached: float

    @property
    def mean(self) -> float | None:
        """Mean over batches; None if no batch has a cosine."""
        return fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over batches; None for fewer than two cosines."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def negative(self) -> float | None:
        """Share of batches with a cosine below 0; None if no batch has a cosine."""
        return sum(value < 0 for value in self.values) / len(self.values) if self.values else None

    def record(self) -> dict[str, Any]:
        """Return the summary that `train.jsonl` and `analysis.json` hold; `batches` counts those with a cosine."""
        return {
            "mean": self.mean,
            "sd": self.sd,
            "negative": self.negative,
            "batches": len(self.values),
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Conflict:
    """Gradient conflict between two tasks.

    Args:
        tasks: Names of the two tasks.
        parameters: Cosines on the dense parameters that the tasks share.
        inputs: Cosines on the inputs of the extraction network.
    """

    tasks: tuple[str, str]
    parameters: Cosines
    inputs: Cosines

    def record(self) -> dict[str, Any]:
        """Return the pair as `train.jsonl` and `analysis.json` hold it."""
        return {
            "tasks": list(self.tasks),
            "parameters": self.parameters.record(),
            "inputs": self.inputs.record(),
        }


@dataclass(frozen=True)
class CheckpointConflicts:
    """Gradient conflict at one checkpoint.

    Args:
        step: Step of the checkpoint.
        best: True for the best checkpoint of the run.
        conflicts: Conflict of every pair of tasks.
    """

    step: int
    best: bool
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True)
class Correlation:
    """Correlation of the labels of two tasks.

    Args:
        tasks: Names of the two tasks.
        rows: Number of rows that are in the sample spaces of both tasks.
        value: Correlation on these rows; None if one of the labels is the same on all of them.
    """

    tasks: tuple[str, str]
    rows: int
    value: float | None


@dataclass(frozen=True)
class GateForValue:
    """Mean weights of one gate over the rows with one value of a column.

    Args:
        level: Number of the level, from 1.
        output: Output of the level that has the gate: a task, `shared`, or an expert of the next level.
        experts: Names of the experts that the gate reads.
        mean: Mean weight of each expert over the rows with the value.
        whole: Mean weight of each expert over all rows.
        distance: Jensen-Shannon distance between `mean` and `whole`; None if all weights of one of them are 0.
    """

    level: int
    output: str
    experts: tuple[str, ...]
    mean: tuple[float, ...]
    whole: tuple[float, ...]
    distance: float | None


@dataclass(frozen=True)
class SubPopulation:
    """Rows with the same value of a column, and the gates over them.

    Args:
        entry: Dict of the value, as in `Slicing.entries`: `{"value": v}`, or `{"value": None}` with the flag `missing`
            (rows without a value) or `other` (all values that are not listed) set to True.
        rows: Number of rows.
        gates: Gates of the model over these rows, bottom level first.
    """

    entry: dict[str, Any]
    rows: int
    gates: tuple[GateForValue, ...]


@dataclass(frozen=True)
class SubPopulations:
    """The values of one column that occur in the split, and the gates for each of them."""

    column: str
    values: tuple[SubPopulation, ...]


@dataclass(frozen=True)
class Analysis:
    """The result of `ple-rec analyze`.

    Args:
        name: Name of the run's configuration.
        variant: Variant of the model, such as `ple`.
        tasks: Names of the tasks.
        checkpoint: Name of the best checkpoint, `step-<n>`.
        utilisation: Weights of the experts in the gates; empty if the model has no gates.
        correlations: Correlation of the labels of every pair of tasks.
        gradient_split: Split of the batches on which gradients were taken.
        gradient_batches: Number of these batches; 0 for a single task.
        steps: Conflicts at every checkpoint that the run has kept, ascending by step; empty for a single task.
        sub_populations: Gates for each value of the columns of `evaluation.slices` and of `--by`.
    """

    name: str
    variant: str
    tasks: tuple[str, ...]
    checkpoint: str
    utilisation: Utilisation
    correlations: tuple[Correlation, ...]
    gradient_split: Split
    gradient_batches: int
    steps: tuple[CheckpointConflicts, ...]
    sub_populations: tuple[SubPopulations, ...]

    @property
    def best_checkpoint(self) -> CheckpointConflicts | None:
        """Conflict at the best checkpoint; None for a single task."""
        return next((conflict for conflict in self.steps if conflict.best), None)

    def record(self) -> dict[str, Any]:
        """Return the content of `analysis.json`."""
        return {
            "format": 1,
            "name": self.name,
            "variant": self.variant,
            "tasks": list(self.tasks),
            "checkpoint": self.checkpoint,
            "utilisation": self.utilisation.record(),
            "label_correlations": [asdict(correlation) for correlation in self.correlations],
            "gradient_conflict": {
                "split": self.gradient_split,
                "batches": self.gradient_batches,
                "checkpoints": [
                    {"step": step.step, "best": step.best, "pairs": [pair.record() for pair in step.conflicts]}
                    for step in self.steps
                ],
            },
            "sub_populations": [asdict(column) for column in self.sub_populations],
        }
