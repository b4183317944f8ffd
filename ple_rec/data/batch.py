"""`Batch`: what the loader gives and the model takes.

Shape suffixes: B batch (with padding), R requests, F dense features, K tasks, C slice columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Requests:
    """Which samples of a batch stand in one request: they are equal in all features that a request's samples share.

    Args:
        of_B: The request of each row, ascending from 0; padding rows stand in one of their own.
        first_R: The first row of each request.
    """

    of_B: Tensor
    first_R: Tensor

    def __len__(self) -> int:
        """R."""
        return len(self.first_R)

    def to(self, device: torch.device) -> Requests:
        """On `device`, as of `Batch`."""
        return Requests(self.of_B.to(device, non_blocking=True), self.first_R.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """As of `Batch`."""
        self.of_B.record_stream(stream)
        self.first_R.record_stream(stream)


@dataclass(frozen=True)
class Batch:
    """One rank's part of one step. A padding row is in no task's space, has weight 0 and no sparse ids.

    Args:
        sparse: Table rows by feature, None where the model reads no sparse feature.
        dense_BF: Raw dense features, NaN where missing.
        labels_BK: 0 where the sample is outside the task's space.
        in_space_BK: 1.0 where the label counts.
        weight_B: Sample weights, or None for 1 everywhere.
        group_B: Group of each row (for GAUC), -1 where it is null, or None.
        rows: How many of the B rows are no padding.
        slices_BC: Code of each row in each slice column (`ple_rec.data.slices`), or None. It stays on the host, which
            has to know how many rows each value has.
        requests: Requests of the batch and their rows, or None. With requests, only the first row of each has sparse
            ids of the features that its samples share.
    """

    sparse: KeyedJaggedTensor | None
    dense_BF: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor
    weight_B: Tensor | None
    group_B: Tensor | None
    rows: int
    slices_BC: Tensor | None = None
    requests: Requests | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; the host does not wait for copies from pinned memory."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            sparse=None if self.sparse is None else self.sparse.to(device, non_blocking=True),
            dense_BF=self.dense_BF.to(device, non_blocking=True),
            labels_BK=self.labels_BK.to(device, non_blocking=True),
            in_space_BK=self.in_space_BK.to(device, non_blocking=True),
            weight_B=None if self.weight_B is None else self.weight_B.to(device, non_blocking=True),
            group_B=None if self.group_B is None else self.group_B.to(device, non_blocking=True),
            requests=None if self.requests is None else self.requests.to(device),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator that `stream` uses the batch, so that it does not give its memory away before."""
        for part in (
            self.sparse,
            self.dense_BF,
            self.labels_BK,
            self.in_space_BK,
            self.weight_B,
            self.group_B,
            self.requests,
        ):
            if part is not None:
                part.record_stream(stream)
