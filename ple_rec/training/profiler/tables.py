"""Marks within the sharded tables, which are TorchRec's and FBGEMM's code: hooks, for as long as a profile lasts.

In the forward pass: input distribution, lookup, and output distribution until its result is waited for. In the
backward pass: gradient exchange, of the pooled rows and, at the end, DDP's wait for the dense gradients; and table
update, FBGEMM's backward, which holds the optimizer of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import LazyAwaitable

from ple_rec.distributed.sparse_prefetch import lookups_of, sharded_collection
from ple_rec.training.profiler.regions import RegionClocks


class TableMarks:
    """Hooks on the sharded collection of a model, until `remove`.

    Args:
        model: Sharded model.
        clocks: Clocks whose regions the hooks open and close.
    """

    def __init__(self, model: DistributedModelParallel, clocks: RegionClocks) -> None:
        self._clocks = clocks
        self._handles: list[Any] = []
        collection = sharded_collection(model)
        if collection is None:
            return
        self._handles += [
            collection.register_forward_pre_hook(self._before_collection),
            collection.register_forward_hook(self._after_collection),
        ]
        for lookup in lookups_of(collection):
            self._handles.append(lookup.register_forward_pre_hook(self._before_lookup))
            self._handles.append(lookup.register_forward_hook(self._after_lookup))

    def remove(self) -> None:
        """Take every hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before_collection(self, *_: Any) -> None:
        self._clocks.push("input distribution")

    def _before_lookup(self, *_: Any) -> None:
        self._clocks.pop("input distribution")
        self._clocks.pop("output distribution")  # of the lookup before
        self._clocks.push("lookup")

    def _after_lookup(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._clocks.pop("lookup")
        self._clocks.push("output distribution")
        if isinstance(output, torch.Tensor):
            for node in _lookup_nodes(output.grad_fn):
                node.register_prehook(lambda *_: self._clocks.push("table update"))
                node.register_hook(lambda *_: self._clocks.pop("table update"))

    def _after_collection(self, _module: nn.Module, _args: Any, output: Any) -> None:
        def arrived(pooled: Any) -> Any:
            self._clocks.pop("output distribution")
            values = pooled.values()
            if values.requires_grad:
                # What is left of backward then: exchange of these gradients, tables, and the wait for all the others.
                values.register_hook(lambda _: self._clocks.push_untraced("gradient exchange"))
            return pooled

        if isinstance(output, LazyAwaitable):
            output.callbacks.append(arrived)
        else:
            arrived(output)


def _lookup_nodes(node: Any) -> Iterator[Any]:
    """Yield FBGEMM's nodes of the graph behind an output, which is one node's or a concatenation of several."""
    if node is None:
        return
    if "Lookup" in node.name():
        yield node
        return
    for following, _ in node.next_functions:
        yield from _lookup_nodes(following)
