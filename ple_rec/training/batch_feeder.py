"""Feeders that prepare the next batches while a step computes.

Preparing a batch needs no weights that a step may change, so a pipelined run computes the same bits as one without a
pipeline.

    train.pipeline   work beside step i
    none             none: copy, exchange of ids, forward and backward follow one another
    sparse_dist      before the forward pass: counts of the ids of i+1 are exchanged;
                     after it: the ids of i+1 are exchanged, and batch i+2 is copied to the device
    prefetch         as sparse_dist; after the forward pass, rows of i+1 are also fetched into the GPU's cache

`TrainState` counts only batches that a step has trained; a resumed run reads the prepared ones again. An error of
reading is raised up to two steps early.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.run import PipelineKind
from ple_rec.data.batch import Batch
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sparse_prefetch import CudaStreams, Exchange, hand_over, on, sharded_collection, unlock_caches
from ple_rec.errors import UserError
from ple_rec.models.losses import StepLoss
from ple_rec.training.profiler.regions import OFF, Regions

# Output of the model in a training step: logits_BK and loss sums_K.
Output = tuple[Tensor, Tensor]


class BatchFeeder:
    """Feeder that reads, copies and computes one batch after the other.

    Args:
        model: Sharded model.
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
    """

    def __init__(self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF) -> None:
        self._regions = regions
        self.model, self.device, self._watch = model, ranks.device, ranks.watch
        self._batches: Iterator[Batch] = iter(())
        self._wait_seconds = 0.0

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """Drop the prepared batches, and read at most `count` batches from another iterator."""
        self._batches = islice(batches, count)

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """Return the next batch on the device, and the seconds spent waiting for the loader since the last call.

        Args:
            step: Number of the step that trains on the batch, from 1.
            pause: True if the tables are read between this step and the next, for example by an evaluation.
        """
        batch = self._read(step, step)
        assert batch is not None
        with self._regions("copy to device"):
            return batch.to(self.device), self._take_wait_seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """Return the model's output on the batch that `next` returned last."""
        output: Output = self.model(batch, loss)
        return output

    def _read(self, step: int, during: int) -> Batch | None:
        """Return the batch of a step, or None after the last one.

        Args:
            step: Number of the step that trains on the batch.
            during: Number of the step under way.
        """
        started = time.perf_counter()
        self._watch.mark(f"reading the batch of step {step}" + (f" during step {during}" if during != step else ""))
        with self._regions("data wait"):
            batch = next(self._batches, None)
        self._watch.mark(f"step {during}")
        self._wait_seconds += time.perf_counter() - started
        return batch

    def _take_wait_seconds(self) -> float:
        seconds, self._wait_seconds = self._wait_seconds, 0.0
        return seconds


class PipelinedFeeder(BatchFeeder):
    """Feeder of `sparse_dist` and `prefetch`.

    Args:
        model: Sharded model.
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
        prefetch: True to fetch rows into the GPU's cache too.
    """

    def __init__(
        self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF, *, prefetch: bool
    ) -> None:
        super().__init__(model, ranks, regions)
        self._collection = sharded_collection(model)
        self._streams = CudaStreams(ranks.device)
        self._prefetch = prefetch and self._collection is not None
        self._copied: deque[Batch] = deque()
        # Exchange of the ids of the next step.
        self._exchange: Exchange | None = None
        self._step, self._pause = 0, False

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """Drop the prepared batches, and read at most `count` batches from another iterator."""
        super().begin(batches, count)
        self._copied.clear()
        self._exchange = None

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """Return the next batch and the seconds of waiting; only the first batch waits for a whole exchange."""
        self._step, self._pause = step, pause
        if self._copied:
            self._watch.mark(f"step {step}")
        else:
            self._copy(step)
            self._exchange = self._begin_exchange()
            if self._exchange is not None:
                self._send(self._exchange)
            self._copy(step + 1)
        if self._prefetch and self._exchange is not None and not self._exchange.is_prefetched:
            unlock_caches(self._collection, self._streams)
            self._fetch(self._exchange)
        batch = self._copied.popleft()
        hand_over(self._streams.copy, batch)
        return batch, self._take_wait_seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """Return the model's output on the batch that `next` returned last, and prepare the batches after it."""
        following = self._begin_exchange() if self._copied else None
        output = self._forward_exchanged(batch, loss)
        # The device now has a forward pass to compute, so the host may wait for the loader and the counts of ids.
        self._copy(self._step + 2)
        if following is not None:
            self._send(following)
            # An evaluation would take prefetched rows for those of its own first batch.
            if self._prefetch and not self._pause:
                self._fetch(following)
        self._exchange = following
        return output

    def _forward_exchanged(self, batch: Batch, loss: StepLoss) -> Output:
        if self._exchange is None:
            return super().forward(batch, loss)
        with self._exchange.used():
            return super().forward(batch, loss)

    def _begin_exchange(self) -> Exchange | None:
        ids = self._copied[0].sparse
        if self._collection is None or ids is None:
            return None
        with self._regions("input distribution"):
            return Exchange(self._collection, ids, self._streams)

    def _send(self, exchange: Exchange) -> None:
        with self._regions("input distribution"):
            exchange.send()

    def _fetch(self, exchange: Exchange) -> None:
        with self._regions("lookup"):
            exchange.prefetch()

    def _copy(self, step: int) -> None:
        batch = self._read(step, self._step)
        if batch is not None:
            with on(self._streams.copy), self._regions("copy to device"):
                self._copied.append(batch.to(self.device))


def make_feeder(
    kind: PipelineKind, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF
) -> BatchFeeder:
    """Return the feeder of a run.

    Args:
        kind: Value of `train.pipeline`.
        model: Sharded model, whose tables can be prefetched if `kind` is "prefetch".
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
    """
    if kind == "none":
        return BatchFeeder(model, ranks, regions)
    return PipelinedFeeder(model, ranks, regions, prefetch=kind == "prefetch")


def check_pipeline(kind: PipelineKind, device: torch.device) -> None:
    """Refuse a pipeline that the device cannot run.

    Args:
        kind: Value of `train.pipeline`.
        device: Device of the model.

    Raises:
        UserError: The pipeline is "prefetch", and the device is a CPU.
    """
    if kind == "prefetch" and device.type == "cpu":
        raise UserError(
            "train.pipeline",
            'got "prefetch" on a CPU',
            "it fetches rows of fused_uvm_caching tables into the memory of a GPU",
            'set train.pipeline = "sparse_dist" or "none"',
        )
