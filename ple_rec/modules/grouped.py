"""Inputs x grouped by request: columns that the samples of a request share are stored and multiplied once per request.

The samples of a request, for example the items that a user sees at one time, have consecutive rows in a batch.

    W x_b = W_U x_r(b)U + W_I x_bI          r(b) the request of sample b

Shape suffixes: B batch, R requests, D width of x, U shared columns of x, I the other columns, N any number of rows or
width of a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# With fewer samples per request on average, a second product costs more than it saves.
_MIN_SAMPLES_PER_REQUEST = 2


class SharedColumns:
    """Division of the columns of x into those that the samples of a request share, and the others.

    Args:
        features: Pair of each feature, in the order of x: True if the samples of a request share it, and its number of
            columns.

    Attributes:
        runs: The same pairs, where consecutive features with equal flags are merged into one pair.
    """

    def __init__(self, features: Iterable[tuple[bool, int]]) -> None:
        runs = groupby(features, key=itemgetter(0))
        self.runs = tuple((shared, sum(width for _, width in run)) for shared, run in runs)
        self._shared = [shared for shared, _ in self.runs]
        self._lengths = [length for _, length in self.runs]
        self.width = sum(self._lengths)

    def split(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shared columns (N, U) and the others (N, I)."""
        pieces = x_ND.split(self._lengths, dim=1)
        return self._join_pieces(pieces, True), self._join_pieces(pieces, False)

    def join(self, x_NU: Tensor, x_NI: Tensor) -> Tensor:
        """Put shared and other columns back into the order of x. This is the inverse of `split`."""
        pieces = {
            is_shared: iter(
                part.split([n for n, flag in zip(self._lengths, self._shared, strict=True) if flag is is_shared], 1)
            )
            for is_shared, part in ((True, x_NU), (False, x_NI))
        }
        return torch.cat([next(pieces[shared]) for shared in self._shared], dim=1)

    def _join_pieces(self, pieces: Sequence[Tensor], is_shared: bool) -> Tensor:
        selected = [piece for piece, flag in zip(pieces, self._shared, strict=True) if flag is is_shared]
        return torch.cat(selected or [pieces[0][:, :0]], dim=1)


@dataclass(frozen=True)
class GroupedInputs:
    """Inputs x_BD of samples that are grouped by request.

    Args:
        shared_RU: Shared columns, once per request.
        own_BI: Other columns of each sample.
        request_B: Index of the request of each sample, ascending from 0.
        first_R: Index of the first sample of each request.
        columns: Division of the columns of x.
    """

    shared_RU: Tensor
    own_BI: Tensor
    request_B: Tensor
    first_R: Tensor
    columns: SharedColumns

    @classmethod
    def from_tensor(cls, x_BD: Tensor, request_B: Tensor, first_R: Tensor, columns: SharedColumns) -> GroupedInputs:
        """Group x_BD; the shared columns are taken from the first sample of each request."""
        shared_RU, own_BI = _SplitByRequest.apply(x_BD, first_R, columns)  # type: ignore[no-untyped-call]
        return cls(shared_RU, own_BI, request_B, first_R, columns)

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.request_B)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.own_BI.device

    def slice_samples(self, rows: slice) -> tuple[GroupedInputs, slice]:
        """Return the inputs of a slice of the samples, and the slice of their requests."""
        # With a single request, or without samples, the slice of requests is known; else its ends are read from the
        # device.
        request_B, first_R, requests = self.request_B[rows], self.first_R, slice(0, 1)
        if len(first_R) > 1 and len(request_B):
            requests = slice(int(request_B[0]), int(request_B[-1]) + 1)
            request_B, first_R = request_B - requests.start, (first_R[requests] - rows.start).clamp(min=0)
        return GroupedInputs(self.shared_RU[requests], self.own_BI[rows], request_B, first_R, self.columns), requests

    def saves_products(self) -> bool:
        """Return True if there are shared columns, and enough samples per request that a second product pays off."""
        return self.shared_RU.shape[1] > 0 and len(self.first_R) * _MIN_SAMPLES_PER_REQUEST <= len(self)

    def ungroup(self) -> Tensor:
        """Return x_BD, with the shared columns repeated for each sample."""
        return self.columns.join(repeat_by_request(self.shared_RU, self.request_B, self.first_R), self.own_BI)


Inputs = Tensor | GroupedInputs


def repeat_by_request(x_RN: Tensor, request_B: Tensor, first_R: Tensor) -> Tensor:
    """Return x_BN, which repeats the row of each request for each of its samples."""
    if not torch.is_grad_enabled():
        return x_RN.index_select(0, request_B)
    x_BN: Tensor = _RepeatByRequest.apply(x_RN, request_B, first_R)  # type: ignore[no-untyped-call]
    return x_BN


def sum_requests(x_BN: Tensor, first_R: Tensor) -> Tensor:
    """Return x_RN, the sums over the samples of each request, in the samples' order. It has no gradient."""
    return F.embedding_bag(torch.arange(len(x_BN), device=x_BN.device), x_BN.contiguous(), first_R, mode="sum")


def linear(x: Inputs, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return x W^T + b, as `F.linear` does, with one product per request for shared columns."""
    if isinstance(x, Tensor):
        return F.linear(x, weight_ND, bias_N)
    weight_NU, weight_NI = x.columns.split(weight_ND)
    return repeat_by_request(F.linear(x.shared_RU, weight_NU, bias_N), x.request_B, x.first_R) + F.linear(
        x.own_BI, weight_NI
    )


def input_tensors(x: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of x that may have a gradient; for `GroupedInputs`, the shared columns come first."""
    return (x,) if isinstance(x, Tensor) else (x.shared_RU, x.own_BI)


def replace_tensors(x: Inputs, parts: Sequence[Tensor]) -> Inputs:
    """Return x with other tensors in the place of `input_tensors(x)`."""
    return parts[0] if isinstance(x, Tensor) else replace(x, shared_RU=parts[0], own_BI=parts[1])


def slice_inputs(x: Inputs, rows: slice) -> tuple[Inputs, tuple[slice, ...]]:
    """Return the inputs of a slice of the samples, and for each of `input_tensors(x)` the slice of its rows.

    Slices of different samples may have a request in common.
    """
    if isinstance(x, Tensor):
        return x[rows], (rows,)
    piece, requests = x.slice_samples(rows)
    return piece, (requests, rows)


class _RepeatByRequest(torch.autograd.Function):
    """`repeat_by_request`, whose gradient is `sum_requests`."""

    @staticmethod
    def forward(ctx: Any, x_RN: Tensor, request_B: Tensor, first_R: Tensor) -> Tensor:
        ctx.save_for_backward(first_R)
        return x_RN.index_select(0, request_B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return sum_requests(grads[0], *ctx.saved_tensors), None, None


class _SplitByRequest(torch.autograd.Function):
    """Shared columns of the first sample of each request, and the other columns of all samples."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, first_R: Tensor, columns: SharedColumns) -> tuple[Tensor, Tensor]:
        ctx.columns = columns
        ctx.save_for_backward(first_R)
        shared_RU, _ = columns.split(x_BD.index_select(0, first_R))
        _, own_BI = columns.split(x_BD)
        return shared_RU, own_BI

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (first_R,) = ctx.saved_tensors
        shared_RU, own_BI = grads
        shared_BU = own_BI.new_zeros(len(own_BI), shared_RU.shape[1]).index_copy_(0, first_R, shared_RU)
        return ctx.columns.join(shared_BU, own_BI), None, None
