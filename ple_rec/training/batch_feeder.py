"""Feeders, which read batches and copy them to the device; a pipelined feeder prepares the next batches during a step.

The training loop calls `next` for a batch and `forward` for its forward pass. Preparing a batch needs no weights that a
step may change, so a run with a pipeline computes the same bits as one without.

    train.pipeline   work that overlaps with step i
    none             none: copy, exchange of ids between ranks, forward and backward pass follow one another
    sparse_dist      before the forward pass: the ranks begin to exchange the numbers of ids of batch i+1;
                     after it: they exchange the ids of batch i+1, and batch i+2 is copied to the device
    prefetch         as sparse_dist; after the forward pass, rows of batch i+1 are also fetched into the GPU's cache
    auto             sparse_dist on a GPU, none on a CPU (`choose_pipeline`)

`TrainState` counts only batches that a step has trained on, so a resumed run reads the prepared batches again. If a
batch cannot be read, the error is raised up to two steps early.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.run import AskedPipeline, PipelineKind
from ple_rec.data.batch import Batch
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sparse_prefetch import (
    CudaStreams,
    Exchange,
    on_stream,
    sharded_collections,
    unlock_caches,
    wait_for_stream,
)
from ple_rec.errors import UserError
from ple_rec.models.losses import StepLoss
from ple_rec.training.profiler.regions import NO_REGIONS, Regions

# Output of the model in a training step: logits_BK and loss sums_K.
Output = tuple[Tensor, Tensor]


class BatchFeeder:
    """Feeder that reads, copies and computes one batch after the other, for `train.pipeline` "none".

    Args:
        model: Sharded model.
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
    """

    def __init__(self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = NO_REGIONS) -> None:
        self._regions = regions
        self.model, self.device, self._watch = model, ranks.device, ranks.watch
        self._batches: Iterator[Batch] = iter(())
        self._wait_seconds = 0.0

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """Drop the prepared batches, and read at most `count` batches from a new iterator."""
        self._batches = islice(batches, count)

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """Return the next batch on the device, and the seconds spent waiting for the loader since the last call.

        Args:
            step: Number of the step that trains on the batch, from 1.
            pause: True if the tables are read between this step and the next, for example by an evaluation. Then no
                rows are fetched into the GPU's cache for the next step before that.
        """
        batch = self._read(step, step)
        assert batch is not None
        with self._regions("copy to device"):
            return batch.to(self.device), self._take_wait_seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """Return the model's output on the batch that `next` returned last.

        Args:
            batch: Result of `next`, on the device.
            loss: Loss of the step, which the model computes in its forward pass.
        """
        output: Output = self.model(batch, loss)
        return output

    def _read(self, step: int, current_step: int) -> Batch | None:
        """Return the batch of a step, or None after the last one.

        Args:
            step: Number of the step that trains on the batch.
            current_step: Number of the step that trains meanwhile.
        """
        started = time.perf_counter()
        self._watch.mark(
            f"reading the batch of step {step}" + (f" during step {current_step}" if current_step != step else "")
        )
        with self._regions("data wait"):
            batch = next(self._batches, None)
        self._watch.mark(f"step {current_step}")
        self._wait_seconds += time.perf_counter() - started
        return batch

    def _take_wait_seconds(self) -> float:
        seconds, self._wait_seconds = self._wait_seconds, 0.0
        return seconds


class PipelinedFeeder(BatchFeeder):
    """Feeder for `train.pipeline` "sparse_dist" and "prefetch".

    Args:
        model: Sharded model.
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
        prefetch: True to fetch rows into the GPU's cache too.
    """

    def __init__(
        self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = NO_REGIONS, *, prefetch: bool
    ) -> None:
        super().__init__(model, ranks, regions)
        self._collections = sharded_collections(model)
        self._streams = CudaStreams(ranks.device)
        self._prefetch = prefetch and bool(self._collections)
        self._copied: deque[Batch] = deque()
        # Exchange of the ids of the next step between ranks; None before the first batch, and without tables.
        self._exchange: Exchange | None = None
        self._step, self._pause = 0, False

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """Drop the prepared batches, and read at most `count` batches from a new iterator."""
        super().begin(batches, count)
        self._copied.clear()
        self._exchange = None

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """Return the next batch, and the seconds spent waiting for the loader since the last call.

        Only the first batch of an epoch waits for its whole exchange of ids; later exchanges run during the step
        before.
        """
        self._step, self._pause = step, pause
        if self._copied:
            self._watch.mark(f"step {step}")
        else:
            self._copy(step)
            self._exchange = self._begin_exchange()
            if self._exchange is not None:
                self._send_ids(self._exchange)
            self._copy(step + 1)
        if self._prefetch and self._exchange is not None and not self._exchange.is_prefetched:
            unlock_caches(self._collections, self._streams)
            self._prefetch_rows(self._exchange)
        batch = self._copied.popleft()
        wait_for_stream(self._streams.copy, batch)
        return batch, self._take_wait_seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """Return the model's output on the batch that `next` returned last, and prepare the batches after it."""
        next_exchange = self._begin_exchange() if self._copied else None
        output = self._forward_exchanged(batch, loss)
        # The device is now busy with the forward pass, so the host may wait for the loader and for the counts of ids.
        self._copy(self._step + 2)
        if next_exchange is not None:
            self._send_ids(next_exchange)
            # Without this condition, an evaluation would use the prefetched rows for its own first batch.
            if self._prefetch and not self._pause:
                self._prefetch_rows(next_exchange)
        self._exchange = next_exchange
        return output

    def _forward_exchanged(self, batch: Batch, loss: StepLoss) -> Output:
        if self._exchange is None:
            return super().forward(batch, loss)
        with self._exchange.replaced_forward():
            return super().forward(batch, loss)

    def _begin_exchange(self) -> Exchange | None:
        """Begin to exchange the ids of the oldest batch that `next` has not returned; return None without tables."""
        ids = self._copied[0].sparse
        if not self._collections or ids is None:
            return None
        with self._regions("input distribution"):
            return Exchange(self._collections, ids, self._streams)

    def _send_ids(self, exchange: Exchange) -> None:
        with self._regions("input distribution"):
            exchange.send()

    def _prefetch_rows(self, exchange: Exchange) -> None:
        with self._regions("lookup"):
            exchange.prefetch()

    def _copy(self, step: int) -> None:
        batch = self._read(step, self._step)
        if batch is not None:
            with on_stream(self._streams.copy), self._regions("copy to device"):
                self._copied.append(batch.to(self.device))


def make_feeder(
    kind: PipelineKind, model: DistributedModelParallel, ranks: Ranks, regions: Regions = NO_REGIONS
) -> BatchFeeder:
    """Return the feeder of a run.

    Args:
        kind: Result of `choose_pipeline`.
        model: Sharded model, whose tables can be prefetched if `kind` is "prefetch".
        ranks: Place of this process among the ranks, with its watchdog.
        regions: Regions of the profiler.
    """
    if kind == "none":
        return BatchFeeder(model, ranks, regions)
    return PipelinedFeeder(model, ranks, regions, prefetch=kind == "prefetch")


def choose_pipeline(setting: AskedPipeline, device: torch.device) -> PipelineKind:
    """Return the pipeline of a run.

    On a CPU, "auto" prepares nothing ahead: there is no copy, and an exchange would share the cores with the step.

    Args:
        setting: Value of `train.pipeline`.
        device: Device of the model.

    Raises:
        UserError: The pipeline is "prefetch", and the device is a CPU.
    """
    if setting == "auto":
        return "none" if device.type == "cpu" else "sparse_dist"
    if setting == "prefetch" and device.type == "cpu":
        raise UserError(
            "train.pipeline",
            'got "prefetch" on a CPU',
            "this pipeline fetches rows of fused_uvm_caching tables into the memory of a GPU",
            'set train.pipeline = "sparse_dist" or "none"',
        )
    return setting
