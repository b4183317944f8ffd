"""What a person watches: one line a report on rank 0, a bar on a terminal, `train.jsonl`.

A record of `train.jsonl` has `split`, `step` (done), `total_steps` (of the run), `epoch` (from 0), `samples` (seen
since the start), `seconds` (in the loop, without evaluations and checkpoints), `learning_rate`, `table_learning_rate`
(null without tables), `loss` and `tasks`. In a record of split "train" these are over the steps since the last record:
`loss` is what the steps minimised, sum_k w_k L_k and any term of the model or its weighting, and a task has `loss` L_k,
`weight`, the factor of L_k in it (w_k of the last step, times what is learned), and `ne` and `auc`, or `mse`, where
defined; and there are `steps` (their number), `samples_per_second`, `data_wait` (share of the time, of the rank that
waited longest), `peak_bytes` (of the rank that has most) and `eta_seconds` (at the pace of these steps). In one of
split "valid" a task has the evaluation's metrics, `best` says whether the checkpoint is the best so far, and who trains
the run may add metrics of its own (`train(extra_metrics=...)`). A run that starts from another one's weights has such a
record of them, at step 0.

Shape suffixes: K tasks.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

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
from ple_rec.runs.layout import write_text, writing
from ple_rec.runs.warnings import SlowdownMonitor, dominance_warning
from ple_rec.text.progress import bar
from ple_rec.text.units import clock, gib, short_count
from ple_rec.training.loggers import Loggers

logger = logging.getLogger(__name__)


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this rank: of the GPU where it has one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Window:
    """What happened since the last report, over all ranks.

    Args:
        tasks: In the order of the logits.
        device: Of the model.
    """

    def __init__(self, tasks: Sequence[Task], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.metrics = MetricCollection(tasks, device, exact_limit=0)
        self.sums = torch.zeros(2, len(tasks), dtype=torch.float64, device=device)
        self.device = device
        self.steps = 0
        self.samples = 0
        self.waited = 0.0
        self.begun = time.perf_counter()

    def update(self, batch: Batch, logits_BK: Tensor, sums_K: Tensor, counts_K: Tensor, waited: float) -> None:
        """Add a step: its local loss sums and counts, and the seconds that it waited for data."""
        self.metrics.update(logits_BK.detach(), batch.labels_BK, batch.in_space_BK, batch.weight_B)
        self.sums += torch.stack([sums_K.detach(), counts_K]).double()
        self.steps += 1
        self.samples += batch.rows
        self.waited += waited

    def state_dict(self) -> dict[str, Any]:
        """What this rank has added since the last report."""
        return {"metrics": self.metrics.state_dict(), "sums": self.sums.clone(), "steps": self.steps}

    def merge_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what a rank had, as if its steps had been fed here; the pace counts from now on."""
        self.metrics.merge_state_dict(state["metrics"])
        self.sums += state["sums"]
        self.steps = max(self.steps, state["steps"])

    @torch.no_grad()
    def report(self, model: MultiTaskModel, weights_K: Sequence[float]) -> dict[str, Any]:
        """The window's record, the same on every rank (a collective); the window starts afresh.

        Args:
            model: Whose objective is minimised.
            weights_K: w_k(t) of the last step.
        """
        now = time.perf_counter()
        seconds = now - self.begun
        own = torch.tensor(
            [self.samples, self.waited, peak_bytes(self.device)], dtype=torch.float64, device=self.device
        )
        total = own.clone()
        dist.all_reduce(total)
        dist.all_reduce(own, dist.ReduceOp.MAX)
        dist.all_reduce(self.sums)
        loss_K = (self.sums[0] / self.sums[1].clamp(min=TINY)).tolist()
        scheduled_K = torch.tensor(weights_K, dtype=torch.float64, device=self.device)
        weights = model.weighting.weights(scheduled_K).tolist()
        tasks = {
            task.name: {"loss": loss, "weight": weight, **_known(values)}
            for task, loss, weight, values in zip(
                self.tasks, loss_K, weights, self.metrics.compute().values(), strict=True
            )
        }
        record = {
            "loss": float(objective(model, self.sums[0], self.sums[1], scheduled_K)),
            "tasks": tasks,
            "steps": self.steps,
            "samples_per_second": total[0].item() / max(seconds, 1e-9),
            "data_wait": own[1].item() / max(seconds, 1e-9),
            "peak_bytes": int(own[2].item()),
        }
        self.metrics.reset()
        self.sums.zero_()
        self.steps, self.samples, self.waited, self.begun = 0, 0, 0.0, now
        return record


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("ne", "auc", "mse") if values.get(key) is not None}


class Progress:
    """Rank 0's voice: the log file, the lines and the bar. Other ranks stay silent.

    Args:
        ranks: Of the run.
        log: `train.jsonl`, appended to; what it says of later steps than `step`, an attempt that was cut off, goes.
        step: The first step of this process.
        total_steps: Of the run.
        loggers: Hear of every record of the log.
        evaluated: Flag that the log keeps the evaluation of `step`; False if that evaluation is to be made again.

    Raises:
        UserError: the disk is full or not writable; a PeerError on the other ranks.
    """

    def __init__(
        self,
        ranks: Ranks,
        log: Path,
        step: int,
        total_steps: int,
        loggers: Loggers | None = None,
        *,
        evaluated: bool = True,
    ) -> None:
        self.main = ranks.is_main
        self.total_steps = total_steps
        self.log = log
        self.loggers = loggers or Loggers()
        self._slowdown, self._first = SlowdownMonitor(ranks.threads), True
        self._usual = 0  # steps of the longest report so far
        self.file: TextIO | None = run_on_rank_zero(lambda: self._open(step, evaluated))
        self.bar = bar(total_steps, done=step, unit="step", show=self.main)

    def say(self, text: str) -> None:
        """Log a line, on rank 0."""
        if self.main:
            logger.info(text)

    def advance(self) -> None:
        """One step is done."""
        self.bar.update()

    def record(self, record: Mapping[str, Any], note: str = "") -> None:
        """Append a record to `train.jsonl`, print its line and tell the loggers (a collective).

        Args:
            record: As the module says.
            note: What its line ends with.

        Raises:
            UserError: as the constructor.
        """
        run_on_rank_zero(lambda: self._append(json.dumps(record)))
        self.loggers.log(record)
        self.say("  ".join(filter(None, (_line(record, self.total_steps), self._span(record), note))))
        if record["split"] == "train":
            self._warn(record)

    def _span(self, record: Mapping[str, Any]) -> str:
        """Return how few steps a report covers, where they are less than half of what a report covers here."""
        steps = record.get("steps", self._usual)  # an evaluation has none
        self._usual = max(self._usual, steps)
        return f"over {steps} step{'s' * (steps != 1)}" if 2 * steps < self._usual else ""

    def _warn(self, record: Mapping[str, Any]) -> None:
        warnings = [self._slowdown.warning(record)]
        if self._first:  # of this process
            warnings.append(dominance_warning(record))
        self._first = False
        for warning in warnings:
            if warning is not None:
                self.say(warning)

    def _open(self, step: int, evaluated: bool) -> TextIO:
        # A run that starts again before its first step evaluates the weights that it starts from again.
        with writing(self.log):
            kept = _kept(self.log, step, evaluated) if step else []
        if kept and (before := json.loads(kept[-1]).get("total_steps")) not in (None, self.total_steps):
            self.say(
                f"this run was of {before:,} steps, it is of {self.total_steps:,} now: its configuration is another one"
            )
        write_text(self.log, "".join(f"{line}\n" for line in kept))
        self.loggers.begin(step, [json.loads(line) for line in kept])
        with writing(self.log):
            return self.log.open("a")

    def _append(self, text: str) -> None:
        assert self.file is not None
        with writing(self.log):
            self.file.write(text + "\n")
            self.file.flush()

    def close(self) -> None:
        """Close the log and the bar."""
        self.bar.close()
        if self.file is not None:
            with suppress(OSError):  # `_append` has raised it already
                self.file.close()


def _kept(log: Path, step: int, evaluated: bool) -> list[str]:
    """Return the lines of the log up to `step`; its evaluation is among them where `evaluated`."""
    kept = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            record = json.loads(line)
            if record["step"] < step or (record["step"] == step and (evaluated or record["split"] != "valid")):
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # the last line of a run that was killed while it wrote
    return kept


def _line(record: Mapping[str, Any], total_steps: int) -> str:
    width = len(str(total_steps))
    parts = [f"step {record['step']:>{width}}/{total_steps}"]
    train = record["split"] == "train"
    parts.append(f"loss {record['loss']:.4f}" if train else f"{record['split']} loss {record['loss']:.4f}")
    for name, values in record["tasks"].items():
        shown = [f"{key} {values[key]:.4f}" for key in ("ne", "auc", "mse") if values.get(key) is not None]
        parts.append(f"{name} {' '.join(shown) or '-'}")
    if train:
        parts.append(f"{short_count(round(record['samples_per_second']))} samples/s")
        parts.append(f"data {100 * record['data_wait']:.0f} %")
        parts.append(f"peak {gib(record['peak_bytes'])}")
        parts.append(f"ETA {clock(record['eta_seconds'])}")
    return "  ".join(parts)
