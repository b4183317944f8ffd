"""The exchange of a batch's ids, taken apart so that it can run ahead of the step that looks them up.

A sharded collection's forward pass is `compute_and_output_dist(context, input_dist(context, ids).wait().wait())`. Of
that, only the last call needs weights. Here the parts are called one by one, for a batch whose turn comes a step later;
TorchRec's pipelines do the same (`TrainPipelineSparseDist`), but find the ids by tracing the model with torch.fx, which
this project's models, with branches on the batch, cannot be.

On a GPU, copies, exchanges and prefetches have a stream each. What one stream makes and another uses is recorded with
the allocator, or its memory could be given away too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class Streams:
    """CUDA streams beside the one that computes; on a CPU, whose exchanges run in gloo's threads, none.

    Args:
        device: Of the rank.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        # In front of the computation, which waits for them.
        self.copy = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.exchange = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.prefetch = torch.cuda.Stream(device) if cuda else None


def on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """What is done within goes to this stream."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def hand_over(stream: torch.cuda.Stream | None, *made: Any) -> None:
    """The current stream waits for what `stream` has been given so far, and may use what it made there."""
    if stream is None:
        return
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for each in made:
        each.record_stream(current)


def sharded_collection(model: DistributedModelParallel) -> Any | None:
    """The sharded tables of a model, None where it has none."""
    found = [module for module in model.modules() if isinstance(module, ShardedEmbeddingBagCollection)]
    assert len(found) <= 1
    return found[0] if found else None


class Exchange:
    """The ids of one batch on their way to the ranks that hold their rows (every call is a collective).

    Args:
        collection: The sharded tables.
        ids: Of this rank's batch, copied to its device on `streams.copy`.
        streams: Of the rank.
    """

    def __init__(self, collection: Any, ids: KeyedJaggedTensor, streams: Streams) -> None:
        self._collection, self._streams = collection, streams
        self._context = collection.create_context()
        self._prefetched: Any = None
        with on(streams.exchange):
            hand_over(streams.copy, ids)
            self._numbers = collection.input_dist(self._context, ids)  # how many ids go where

    def send(self) -> None:
        """Wait for the numbers of ids, and begin to send the ids. On a GPU the host waits here."""
        with on(self._streams.exchange):
            self._ids = self._numbers.wait()

    def prefetch(self) -> None:
        """Fetch the rows that are not in the GPU's cache yet from the host's memory. After `send`, at most once."""
        stream = self._streams.prefetch
        forward = None if stream is None else torch.cuda.current_stream(stream.device)
        with on(self._streams.exchange):
            received = self._ids.wait()
        with on(stream):
            hand_over(self._streams.exchange, received, self._context)
            self._collection.prefetch(ctx=self._context, dist_input=received, forward_stream=forward)
        self._prefetched = received

    @property
    def is_prefetched(self) -> bool:
        """Whether `prefetch` has been called."""
        return self._prefetched is not None

    @contextmanager
    def used(self) -> Iterator[None]:
        """One forward pass of the model within looks up the ids of this exchange, whatever batch it is given."""
        self._collection.forward = self._forward  # an attribute of the instance hides the method of its class
        try:
            yield
        finally:
            del self._collection.forward

    def _forward(self, _: KeyedJaggedTensor) -> Any:
        if self._prefetched is None:
            with on(self._streams.exchange):
                received = self._ids.wait()
            hand_over(self._streams.exchange, received, self._context)
        else:
            received = self._prefetched
            hand_over(self._streams.prefetch, received, self._context)
        return self._collection.compute_and_output_dist(self._context, received)


def unlock_caches(collection: Any, streams: Streams) -> None:
    """Let go of the cache lines that forward passes without a backward pass, as those of an evaluation, have locked.

    FBGEMM locks the lines of a batch when it fetches its rows, and unlocks them in the backward pass. To be called
    while no batch is prefetched.
    """
    with on(streams.prefetch):
        if streams.prefetch is not None:  # an evaluation may still be at them
            hand_over(torch.cuda.default_stream(streams.prefetch.device))
        for kernel in cached_kernels(collection):
            kernel.lxu_cache_locking_counter.zero_()


def lookups_of(collection: Any) -> list[nn.Module]:
    """Return TorchRec's lookups of the sharded tables, which hold FBGEMM's modules; no walk over modules finds them."""
    return list(collection._lookups)


def cached_kernels(collection: Any) -> list[Any]:
    """FBGEMM's modules whose tables lie in the host's memory behind a cache."""
    modules = [module for lookup in lookups_of(collection) for module in lookup.modules()]
    return [module for module in modules if getattr(module, "lxu_cache_weights", torch.empty(0)).numel()]
