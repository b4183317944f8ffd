"""The next batches on their way while a step computes: copied to the device, their ids exchanged, their rows fetched.

Nothing that runs ahead needs weights that a step may change, so a pipelined run computes the same bits as another.

    train.pipeline   ahead of step i
    none             nothing: copy, exchange, forward, backward, one after the other
    sparse_dist      before its forward: numbers of ids of i+1; after it: ids of i+1 sent, copy of i+2
    prefetch         too: after its forward, the rows of i+1 that are not in the GPU's cache yet

Only a batch that a step has trained counts: `Position` knows nothing of those on their way, which are read again when a
run goes on. What reading finds is raised up to two steps early.
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
from ple_rec.distributed.sparse_prefetch import Exchange, Streams, hand_over, on, sharded_collection, unlock_caches
from ple_rec.errors import UserError
from ple_rec.models.losses import StepLoss
from ple_rec.training.profiler.regions import OFF, Regions

Output = tuple[Tensor, Tensor]  # of the model in a step: logits_BK, sums_K


class Pipeline:
    """Batches one after the other, as the loader gives them, and the model's forward pass over each.

    Args:
        model: Sharded.
        ranks: Whose watch hears what this rank is about to do.
        regions: Hear where the time goes.
    """

    def __init__(self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF) -> None:
        self._regions = regions
        self.model, self.device, self._watch = model, ranks.device, ranks.watch
        self._batches: Iterator[Batch] = iter(())
        self._waited = 0.0

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """Take from another iterator, and no more than `count`; what was on its way is forgotten."""
        self._batches = islice(batches, count)

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """The batch of the next step, on the device, and the seconds that were waited for batches since the last one.

        Args:
            step: Its number, from 1.
            pause: Something else looks up rows, or reads the tables, between this step and the one after it.
        """
        batch = self._read(step, step)
        assert batch is not None
        with self._regions("copy to device"):
            return batch.to(self.device), self._seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """The model on the batch that `next` has given last."""
        output: Output = self.model(batch, loss)
        return output

    def _read(self, step: int, during: int) -> Batch | None:
        """The batch of a step, or None after the last one; read while another step is under way, or for itself."""
        asked = time.perf_counter()
        self._watch.mark(f"reading the batch of step {step}" + (f" during step {during}" if during != step else ""))
        with self._regions("data wait"):
            batch = next(self._batches, None)
        self._watch.mark(f"step {during}")
        self._waited += time.perf_counter() - asked
        return batch

    def _seconds(self) -> float:
        waited, self._waited = self._waited, 0.0
        return waited


class Ahead(Pipeline):
    """`sparse_dist` and `prefetch`.

    Args:
        model: Sharded.
        ranks: As of `Pipeline`.
        regions: As of `Pipeline`.
        prefetch: Whether rows are fetched into the GPU's cache too.
    """

    def __init__(
        self, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF, *, prefetch: bool
    ) -> None:
        super().__init__(model, ranks, regions)
        self._collection = sharded_collection(model)
        self._streams = Streams(ranks.device)
        self._prefetch = prefetch and self._collection is not None
        self._copied: deque[Batch] = deque()  # of the steps to come
        self._exchange: Exchange | None = None  # of the step that is next
        self._step, self._pause = 0, False

    def begin(self, batches: Iterator[Batch], count: int) -> None:
        """As of `Pipeline`."""
        super().begin(batches, count)
        self._copied.clear()
        self._exchange = None

    def next(self, step: int, *, pause: bool = False) -> tuple[Batch, float]:
        """As of `Pipeline`; the first of an iterator waits for its copy and its exchange, the others for less."""
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
        return batch, self._seconds()

    def forward(self, batch: Batch, loss: StepLoss) -> Output:
        """As of `Pipeline`, and what can be done for the batches after it."""
        following = self._begin_exchange() if self._copied else None
        output = self._of_model(batch, loss)
        # With the forward pass given to it, a device has work while the host waits for the loader and the numbers.
        self._copy(self._step + 2)
        if following is not None:
            self._send(following)
            # An evaluation would take the rows fetched here for those of its own first batch.
            if self._prefetch and not self._pause:
                self._fetch(following)
        self._exchange = following
        return output

    def _of_model(self, batch: Batch, loss: StepLoss) -> Output:
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


def make_pipeline(
    kind: PipelineKind, model: DistributedModelParallel, ranks: Ranks, regions: Regions = OFF
) -> Pipeline:
    """The pipeline of a run.

    Args:
        kind: `train.pipeline`.
        model: Sharded; with tables that can be prefetched, where that is asked for.
        ranks: Of the run.
        regions: Hear where the time goes.
    """
    if kind == "none":
        return Pipeline(model, ranks, regions)
    return Ahead(model, ranks, regions, prefetch=kind == "prefetch")


def check_pipeline(kind: PipelineKind, device: torch.device) -> None:
    """Refuse what the device cannot do.

    Raises:
        UserError: `prefetch` on a CPU.
    """
    if kind == "prefetch" and device.type == "cpu":
        raise UserError(
            "train.pipeline",
            'got "prefetch" on a CPU',
            "it fetches rows of fused_uvm_caching tables into the memory of a GPU",
            'set train.pipeline = "sparse_dist" or "none"',
        )
