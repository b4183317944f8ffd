"""The result of an analysis: the values that `analysis.json`, its page and its tables show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from ple_rec.config.base import Split


@dataclass(frozen=True)
class Expert:
    """An expert as one gate sees it.

    Args:
        name: Name of the expert, `owner.index`.
        shared: True if it belongs to no task.
        mean: Mean of its weight over the samples.
        std: Standard deviation of its weight over the samples.
    """

    name: str
    shared: bool
    mean: float
    std: float


@dataclass(frozen=True)
class Gate:
    """A gate over two experts or more.

    Args:
        level: Number of its level, from 1.
        output: Owner of the gate: a task, `shared`, or an expert of the next level.
        experts: Experts that the gate reads.
    """

    level: int
    output: str
    experts: tuple[Expert, ...]

    @property
    def of_shared(self) -> float:
        """Sum of the mean weights of shared experts."""
        return sum(expert.mean for expert in self.experts if expert.shared)


@dataclass(frozen=True)
class Difference:
    """Distance between the uses that two tasks make of one level's experts.

    Args:
        level: Number of the level, from 1.
        tasks: Names of the two tasks.
        shared: Names of the experts that both read.
        among_shared: Distance between their weights over these; None for a single one.
        shared_and_own: Distance in which all experts that are not shared count as one more expert.
    """

    level: int
    tasks: tuple[str, str]
    shared: tuple[str, ...]
    among_shared: float | None
    shared_and_own: float | None


@dataclass(frozen=True)
class Utilisation:
    """Every gate of a model, bottom level first, and the differences between its tasks; empty without gates."""

    gates: tuple[Gate, ...]
    differences: tuple[Difference, ...]

    def record(self) -> dict[str, Any]:
        """Return the utilisation as `analysis.json` holds it."""
        gates = [asdict(gate) | {"of_shared": gate.of_shared} for gate in self.gates]
        return {"gates": gates, "differences": [asdict(difference) for difference in self.differences]}


def gates_of(record: Mapping[str, Any]) -> list[Gate]:
    """Return the gates of a record that `Utilisation.record` made."""
    return [
        Gate(gate["level"], gate["output"], tuple(Expert(**expert) for expert in gate["experts"]))
        for gate in record.get("gates", ())
    ]


@dataclass(frozen=True)
class Cosines:
    """One cosine for each batch in which both gradients reach a common element.

    Args:
        values: Cosine of each of these batches.
        reached: Number of elements that both gradients reach, on average over all batches.
    """

    values: tuple[float, ...]
    reached: float

    @property
    def mean(self) -> float | None:
        """Mean over batches; None if no batch has a cosine."""
        return fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over batches; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def negative(self) -> float | None:
        """Share of batches below 0; None if no batch has a cosine."""
        return sum(value < 0 for value in self.values) / len(self.values) if self.values else None

    def record(self) -> dict[str, Any]:
        """Return the summary that `train.jsonl` and `analysis.json` hold."""
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
        parameters: Cosines on the dense parameters that they share.
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
class AtStep:
    """Gradient conflict at one checkpoint.

    Args:
        step: Step of the checkpoint.
        best: True if it is the best one of the run.
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
        rows: Number of rows in both sample spaces.
        value: The correlation; None if one of the labels is the same on all of these rows.
    """

    tasks: tuple[str, str]
    rows: int
    value: float | None


@dataclass(frozen=True)
class Reaction:
    """One gate over the rows of one value.

    Args:
        level: Number of its level, from 1.
        output: Owner of the gate.
        experts: Names of the experts that it reads.
        mean: Mean weight of each expert over the rows of the value.
        whole: Mean weight of each expert over all rows.
        distance: Distance between the two.
    """

    level: int
    output: str
    experts: tuple[str, ...]
    mean: tuple[float, ...]
    whole: tuple[float, ...]
    distance: float | None


@dataclass(frozen=True)
class Value:
    """Rows that share one value of a column.

    Args:
        entry: The value as slices of an evaluation have it: `value`, and `missing` or `other`.
        rows: Number of rows.
        gates: Gates of the model over these rows, bottom level first.
    """

    entry: dict[str, Any]
    rows: int
    gates: tuple[Reaction, ...]


@dataclass(frozen=True)
class SubPopulations:
    """The values of one column, as `evaluation.slices` tells them apart."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Analysis:
    """The result of `ple-rec analyze`.

    Args:
        name: Name of the run.
        variant: Variant of its model.
        tasks: Names of the tasks.
        checkpoint: Name of the best checkpoint, `step-<n>`.
        utilisation: Utilisation of its experts; empty if the model has no gates.
        correlations: Correlation of the labels of every pair of tasks.
        gradient_split: Split of the batches on which gradients were taken.
        gradient_batches: Number of these batches.
        steps: Conflict at every checkpoint, ascending.
        sub_populations: Gates by the values of each column that was asked for.
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
