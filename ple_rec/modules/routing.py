"""Routing of one level of the extraction network as plain data: the experts, and which output reads which expert.

    h_e = f_e(x_source(e))                experts
    y_o = sum_e A_oe h_e                  outputs; A_oe = 0 unless edges_OE[o][e]

A variant of the model is a list of `Routing`, one for each level (`ple_rec.models.variants`). A level reads input
streams: the network's input x on the first level, the outputs of the level below on the others. `Routing.mixing` names
the way to compute A (`ple_rec.modules.mixing`).

Shape suffixes: E experts, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

# Value of `selector_O` for a gate that is computed from x itself, at any level.
SELECT_BY_X = -1


@dataclass(frozen=True)
class Routing:
    """Experts, outputs and edges of one level.

    Args:
        experts: Name of each expert, `owner.index`, where the owner is a task or "shared".
        source_E: Input stream that each expert reads, ascending, so that the first layers of the experts of one stream
            are one matrix.
        outputs: Name of each output; the outputs of a level are the input streams of the next.
        edges_OE: Edges of the level: `edges_OE[o][e]` is True if output o mixes expert e.
        selector_O: Input stream from which the gate of each output is computed, or `SELECT_BY_X`.
        hidden: Layer sizes of every expert; the last is the width of its output.
        mixing: Key of `ple_rec.modules.mixing.MIXINGS`, which says how A is computed.
        subspaces: Number of subspaces G of an expert's output, which the mixing "subspaces" mixes separately.
        orthogonality: Factor lambda of the penalty on the weights of subspaces; see `ExpertBank.orthogonality`.
        mix_levels: True on the last level if a tower reads a mix of its output on all levels.

    Raises:
        ValueError: Lengths differ, an output reads no expert, or the experts are not in the order of their streams.
    """

    experts: tuple[str, ...]
    source_E: tuple[int, ...]
    outputs: tuple[str, ...]
    edges_OE: tuple[tuple[bool, ...], ...]
    selector_O: tuple[int, ...]
    hidden: tuple[int, ...]
    mixing: str = "softmax"
    subspaces: int = 1
    orthogonality: float = 0.0
    mix_levels: bool = False

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if len(self.source_E) != len(self.experts) or any(len(row) != len(self.experts) for row in self.edges_OE):
            raise ValueError(f"{len(self.experts)} experts, but source_E or edges_OE has another length")
        if not len(self.outputs) == len(self.edges_OE) == len(self.selector_O):
            raise ValueError(f"{len(self.outputs)} outputs, but edges_OE or selector_O has another length")
        if list(self.source_E) != sorted(self.source_E):
            raise ValueError(f"experts must be in the order of their streams, got source_E = {self.source_E}")
        for output, row in zip(self.outputs, self.edges_OE, strict=True):
            if not any(row):
                raise ValueError(f"output {output!r} reads no expert")

    @property
    def width(self) -> int:
        """Width H of every expert's output."""
        return self.hidden[-1]

    def count_experts_reading(self, stream: int) -> int:
        """Return the number of experts that read `stream`."""
        return sum(source == stream for source in self.source_E)


@dataclass(frozen=True)
class GateLabels:
    """Names of the rows and columns of an A_BOE, for reports.

    Args:
        mixing: Key of `MIXINGS` that says how A is computed, or `levels`.
        outputs: Name of each row.
        experts: Name of each column.
        edges_OE: False for the entries of A that are always 0, because the output does not read the expert.
        level: Number of the level, from 1; None if A mixes levels.
    """

    mixing: str
    outputs: tuple[str, ...]
    experts: tuple[str, ...]
    edges_OE: tuple[tuple[bool, ...], ...]
    level: int | None = None
