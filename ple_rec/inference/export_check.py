"""Comparison of the scores of an export with those of the trained model, and the bounds of their differences.

`export` refuses to publish a version if `check_bounds` raises an error.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ple_rec.config.choices import TablePrecision, UsedPrecision
from ple_rec.errors import Option, UserError
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.held_out import HeldOutRows
from ple_rec.inference.ranker import Ranker
from ple_rec.metrics import scores

# Largest difference of a row's score by precision of the tables: of a probability in absolute terms, of a regression's
# prediction in standard deviations of its label.
TOLERANCE: Mapping[TablePrecision, float] = {"fp32": 1e-5, "fp16": 5e-3, "int8": 3e-2, "int4": 0.3}
# A change of a regression's prediction up to this share of max(1, |prediction|) does not count as a difference, since
# fp32 sums in another order may cause it.
_ROUNDING = 1e-5
# Largest loss of a task's AUC, by precision of the tables.
AUC_LOSS: Mapping[TablePrecision, float] = {"fp32": 1e-6, "fp16": 1e-5, "int8": 1e-4, "int4": 5e-3}
# Matrix products in bfloat16, which has 8 significant bits, widen the bounds by these.
BF16_TOLERANCE, BF16_AUC_LOSS = 5e-2, 1e-4
# Number of pairs of a positive and a negative whose order may change in any case (`ErrorBounds.pairs`).
_MIN_PAIRS = 10


@dataclass(frozen=True)
class TaskCheck:
    """Differences of one task's scores.

    Args:
        largest: Largest difference of a score; for a regression, in standard deviations of its label and less the
            rounding of fp32.
        mean: Mean difference of the scores, in the same unit.
        auc: AUC of the trained model's scores over the rows of the task's sample space, those that count in its loss,
            without sample weights; None for a regression, or if the rows are of one class.
        auc_loss: AUC of the trained model minus that of the export; None if there is no AUC.
        auc_step: Change of AUC if one pair of a positive and a negative changes its order; None if there is no AUC.
    """

    largest: float
    mean: float
    auc: float | None
    auc_loss: float | None
    auc_step: float | None = None


def compare_scores(rows: HeldOutRows, scores_NK: NDArray[np.float32], kinds: Mapping[str, str]) -> dict[str, TaskCheck]:
    """Return the differences of each task's scores.

    Args:
        rows: Held-out rows, with the trained model's scores.
        scores_NK: Scores of the export.
        kinds: Kind of each task, in the order of the columns.
    """
    checks = {}
    for k, ((name, kind), unit) in enumerate(zip(kinds.items(), difference_units(rows, kinds), strict=True)):
        difference_N = np.abs(scores_NK[:, k].astype(np.float64) - rows.scores_NK[:, k])
        in_space_N = rows.in_space_NK[:, k]
        label_N = rows.labels_NK[in_space_N, k] > 0
        if kind == "regression":
            rounding_N = _ROUNDING * np.maximum(1.0, np.abs(rows.scores_NK[:, k].astype(np.float64)))
            difference_N = np.maximum(difference_N - rounding_N, 0.0) / unit
        before = auc(rows.scores_NK[in_space_N, k], label_N) if kind == "binary" else None
        after = auc(scores_NK[in_space_N, k], label_N) if kind == "binary" else None
        loss = None if before is None or after is None else before - after
        step = None if loss is None else 1 / (int(label_N.sum()) * int((~label_N).sum()))
        checks[name] = TaskCheck(float(difference_N.max(initial=0)), float(difference_N.mean()), before, loss, step)
    return checks


def difference_units(rows: HeldOutRows, kinds: Mapping[str, str]) -> list[float]:
    """Return the unit of each task's differences: 1, or the standard deviation of a regression's label.

    Args:
        rows: Held-out rows.
        kinds: Kind of each task, in the order of the columns.
    """
    deviations = []
    for k, kind in enumerate(kinds.values()):
        label_N = rows.labels_NK[rows.in_space_NK[:, k], k].astype(np.float64)
        deviation = float(label_N.std()) if kind == "regression" and len(label_N) else 1.0
        # The deviation is 0 if all labels are equal.
        deviations.append(deviation or 1.0)
    return deviations


def auc(score_N: NDArray[Any], label_N: NDArray[np.bool_]) -> float | None:
    """Return the AUC, P(a positive is above a negative) + P(they are equal) / 2; None if a class is missing."""
    signed_N = torch.where(torch.from_numpy(label_N), 1.0, -1.0).double()
    area = scores.auc(*scores.tie_groups(torch.from_numpy(score_N), signed_N))
    return None if area is None else area[0]


@dataclass(frozen=True)
class ErrorBounds:
    """Largest differences that are allowed.

    Args:
        tolerance: Largest difference of a score, in the units of `TaskCheck`.
        auc_loss: Largest loss of AUC of any task.
        pairs: Number of pairs of a positive and a negative whose order may change in any case; with few rows, one such
            pair changes AUC by more than `auc_loss`. 0 if the user has chosen `auc_loss`.
    """

    tolerance: float
    auc_loss: float
    pairs: int = 0

    @classmethod
    def from_options(
        cls, precision: TablePrecision, dense: UsedPrecision, tolerance: float | None, auc_loss: float | None
    ) -> ErrorBounds:
        """Return the bounds of an export, from its options or else from its precisions.

        Args:
            precision: Precision of the tables.
            dense: Precision of the matrix products.
            tolerance: Largest difference of a score that the user allows; None for the default of the precisions.
            auc_loss: Largest loss of AUC that the user allows; None for the default of the precisions.
        """
        if tolerance is None:
            tolerance = TOLERANCE[precision] + (BF16_TOLERANCE if dense == "bf16" else 0.0)
        if auc_loss is not None:
            return cls(tolerance, auc_loss)
        return cls(tolerance, AUC_LOSS[precision] + (BF16_AUC_LOSS if dense == "bf16" else 0.0), _MIN_PAIRS)


def check_bounds(
    checks: Mapping[str, TaskCheck], precision: TablePrecision, dense: UsedPrecision, bounds: ErrorBounds
) -> None:
    """Refuse an export whose scores differ too much.

    Args:
        checks: Differences by task.
        precision: Precision of the tables.
        dense: Precision of the matrix products.
        bounds: Largest differences that are allowed.

    Raises:
        UserError: A difference exceeds its bound.
    """
    place = f"export in {precision}" + (f", dense layers in {dense}" if dense != "fp32" else "")
    for name, task in checks.items():
        if not task.largest <= bounds.tolerance:
            raise UserError(
                f"{place}, task {name}",
                f"a score differs by {task.largest:.2g} from the trained model's",
                f"a difference of at most {bounds.tolerance:g} is allowed",
                _suggest_fix(precision, dense, Option.TOLERANCE, task.largest),
            )
        allowed = max(bounds.auc_loss, bounds.pairs * (task.auc_step or 0.0))
        if task.auc_loss is not None and not task.auc_loss <= allowed:
            raise UserError(
                f"{place}, task {name}",
                f"{task.auc_loss:.2g} of AUC is lost",
                f"a loss of at most {allowed:.2g} is allowed",
                _suggest_fix(precision, dense, Option.AUC_LOSS, task.auc_loss),
            )


def _suggest_fix(precision: TablePrecision, dense: UsedPrecision, option: Option, loss: float) -> str:
    if not math.isfinite(loss):
        return "find the weights of the model that are not finite"
    finer = "export again, and report a bug if the error repeats: rounding in fp32 makes smaller differences"
    if precision != "fp32" or dense != "fp32":
        finer = (
            f"choose a finer {Option.PRECISION}"
            if precision != "fp32"
            else f"leave {Option.DENSE.with_value('bf16')} out"
        )
    return f"{finer}, or allow it by {option.with_value(float(f'{loss * 1.1:.2g}'))}"


def to_record(checks: Mapping[str, TaskCheck]) -> dict[str, dict[str, float | None]]:
    """Return the differences as an entry of `model.json`."""
    return {name: asdict(task) for name, task in checks.items()}


# A server multiplies the inputs that belong to the user by the first layer only once for all items (shared product).
# This is the number of example requests that are scored with and without a shared product, to measure the difference.
COMPARED_REQUESTS = 4


@dataclass(frozen=True)
class ExportCheck:
    """Comparison of the export's scores with the trained model's, for one precision of matrix products.

    Args:
        tables: Precision of the tables.
        dense: Precision of the matrix products.
        bounds: Largest differences that are allowed.
        tasks: Differences by task.
        sharing_error: Largest difference that the shared product makes to a score, in the units of `difference_units`;
            None if there were no example requests.
    """

    tables: TablePrecision
    dense: UsedPrecision
    bounds: ErrorBounds
    tasks: Mapping[str, TaskCheck]
    sharing_error: float | None

    def check_bounds(self) -> None:
        """Raise a UserError if a difference exceeds its bound."""
        check_bounds(self.tasks, self.tables, self.dense, self.bounds)

    def to_record(self) -> dict[str, Any]:
        """Return the check as `model.json` and the card have it."""
        return {
            "dense": self.dense,
            "tolerance": self.bounds.tolerance,
            "auc_loss": self.bounds.auc_loss,
            "tasks": to_record(self.tasks),
            "user_once": self.sharing_error,
        }


def check_scores(
    ranker: Ranker, options: ExportOptions, rows: HeldOutRows, examples: Sequence[Mapping[str, Any]]
) -> ExportCheck:
    """Compare the scores of an exported model with those of the trained model.

    Args:
        ranker: Exported model.
        options: Options of the export.
        rows: Held-out rows, with the scores of the trained model.
        examples: Requests of held-out users, which show what the shared product changes.
    """
    dense, kinds = ranker.dense_precision, ranker.signature.kinds
    checks = compare_scores(rows, _score_held_out(ranker, rows), kinds)
    sharing_error_K = _sharing_errors(ranker, examples) / np.array(difference_units(rows, kinds))
    # In bf16, the shared product rounds a sum once more, so its difference is added; in fp32 it only reorders a sum.
    if dense == "bf16":
        errors = dict(zip(checks, sharing_error_K.tolist(), strict=True))
        checks = {name: replace(task, largest=task.largest + errors[name]) for name, task in checks.items()}
    bounds = ErrorBounds.from_options(options.precision, dense, options.tolerance, options.auc_loss)
    return ExportCheck(options.precision, dense, bounds, checks, float(sharing_error_K.max()) if examples else None)


def _score_held_out(ranker: Ranker, rows: HeldOutRows) -> NDArray[np.float32]:
    return np.concatenate([ranker.score_rows([each], grouped=False).scores_BK.numpy() for each in rows.requests()])


def _sharing_errors(ranker: Ranker, examples: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the largest difference that the shared product makes to a score of each task, (K,); 0 without examples."""
    requests = [ranker.read_rank(example["request"]) for example in examples[:COMPARED_REQUESTS]]
    if not requests:
        return np.zeros(len(ranker.signature.tasks))
    shared_BK, separate_BK = (ranker.score_rows(requests, grouped=grouped).scores_BK for grouped in (True, False))
    return (shared_BK - separate_BK).double().abs().amax(0).numpy()
