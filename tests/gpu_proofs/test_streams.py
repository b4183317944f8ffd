"""Order of the work on the streams of the pipelines `sparse_dist` and `prefetch`, whatever the speed of the streams."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.distributed import sparse_prefetch
from ple_rec.distributed.sparse_prefetch import sharded_collections
from ple_rec.models.losses import StepLoss, loss_weights_BK
from ple_rec.training.batch_feeder import PipelinedFeeder
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.evaluate import score_batches
from tests.gpu_proofs.device_path import device_path
from tests.gpu_proofs.stream_races import CallSite, find_races
from tests.gpu_proofs.stream_trace import CUDA, StreamRecorder, StreamTrace, fake_streams, tracing
from tests.gpu_proofs.thread_ranks import run_thread_ranks
from tests.training.small import ranks_of, small_config, write_small
from tests.vectors import write_vectors

WORLD_SIZE = 2
STREAMS = ("copy", "exchange", "prefetch")  # In the order in which `CudaStreams` makes them.


@dataclass(frozen=True)
class _Epoch:
    """Steps of an epoch, and what follows each of them.

    Args:
        after_steps: For each step, what follows it: "evaluation", "save" or nothing.
        is_cut: True if the epoch ends before its last batches, which the feeder has prepared then.
    """

    after_steps: tuple[tuple[str, ...], ...]
    is_cut: bool


# Everything that a training does between steps, at the beginning, in the middle and at the end of an epoch.
ALL = (
    _Epoch((("save",), (), ("evaluation", "save"), (), ()), is_cut=False),
    _Epoch(((), ()), is_cut=True),
    _Epoch(((), ("evaluation",)), is_cut=False),
)


# Calls of `record_stream` without which nothing changes. The step reads the values of ids on the stream of the exchange
# alone, a prefetch reads no weights, and after it, offsets take the place of lengths; all of them are recorded because
# their `KeyedJaggedTensor` is.
UNNEEDED = {
    ("record_stream sparse.values", "batch_feeder, PipelinedFeeder.next"),
    ("record_stream weights", "sparse_prefetch, _CollectionExchange.prefetch"),
    ("record_stream lengths", "sparse_prefetch, _CollectionExchange._forward"),
}


class _Cache:
    """Stand-in for FBGEMM's cache of rows on the GPU: its counter of locked lines, and the locations of a batch's rows.

    As `SplitTableBatchedEmbeddingBagsCodegen` does, it locks the rows of a batch in a prefetch, or without one, in the
    forward pass, and unlocks them in the backward pass. The waits and the call of `record_stream` here are FBGEMM's.
    """

    def __init__(self) -> None:
        self.lxu_cache_locking_counter = torch.zeros(4)
        self._prefetched: list[Tensor] = []
        self._locations: Tensor | None = None
        self._prefetch_stream: Any = None

    def prefetch(self, *, ctx: Any, dist_input: Any, forward_stream: Any) -> None:
        """Lock the rows of a batch on the current stream."""
        self._prefetch_stream = torch.cuda.current_stream()
        self._prefetched.append(self._lock(dist_input))
        self._prefetched[-1].record_stream(forward_stream)

    def _lock(self, dist_input: Any) -> Tensor:
        self.lxu_cache_locking_counter.add_(1)
        return torch.cat([ids.values() + ids.offsets().sum() * 0 for ids in dist_input])

    def forward(self, compute: Any, context: Any, dist_input: Any) -> Any:
        """Look up rows, which are locked first if no prefetch has done so."""
        self._locations = self._prefetched.pop(0) if self._prefetched else self._lock(dist_input)
        self._locations.sum()
        return compute(context, dist_input)

    def backward(self) -> None:
        """Unlock the rows of the last forward pass."""
        assert self._locations is not None
        if self._prefetch_stream is not None:
            torch.cuda.current_stream().wait_stream(self._prefetch_stream)
        self.lxu_cache_locking_counter.sub_(self._locations.sum() * 0)
        self._locations = None
        if self._prefetch_stream is not None:
            self._prefetch_stream.wait_stream(torch.cuda.current_stream())


class _Driver:
    """Training of one rank that follows a list of epochs, as the loop of `Trainer` does.

    Args:
        context: Context of the run, whose model lies on the CPU.
        kind: "sparse_dist" or "prefetch".
        trace: Trace of the work.
    """

    def __init__(self, context: TrainContext, kind: str, trace: StreamTrace) -> None:
        self._context, self._trace = context, trace
        self._cache = _Cache() if kind == "prefetch" else None
        (collection,) = sharded_collections(context.model)
        assert collection is not None
        if self._cache is not None:
            collection.prefetch = self._cache.prefetch
            compute = type(collection).compute_and_output_dist
            collection.compute_and_output_dist = partial(self._cache.forward, partial(compute, collection))
        self.kernels = [] if self._cache is None else [self._cache]
        ranks = replace(context.ranks, device=CUDA)
        self._feeder = PipelinedFeeder(context.model, ranks, prefetch=self._cache is not None)
        self._step = 0

    def run(self, epochs: Sequence[_Epoch]) -> None:
        """Train the epochs."""
        for number, epoch in enumerate(epochs):
            with closing(self._context.loader.epoch(number)) as batches:
                self._feeder.begin(batches, len(epoch.after_steps) + 2 * epoch.is_cut)
                for after_step in epoch.after_steps:
                    self._step += 1
                    self._trace.step = f"step {self._step}"
                    self._train_step(pause=bool(after_step))
                    for action in after_step:
                        self._trace.step = f"{action} after step {self._step}"
                        self._evaluate() if action == "evaluation" else self._save()

    def _train_step(self, *, pause: bool) -> None:
        context = self._context
        batch, _ = self._feeder.next(self._step, pause=pause)
        weights_BK = loss_weights_BK(batch.in_space_BK, batch.weight_B)
        loss = StepLoss(context.losses, batch.labels_BK, weights_BK, lambda: torch.ones(len(context.losses)))
        _, sums_K = self._feeder.forward(batch, loss)
        sums_K.sum().backward()
        if self._cache is not None:
            self._cache.backward()
        context.optimizers.step()
        context.optimizers.combined.zero_grad()

    def _evaluate(self) -> None:
        with closing(self._context.evaluation_loader("valid").epoch(0)) as batches:
            for _, logits_BK, _ in score_batches(self._context.model, islice(batches, 2), CUDA):
                logits_BK.sum()

    def _save(self) -> None:
        for parameter in self._context.model.parameters():
            parameter.detach().clone()
        for kernel in self.kernels:
            kernel.lxu_cache_locking_counter.clone()


def _traces(config: RunConfig, kind: str, schedules: Sequence[Sequence[_Epoch]]) -> list[StreamTrace]:
    """Return the trace of rank 0 for each schedule."""
    traces: list[list[StreamTrace]] = [[] for _ in range(WORLD_SIZE)]
    kernels: dict[Any, Any] = {}

    def train(rank: int) -> None:
        context = build_context(config, ranks_of(rank, WORLD_SIZE))
        for schedule in schedules:
            with tracing(STREAMS, operators=rank == 0) as trace:
                driver = _Driver(context, kind, trace)
                kernels[sharded_collections(context.model)[0]] = driver.kernels
                driver.run(schedule)
            traces[rank].append(trace)

    with (
        fake_streams(),
        device_path(),
        patch.object(sparse_prefetch, "cached_kernels", lambda collection: kernels[collection]),
    ):
        for result in run_thread_ranks(train, StreamRecorder(WORLD_SIZE)):
            if isinstance(result, BaseException):
                raise result
    return traces[0]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    """Two runs whose batches together have every part of a `Batch` that a training step reads."""
    folder = tmp_path_factory.mktemp("streams")
    write_small(folder / "small")
    write_vectors(folder / "vectors")
    shardings = {"user": {"sharding": "row_wise"}, "item": {"sharding": "table_wise"}}
    small = {"embeddings": {"dim": 8, "pooling": "mean", "tables": shardings}}
    vectors = {"data": {"virtual_shards": 4, "request_features": ["user", "taste"]}}
    return [small_config(folder / "small", small), small_config(folder / "vectors", vectors)]


KINDS = ("sparse_dist", "prefetch")
_EPOCHS = st.builds(
    _Epoch,
    st.lists(st.sampled_from([(), (), ("evaluation",), ("save",)]), min_size=1, max_size=4).map(tuple),
    st.booleans(),
)


@pytest.mark.parametrize("kind", KINDS)
# An example takes seconds, so a smaller one that fails, too, is not looked for.
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(schedules=st.lists(st.lists(_EPOCHS, min_size=1, max_size=2), min_size=2, max_size=2))
def test_work_is_ordered_in_any_schedule(kind: str, configs: list[RunConfig], schedules: list[list[_Epoch]]) -> None:
    for trace in _traces(configs[0], kind, schedules):
        assert find_races(trace.shared_events()) == []
        assert {event.stream for event in trace.events} >= {"default", "copy", "exchange", "nccl"}


def test_each_wait_and_each_record_is_needed(configs: list[RunConfig]) -> None:
    """Without one of them, work is not ordered; a `KeyedJaggedTensor` records all its tensors, also unused ones."""
    sites: set[CallSite] = set()
    needed: set[CallSite] = set()
    for kind, config in (("sparse_dist", configs[0]), ("prefetch", configs[0]), ("sparse_dist", configs[1])):
        (trace,) = _traces(config, kind, [ALL])
        events = trace.shared_events()
        assert find_races(events) == []
        of_trace = {event.site for event in trace.events if event.site is not None}
        sites |= of_trace
        needed |= {site for site in of_trace - needed if find_races(events, without=site)}
    assert {site.call for site in sites} >= {
        "wait_stream",
        "record_stream vectors_BW",
        "record_stream requests.first_R",
        "record_stream weight_B",
    }
    assert {(site.call, site.function) for site in sites - needed} == UNNEEDED


def test_find_races_reports_a_missing_wait_and_memory_that_is_freed_too_early() -> None:
    """The search itself: work without a wait, and memory that is freed too early."""
    with fake_streams(), tracing(["copy"]) as trace:
        stream = torch.cuda.Stream(CUDA)
        with torch.cuda.stream(stream):
            values = torch.ones(3)
        values.sum()
        del values
    assert find_races(trace.events) == [
        ": sum on default is not ordered after ones () on copy",
        ": memory of copy is freed while sum () on default may use it",
    ]
