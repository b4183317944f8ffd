"""How a run is exported: what `ple-rec export` and `Run.export` take; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ple_rec.config.choices import AskedPrecision, TablePrecision
from ple_rec.storage import Location


@dataclass(frozen=True)
class ExportOptions:
    """How a run is exported.

    Args:
        precision: Precision of the tables.
        dense: Precision in which matrix products are served; `dense.pt2` has its weights in fp32 whatever it is. `auto`
            leaves it to each server, whose machine may be faster in bf16, where the check lets bf16 through, and else
            is fp32.
        fusion: File of the fusion; None for `fusion/fusion.toml` of the run, else exponent 1 for every task.
        user_features: Features of the user; None for `data.request_features`, else those that are constant within the
            groups of the held-out rows.
        checkpoint: `best`, `latest` or `step-<n>`.
        version: Name of the version; None for the next one.
        licence: Line of the model card.
        onnx: True to write `dense.onnx` too.
        check_rows: Number of held-out rows on which the export is checked, about.
        tolerance: Largest difference of a score; None for that of the precisions.
        auc_loss: Largest loss of AUC; None for that of the precisions.
        examples: Number of held-out users whose rows `examples.json` holds; 0 for no such file.
    """

    precision: TablePrecision = "fp32"
    dense: AskedPrecision = "fp32"
    fusion: Location | None = None
    user_features: Sequence[str] | None = None
    checkpoint: str = "best"
    version: str | None = None
    licence: str | None = None
    onnx: bool = False
    check_rows: int = 200_000
    tolerance: float | None = None
    auc_loss: float | None = None
    examples: int = 0
