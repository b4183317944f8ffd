"""Progress of a training: a printed line for each report, a bar on a terminal, and the log `train.jsonl`.

`ReportWindow` collects losses, metrics and speed of the steps since the last report, which are called the window below.
`TrainingProgress` writes reports and evaluations as records of the log. Only rank 0 prints and writes.

Every record of `train.jsonl` has `split`, `step` (number of steps done), `total_steps` (of the run), `epoch` (from 0),
`samples` and `seconds` (both since the start of the run; `seconds` without evaluations and checkpoints),
`learning_rate`, `table_learning_rate` (null without tables), `loss` and `tasks`.

A record of split "train" is a report. Its `loss` is the objective of the window: sum_k w_k L_k, plus penalties of the
model and of its loss weighting. L_k is the mean loss of task k; w_k is its scheduled weight at the last step, times a
learned factor if the loss weighting has one. Each task has `loss` (L_k), `weight` (w_k), and the metrics
`ne` (normalised entropy) and `auc`, or `mse`, if they are defined. The record also has `steps` (number of steps of the
window), `samples_per_second`, `data_wait` (share of the time in which the training waited for the loader, on the rank
that waited longest), `peak_bytes` (peak memory of the rank with the largest peak) and `eta_seconds` (remaining time at
the speed of the window).

A record of split "valid" is an evaluation. Each task has the metrics of the evaluation. `loss` is sum_k w_k L_k over
the split, with the weights w_k of the first step, and L_k the log loss or the MSE. `best` is true if the weights are
the best so far. The result of the argument `extra_metrics` of `train` is added to the record. A run that starts from
the weights of another run evaluates them first, so its log has a record of split "valid" at step 0.

Every rank has to call a method that is marked as a collective.

Shape suffixes: B batch, N rows of several batches, K tasks.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.process_group import Ranks
from ple_rec.metrics import MetricCollection
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import TINY, objective
from ple_rec.runs.layout import explain_write_errors, write_text
from ple_rec.runs.warnings import SlowdownMonitor, dominance_warning
from ple_rec.text.progress import create_bar
from ple_rec.text.units import clock_text, gib_text, short_count
from ple_rec.training.loggers import Loggers

logger = logging.getLogger(__name__)


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far in bytes: that of tensors on a GPU, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux reports `ru_maxrss` in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rows_at_once(device: torch.device) -> int:
    """Return the number of rows that a report window collects before it computes their metrics.

    On a GPU, the host needs longer to launch the operators of the metrics than the GPU to run them, so they are
    launched once for many steps. On a CPU, every step computes its own: the last digits of vectorised functions depend
    on the number of rows, and there a resumed run has the same bits as an uninterrupted one.
    """
    return 1 << 16 if device.type == "cuda" else 1


class _StepValues(NamedTuple):
    """Values of one step, of which a report window computes metrics; see `ReportWindow.update`."""

    logits_BK: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor
    weight_B: Tensor | None
    sums_K: Tensor
    counts_K: Tensor


class ReportWindow:
    """Losses, metrics and waiting times of one rank, summed over its steps since the last report.

    A step only stores its tensors. When these have `rows_at_once` rows, their metrics are computed and added to the
    sums, so the memory does not grow with the length of the window.

    Args:
        tasks: Tasks in the order of the logits.
        device: Device of the model.
    """

    def __init__(self, tasks: Sequence[Task], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.metrics = MetricCollection(tasks, device, exact_limit=0)
        # sums[0]: sum of each task's losses, weighted by the samples' weights; sums[1]: sum of these weights.
        self.sums = torch.zeros(2, len(tasks), dtype=torch.float64, device=device)
        self.device = device
        self._pending: list[_StepValues] = []
        self._pending_rows = 0
        self.steps = 0
        self.samples = 0
        self.wait_seconds = 0.0
        self.started = time.perf_counter()

    def update(self, batch: Batch, logits_BK: Tensor, sums_K: Tensor, counts_K: Tensor, wait_seconds: float) -> None:
        """Add a step of this rank.

        Args:
            batch: Batch of the step.
            logits_BK: Logits of the batch.
            sums_K: Sum of each task's losses over the batch, weighted by the samples' weights.
            counts_K: Sum of the sample weights in each task's sample space, the samples from which the task learns.
            wait_seconds: Seconds for which the step waited for the loader.
        """
        self._pending.append(
            _StepValues(
                logits_BK.detach(), batch.labels_BK, batch.in_space_BK, batch.weight_B, sums_K.detach(), counts_K
            )
        )
        self._pending_rows += len(logits_BK)
        if self._pending_rows >= rows_at_once(self.device):
            self._add_pending()
        self.steps += 1
        self.samples += batch.rows
        self.wait_seconds += wait_seconds

    def _add_pending(self) -> None:
        """Add the stored steps to the sums, by the same operators for any number of steps."""
        if not self._pending:
            return
        logits, labels, in_space, weights, sums, counts = zip(*self._pending, strict=True)
        # Either all batches of a run have sample weights, or none has.
        weight_N = None if weights[0] is None else _join_steps(weights)
        self.metrics.update(_join_steps(logits), _join_steps(labels), _join_steps(in_space), weight_N)
        self.sums += torch.stack([*sums, *counts]).double().view(2, len(sums), -1).sum(1)
        self._pending.clear()
        self._pending_rows = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of this rank for a checkpoint."""
        self._add_pending()
        return {"metrics": self.metrics.state_dict(), "sums": self.sums.clone(), "steps": self.steps}

    def merge_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add the sums that one rank saved in a checkpoint, so that the next report also covers steps before a restart.

        After a restart on another number of ranks, rank 0 adds those of all earlier ranks, since `report` adds up the
        sums of all ranks. Numbers of samples and waiting times are not saved, so the speed in that report covers only
        steps of this process.
        """
        self.metrics.merge_state_dict(state["metrics"])
        self.sums += state["sums"]
        # All ranks make the same steps, so the numbers of several ranks must not be added.
        self.steps = max(self.steps, state["steps"])

    @torch.no_grad()
    def report(self, model: MultiTaskModel, weights_K: Sequence[float]) -> dict[str, Any]:
        """Return losses, metrics and speed of the window over all ranks, and empty the window (a collective).

        The time is that of this rank's clock, so speed and waiting share differ slightly between ranks.

        Args:
            model: Unwrapped model that is trained.
            weights_K: Scheduled weight of each task's loss at the last step.
        """
        self._add_pending()
        now = time.perf_counter()
        seconds = now - self.started
        rank_values = torch.tensor(
            [self.samples, self.wait_seconds, peak_bytes(self.device)], dtype=torch.float64, device=self.device
        )
        total = rank_values.clone()
        dist.all_reduce(total)
        dist.all_reduce(rank_values, dist.ReduceOp.MAX)
        dist.all_reduce(self.sums)
        loss_K = (self.sums[0] / self.sums[1].clamp(min=TINY)).tolist()
        scheduled_K = torch.tensor(weights_K, dtype=torch.float64, device=self.device)
        weights = model.weighting.weights(scheduled_K).tolist()
        tasks = {
            task.name: {"loss": loss, "weight": weight, **_window_metrics(values)}
            for task, loss, weight, values in zip(
                self.tasks, loss_K, weights, self.metrics.compute().values(), strict=True
            )
        }
        record = {
            "loss": float(objective(model, self.sums[0], self.sums[1], scheduled_K)),
            "tasks": tasks,
            "steps": self.steps,
            "samples_per_second": total[0].item() / max(seconds, 1e-9),
            "data_wait": rank_values[1].item() / max(seconds, 1e-9),
            "peak_bytes": int(rank_values[2].item()),
        }
        self.metrics.reset()
        self.sums.zero_()
        self.steps, self.samples, self.wait_seconds, self.started = 0, 0, 0.0, now
        return record


def _join_steps(tensors: Sequence[Tensor]) -> Tensor:
    """Return the rows of several steps one after the other; those of a single step are not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)  # type: ignore[arg-type]


def _window_metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a task that a report contains, without undefined ones."""
    return {key: values[key] for key in ("ne", "auc", "mse") if values.get(key) is not None}


class TrainingProgress:
    """Writer of the log `train.jsonl`, which also prints a line for each record and a progress bar, on rank 0.

    On the other ranks, its methods write and print nothing.

    Args:
        ranks: Place of this process among the ranks.
        log: File `train.jsonl` of the run. Records after `step` are removed, since an interrupted process wrote them
            and this process repeats their steps.
        step: Number of steps of the run that were done before this process.
        total_steps: Number of steps of the run.
        loggers: Loggers that get every record of the log; None for no loggers.
        keep_evaluation: True to keep the log's evaluation at `step`; False to remove it, since it will be repeated. If
            `step` is 0, the log begins empty in any case.

    Raises:
        UserError: The log cannot be written. Ranks other than 0 raise a PeerError instead.
    """

    def __init__(
        self,
        ranks: Ranks,
        log: Path,
        step: int,
        total_steps: int,
        loggers: Loggers | None = None,
        *,
        keep_evaluation: bool = True,
    ) -> None:
        self.main = ranks.is_main
        self.total_steps = total_steps
        self.log = log
        self.loggers = loggers or Loggers()
        self._slowdown, self._is_first_report = SlowdownMonitor(ranks.threads), True
        # Number of steps of the longest report so far.
        self._longest_window = 0
        self.file: TextIO | None = run_on_rank_zero(lambda: self._open(step, keep_evaluation))
        self.bar = create_bar(total_steps, done=step, unit="step", show=self.main)

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if self.main:
            logger.info(text)

    def advance(self) -> None:
        """Advance the bar by one step."""
        self.bar.update()

    def record(self, record: Mapping[str, Any], note: str = "") -> None:
        """Append a record to `train.jsonl`, print its line and hand it to the loggers (a collective).

        Args:
            record: Record as the module's docstring describes it.
            note: Text to print at the end of the line.

        Raises:
            UserError: The log cannot be written. Ranks other than 0 raise a PeerError instead.
        """
        run_on_rank_zero(lambda: self._append(json.dumps(record)))
        self.loggers.log(record)
        self.say("  ".join(filter(None, (_line(record, self.total_steps), self._short_window(record), note))))
        if record["split"] == "train":
            self._warn(record)

    def _short_window(self, record: Mapping[str, Any]) -> str:
        """Return "over N steps" for a report of less than half as many steps as the longest one; else an empty text."""
        # The record of an evaluation has no `steps`; this default gives an empty text.
        steps = record.get("steps", self._longest_window)
        self._longest_window = max(self._longest_window, steps)
        return f"over {steps} step{'s' * (steps != 1)}" if 2 * steps < self._longest_window else ""

    def _warn(self, record: Mapping[str, Any]) -> None:
        """Print a warning if training slows down, or if one task dominates the loss of the first report."""
        warnings = [self._slowdown.warning(record)]
        if self._is_first_report:
            warnings.append(dominance_warning(record))
        self._is_first_report = False
        for warning in warnings:
            if warning is not None:
                self.say(warning)

    def _open(self, step: int, keep_evaluation: bool) -> TextIO:
        """Remove records of steps that will be repeated, pass the other records to the loggers, and open the log."""
        # A run that starts again at step 0 also repeats the evaluation of its first weights, so no record is kept.
        with explain_write_errors(self.log):
            lines = _lines_up_to(self.log, step, keep_evaluation) if step else []
        if lines and (before := json.loads(lines[-1]).get("total_steps")) not in (None, self.total_steps):
            self.say(
                f"this run had {before:,} steps and now has {self.total_steps:,}, since its configuration has changed"
            )
        write_text(self.log, "".join(f"{line}\n" for line in lines))
        self.loggers.begin(step, [json.loads(line) for line in lines])
        with explain_write_errors(self.log):
            return self.log.open("a", encoding="utf-8")

    def _append(self, text: str) -> None:
        assert self.file is not None
        with explain_write_errors(self.log):
            self.file.write(text + "\n")
            self.file.flush()

    def close(self) -> None:
        """Close the log and the bar."""
        self.bar.close()
        if self.file is not None:
            # On a full disk this fails too, but the last `_append` has already raised the error.
            with suppress(OSError):
                self.file.close()


def _lines_up_to(log: Path, step: int, keep_evaluation: bool) -> list[str]:
    """Return the lines of the log that are kept when a run goes on after `step`; damaged lines are left out.

    Args:
        log: File `train.jsonl`, which need not exist.
        step: Number of steps done; records of later steps are left out.
        keep_evaluation: True to include the evaluation at `step`.
    """
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            record = json.loads(line)
            if record["step"] < step or (record["step"] == step and (keep_evaluation or record["split"] != "valid")):
                lines.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            # The process was killed while it wrote this line, so the line is dropped.
            continue
    return lines


def _line(record: Mapping[str, Any], total_steps: int) -> str:
    """Return the line that is printed for a record."""
    width = len(str(total_steps))
    parts = [f"step {record['step']:>{width}}/{total_steps}"]
    is_training = record["split"] == "train"
    parts.append(f"loss {record['loss']:.4f}" if is_training else f"{record['split']} loss {record['loss']:.4f}")
    for name, values in record["tasks"].items():
        metrics = [f"{key} {values[key]:.4f}" for key in ("ne", "auc", "mse") if values.get(key) is not None]
        parts.append(f"{name} {' '.join(metrics) or '-'}")
    if is_training:
        parts.append(f"{short_count(round(record['samples_per_second']))} samples/s")
        parts.append(f"data {100 * record['data_wait']:.0f} %")
        parts.append(f"peak {gib_text(record['peak_bytes'])}")
        parts.append(f"ETA {clock_text(record['eta_seconds'])}")
    return "  ".join(parts)
