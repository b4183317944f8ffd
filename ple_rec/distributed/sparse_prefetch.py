"""Exchange of the ids of the next batch between ranks, while the model still computes the current batch.

Embedding tables are sharded: each row lies on one rank, so every rank sends its ids to the ranks that hold their rows.
The forward pass of TorchRec's `ShardedEmbeddingBagCollection`, and of `ShardedEmbeddingCollection`, does this in

    compute_and_output_dist(context, input_dist(context, ids).wait().wait())

Here `input_dist` starts to exchange the counts of ids, the first `wait` starts to exchange the ids themselves, and the
second waits for these ids. `compute_and_output_dist` looks up the rows and returns the results to the ranks that asked.
It alone reads the weights, so all calls before it can run one step early, before the weights are updated. The class
`Exchange` makes these calls one by one. TorchRec's `TrainPipelineSparseDist` does the same, but it finds the ids by
tracing the model with torch.fx. The models of this project have control flow that depends on the batch, which torch.fx
cannot trace.

A model has up to two sharded collections, one of pooled and one of unpooled tables. Each step of an exchange is done
for one after the other, in the order of the model, so that all ranks call the collectives in the same order.

If a table lies in the host's memory, the GPU has a cache of its rows. The prefetch copies the rows of the next batch
into this cache.

On a GPU, copies of batches, exchanges and prefetches run on one stream each. If one stream allocates a tensor and
another uses it, the tensor is registered with the allocator (`record_stream`), which might otherwise reuse its memory
too early.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class CudaStreams:
    """CUDA streams in addition to the default stream, on which the model computes.

    On a CPU all of them are None; the threads of gloo run the exchanges there.

    Args:
        device: Device of the rank.

    Attributes:
        copy: Stream that copies batches from the host to the device.
        exchange: Stream that exchanges ids between ranks.
        prefetch: Stream that fetches rows into the cache.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        # The model has to wait for copies and exchanges, so their streams have a higher priority than the default.
        self.copy = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.exchange = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.prefetch = torch.cuda.Stream(device) if cuda else None


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Return a context in which CUDA work is queued on a stream; None, as on a CPU, leaves the current stream."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def wait_for_stream(stream: torch.cuda.Stream | None, *tensors: Any) -> None:
    """Make tensors of one stream safe to use on the current stream.

    The current stream waits for all work that `stream` has been given so far, and the allocator does not reuse the
    memory of the tensors before the current stream has finished with them.

    Args:
        stream: Stream on which the tensors were made; None, as on a CPU, to do nothing.
        tensors: Tensors, or objects with a method `record_stream`.
    """
    if stream is None:
        return
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for tensor in tensors:
        tensor.record_stream(current)


def sharded_collections(model: DistributedModelParallel) -> list[Any]:
    """Return the sharded collections that hold the embedding tables of a model, in the order of its modules."""
    kinds = (ShardedEmbeddingBagCollection, ShardedEmbeddingCollection)
    return [module for module in model.modules() if isinstance(module, kinds)]


class Exchange:
    """Exchange of the ids of one batch: each rank sends its ids to the ranks that hold their rows.

    Each sharded collection of the model exchanges its ids by a `_CollectionExchange`. The constructor starts to
    exchange the counts. Call `send` next, then `prefetch` if tables have a cache, and run the forward pass of the batch
    in the block of `replaced_forward`. All ranks must make the same calls, since these are collectives.

    Args:
        collections: Sharded collections with the tables of the model, in the same order on all ranks.
        ids: Ids of this rank's batch. The stream `streams.copy` may still be copying them to the device.
        streams: CUDA streams of the rank.
    """

    def __init__(self, collections: Sequence[Any], ids: KeyedJaggedTensor, streams: CudaStreams) -> None:
        self._parts = [_CollectionExchange(collection, ids, streams) for collection in collections]
        # True if `prefetch` has been called.
        self.is_prefetched = False

    def send(self) -> None:
        """Wait for the counts of ids, and start to send the ids. On a GPU, the host blocks until the counts arrive."""
        for part in self._parts:
            part.send()

    def prefetch(self) -> None:
        """Copy the rows of the batch that are not yet in the GPU's cache from the host's memory into it.

        Call this method after `send`, at most once.
        """
        for part in self._parts:
            part.prefetch()
        self.is_prefetched = True

    @contextmanager
    def replaced_forward(self) -> Iterator[None]:
        """Return a context in which the sharded collections take their ids from this exchange, for one forward pass.

        In the block, the collections ignore the ids that the model passes to them, so the model must be run on the
        batch of this exchange.
        """
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.replaced_forward())
            yield


class _CollectionExchange:
    """Part of an `Exchange` for one sharded collection.

    Args:
        collection: Sharded collection.
        ids: Ids of this rank's batch.
        streams: CUDA streams of the rank.
    """

    def __init__(self, collection: Any, ids: KeyedJaggedTensor, streams: CudaStreams) -> None:
        self._collection, self._streams = collection, streams
        self._context = collection.create_context()
        self._prefetched: Any = None
        with on_stream(streams.exchange):
            wait_for_stream(streams.copy, ids)
            # Before the ids, each rank tells each other rank how many ids it will send.
            self._counts = collection.input_dist(self._context, ids)

    def send(self) -> None:
        """Wait for the counts of ids, and start to send the ids."""
        with on_stream(self._streams.exchange):
            self._ids = self._counts.wait()

    def prefetch(self) -> None:
        """Copy rows into the GPU's cache."""
        stream = self._streams.prefetch
        forward = None if stream is None else torch.cuda.current_stream(stream.device)
        with on_stream(self._streams.exchange):
            received = self._ids.wait()
        with on_stream(stream):
            wait_for_stream(self._streams.exchange, received, self._context)
            self._collection.prefetch(ctx=self._context, dist_input=received, forward_stream=forward)
        self._prefetched = received

    @contextmanager
    def replaced_forward(self) -> Iterator[None]:
        """Return a context in which the collection takes its ids from this exchange."""
        # `nn.Module` calls `self.forward`, so this attribute of the instance replaces the method of the class.
        self._collection.forward = self._forward
        try:
            yield
        finally:
            del self._collection.forward

    def _forward(self, _: KeyedJaggedTensor) -> Any:
        """Do the rest of the collection's forward pass: wait for the ids of this exchange and look up their rows.

        The argument, the ids that the model passes, is ignored.
        """
        if self._prefetched is None:
            with on_stream(self._streams.exchange):
                received = self._ids.wait()
            wait_for_stream(self._streams.exchange, received, self._context)
        else:
            received = self._prefetched
            wait_for_stream(self._streams.prefetch, received, self._context)
        return self._collection.compute_and_output_dist(self._context, received)


def unlock_caches(collections: Sequence[Any], streams: CudaStreams) -> None:
    """Unlock all cache lines of the tables after forward passes that had no backward pass, as in an evaluation.

    A cache line holds one row. FBGEMM locks the lines of a batch when it fetches the rows, and unlocks them in the
    backward pass; without one, they would stay locked. Do not call this function between the prefetch of a batch and
    its backward pass, since the lines of that batch would be unlocked, too.

    Args:
        collections: Sharded collections with the tables of the model.
        streams: CUDA streams of the rank.
    """
    with on_stream(streams.prefetch):
        # The default stream may still be computing an evaluation that reads the lines, so wait for it.
        if streams.prefetch is not None:
            wait_for_stream(torch.cuda.default_stream(streams.prefetch.device))
        for kernel in (kernel for collection in collections for kernel in cached_kernels(collection)):
            kernel.lxu_cache_locking_counter.zero_()


def lookup_modules(collection: Any) -> list[nn.Module]:
    """Return TorchRec's lookup modules of a sharded collection, in which the modules of FBGEMM lie.

    The method `modules` of the collection does not return them.
    """
    return list(collection._lookups)


def cached_kernels(collection: Any) -> list[Any]:
    """Return the FBGEMM modules whose tables lie in the host's memory and have a cache on the GPU."""
    modules = [module for lookup in lookup_modules(collection) for module in lookup.modules()]
    return [module for module in modules if getattr(module, "lxu_cache_weights", torch.empty(0)).numel()]
