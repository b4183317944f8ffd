"""`Batch`, the input of a model: the samples of one rank in one step. `Loader` (`loader.py`) makes the batches.

A task is learned only from the samples of its sample space, the rows that have a label of the task. The samples of one
request, such as the items that one user sees at a time, share some features (`requests.py`). A slice column is a column
by which an evaluation divides the samples (`slices.py`).

Shape suffixes: B rows of the batch (with padding), R requests, F dense features, W numbers of all vectors, K tasks, C
slice columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Requests:
    """Requests of a batch. The samples of a request are equal in all features that they share.

    Args:
        request_B: Request of each row, ascending from 0; the padding rows form a request of their own.
        first_R: First row of each request.
    """

    request_B: Tensor
    first_R: Tensor

    def __len__(self) -> int:
        """Return the number of requests R."""
        return len(self.first_R)

    def to(self, device: torch.device) -> Requests:
        """Return the requests on `device`; the host does not wait for copies from pinned memory."""
        return Requests(self.request_B.to(device, non_blocking=True), self.first_R.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator that `stream` uses these tensors, so that it does not reuse their memory too early."""
        self.request_B.record_stream(stream)
        self.first_R.record_stream(stream)


@dataclass(frozen=True)
class Batch:
    """Samples of one rank in one step. A padding row is in no task's sample space, has weight 0 and no sparse ids.

    Args:
        sparse: Ids of each sparse feature, which are rows of its embedding table; None if the model reads none.
        dense_BF: Raw dense features, with NaN for missing values.
        labels_BK: Labels, with 0 for samples outside the task's sample space.
        in_space_BK: Flag of each sample and task, 1.0 in the task's sample space and 0.0 outside.
        weight_B: Sample weights; None if all are 1.
        group_B: Group of each row for GAUC (grouped AUC), with -1 for rows without a group; None if the run needs no
            groups.
        subgroup_B: Subgroup of each row, such as a day of a user, in the same form; None if the dataset has none.
        rows: Number of rows that are not padding.
        slices_BC: Code of each row in each slice column; None without slice columns. It stays on the host, which counts
            the rows of each value.
        vectors_BW: Vectors of all vector features side by side, NaN for missing ones; None if the model reads none.
        requests: Requests of the batch, or None. If present, only the first row of each request has sparse ids of the
            features that its samples share.
    """

    sparse: KeyedJaggedTensor | None
    dense_BF: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor
    weight_B: Tensor | None
    group_B: Tensor | None
    rows: int
    subgroup_B: Tensor | None = None
    slices_BC: Tensor | None = None
    vectors_BW: Tensor | None = None
    requests: Requests | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; the host does not wait for copies from pinned memory."""
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
            subgroup_B=None if self.subgroup_B is None else self.subgroup_B.to(device, non_blocking=True),
            vectors_BW=None if self.vectors_BW is None else self.vectors_BW.to(device, non_blocking=True),
            requests=None if self.requests is None else self.requests.to(device),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator that `stream` uses the batch, so that it does not reuse its memory too early."""
        for part in (
            self.sparse,
            self.dense_BF,
            self.labels_BK,
            self.in_space_BK,
            self.weight_B,
            self.group_B,
            self.subgroup_B,
            self.vectors_BW,
            self.requests,
        ):
            if part is not None:
                part.record_stream(stream)
