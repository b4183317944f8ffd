"""Who reads whom on one level of the extraction network, as plain data.

    h_e = f_e(x_source(e))                experts
    y_o = sum_e A_oe h_e                  A_oe = 0 unless reads[o][e]

A variant of the model is a `Routing` per level and a way to make A (`ple_rec.modules.mixing`), nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

X = -1  # as a selector: x itself, at any level


@dataclass(frozen=True)
class Routing:
    """One level's experts, outputs and edges.

    Args:
        experts: Name of each expert, `owner.index`.
        source_E: The input stream that each expert reads; experts of one stream stand together, in stream order, so
            that their first layers are one matrix.
        outputs: Name of each output; the outputs of a level are the input streams of the next.
        edges_OE: `edges_OE[o][e]`: whether output o mixes expert e.
        selector_O: The input stream whose value selects (the gate's input) for each output, or `X`.
        hidden: Layer sizes of every expert; the last is the width of its output.
        mixing: How A is made: a key of `ple_rec.modules.mixing.MIXINGS`.
        subspaces: G, parts of an expert's output that `subspaces` mixes one by one.
        orthogonality: lambda of the penalty on the subspaces' weights; see `ExpertBank.orthogonality`.
        mix_levels: On the last level: each output is a mix of this level's and all lower ones' outputs of its name.

    Raises:
        ValueError: if sizes disagree, an output reads nothing, or the experts are not in stream order.
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
        """Check that the parts fit."""
        if len(self.source_E) != len(self.experts) or any(len(row) != len(self.experts) for row in self.edges_OE):
            raise ValueError(f"{len(self.experts)} experts, but source_E or edges_OE has another length")
        if not len(self.outputs) == len(self.edges_OE) == len(self.selector_O):
            raise ValueError(f"{len(self.outputs)} outputs, but edges_OE or selector_O has another length")
        if list(self.source_E) != sorted(self.source_E):
            raise ValueError(f"experts must stand in the order of their streams, got source_E = {self.source_E}")
        for output, row in zip(self.outputs, self.edges_OE, strict=True):
            if not any(row):
                raise ValueError(f"output {output!r} reads no expert")

    @property
    def width(self) -> int:
        """H, the width of every expert's output."""
        return self.hidden[-1]

    def experts_of_stream(self, stream: int) -> int:
        """How many experts read `stream`."""
        return sum(source == stream for source in self.source_E)


@dataclass(frozen=True)
class GateLabels:
    """What the rows and columns of an A_BOE are, for those who show it.

    Args:
        mixing: How A is made: a key of MIXINGS, or `levels`.
        outputs: Name of each row.
        experts: Name of each column.
        edges_OE: Where A is not 0 by construction.
        level: From 1; None where A mixes levels.
    """

    mixing: str
    outputs: tuple[str, ...]
    experts: tuple[str, ...]
    edges_OE: tuple[tuple[bool, ...], ...]
    level: int | None = None
