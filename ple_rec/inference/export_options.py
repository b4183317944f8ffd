"""Options of `ple-rec export` and `Run.export`, in a module that imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ple_rec.config.choices import AskedPrecision, TablePrecision
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location

# Precisions whose rows stand alone with their scales, so that a delta can replace single rows.
DELTA_PRECISIONS: tuple[TablePrecision, ...] = ("int8", "int4")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Args:
        precision: Precision of the tables.
        dense: Precision of matrix products in a server; the weights in `dense.pt2` are always in fp32. With "auto",
            each server uses bf16 if its machine is faster in it and the check allows bf16, and fp32 otherwise.
        fusion: File of the fusion; None for `fusion/fusion.toml` of the run, or exponent 1 for every task if the run
            has none.
        user_features: Features of the user; None for `data.request_features`, or for those that are constant within
            the groups of the held-out rows if the configuration names none.
        checkpoint: `best`, `latest` or `step-<n>`.
        version: Name of the version; None for the next one.
        licence: Licence of the model, for the model card; None if it is not stated.
        onnx: True to write `dense.onnx` too.
        check_rows: Approximate number of held-out rows on which the export is checked.
        tolerance: Largest difference of a score; None for the default of the precisions (`export_check`).
        auc_loss: Largest loss of AUC; None for the default of the precisions.
        examples: Largest number of held-out users whose rows are written to `examples.json`; 0 for no such file.
        tables: Names of the side tables that are published with the model.
        source: Folder of the raw files of side tables; None without `tables`.
        delta: Name of the version of which the new one is a delta; None for a whole version.
        delta_share: Largest number of bytes that a server may hold of a chain of deltas, as a share of the bytes of the
            tables and vocabularies of its whole version.
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
    tables: tuple[str, ...] = ()
    source: str | None = None
    delta: str | None = None
    delta_share: float = 0.25

    def check_delta_share(self) -> None:
        """Refuse a bound of deltas for a whole version.

        Raises:
            UserError: There is a bound without the name of a base.
        """
        if self.delta is None and self.delta_share != ExportOptions.delta_share:
            rule = "it bounds the size of a delta, and a whole version is exported"
            fix = f"give {Option.DELTA} too, or leave {Option.DELTA_SHARE} out"
            raise UserError(Option.DELTA_SHARE, f"got {self.delta_share:g} without {Option.DELTA}", rule, fix)
