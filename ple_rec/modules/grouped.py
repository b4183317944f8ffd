"""x of samples that stand in requests: what the samples of a request share is held, and multiplied, once per request.

    W x_b = W_U x_of(b)U + W_I x_bI          of(b) the request of sample b

Shape suffixes: B batch, R requests, D width of x, U its columns that the samples of a request share, I the others,
N width of a product.
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

_FEW_SAMPLES = 2  # of a request, on average


class SharedColumns:
    """Which columns of x the samples of a request share.

    Args:
        features: Flag of each feature that the samples of a request share it, and its number of columns, in the order
            of x.

    Attributes:
        runs: The same, with neighbours of one flag as one.
    """

    def __init__(self, features: Iterable[tuple[bool, int]]) -> None:
        runs = groupby(features, key=itemgetter(0))
        self.runs = tuple((shared, sum(width for _, width in run)) for shared, run in runs)
        self._shared = [shared for shared, _ in self.runs]
        self._lengths = [length for _, length in self.runs]
        self.width = sum(self._lengths)

    def parts(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, U) and (N, I): the shared columns, and the others."""
        pieces = x_ND.split(self._lengths, dim=1)
        return self._side_by_side(pieces, True), self._side_by_side(pieces, False)

    def join(self, x_NU: Tensor, x_NI: Tensor) -> Tensor:
        """The inverse of `parts`."""
        pieces = {
            wanted: iter(
                part.split([n for n, shared in zip(self._lengths, self._shared, strict=True) if shared is wanted], 1)
            )
            for wanted, part in ((True, x_NU), (False, x_NI))
        }
        return torch.cat([next(pieces[shared]) for shared in self._shared], dim=1)

    def _side_by_side(self, pieces: Sequence[Tensor], wanted: bool) -> Tensor:
        chosen = [piece for piece, shared in zip(pieces, self._shared, strict=True) if shared is wanted]
        return torch.cat(chosen or [pieces[0][:, :0]], dim=1)


@dataclass(frozen=True)
class Grouped:
    """x_BD of samples in requests.

    Args:
        shared_RU: The shared columns, once per request.
        own_BI: The others.
        of_B: The request of each sample, ascending from 0.
        first_R: The first sample of each request.
        columns: Of x.
    """

    shared_RU: Tensor
    own_BI: Tensor
    of_B: Tensor
    first_R: Tensor
    columns: SharedColumns

    @classmethod
    def of(cls, x_BD: Tensor, of_B: Tensor, first_R: Tensor, columns: SharedColumns) -> Grouped:
        """From x, whose shared columns need only be right at the first sample of each request."""
        shared_RU, own_BI = _TakenApart.apply(x_BD, first_R, columns)  # type: ignore[no-untyped-call]
        return cls(shared_RU, own_BI, of_B, first_R, columns)

    def __len__(self) -> int:
        """B."""
        return len(self.of_B)

    @property
    def device(self) -> torch.device:
        """Of all parts."""
        return self.own_BI.device

    def piece(self, rows: slice) -> tuple[Grouped, slice]:
        """Some samples in a row, and their requests."""
        of_B, first_R, requests = self.of_B[rows], self.first_R, slice(0, 1)
        if len(first_R) > 1 and len(of_B):
            requests = slice(int(of_B[0]), int(of_B[-1]) + 1)
            of_B, first_R = of_B - requests.start, (first_R[requests] - rows.start).clamp(min=0)
        return Grouped(self.shared_RU[requests], self.own_BI[rows], of_B, first_R, self.columns), requests

    def saves_products(self) -> bool:
        """Tell whether samples share columns, and requests have so many samples each that a second product pays."""
        return self.shared_RU.shape[1] > 0 and len(self.first_R) * _FEW_SAMPLES <= len(self)

    def whole(self) -> Tensor:
        """x_BD."""
        return self.columns.join(spread(self.shared_RU, self.of_B, self.first_R), self.own_BI)


Inputs = Tensor | Grouped


def spread(x_RN: Tensor, of_B: Tensor, first_R: Tensor) -> Tensor:
    """x_BN: each request's row for each of its samples."""
    if not torch.is_grad_enabled():
        return x_RN.index_select(0, of_B)
    x_BN: Tensor = _Spread.apply(x_RN, of_B, first_R)  # type: ignore[no-untyped-call]
    return x_BN


def sum_requests(x_BN: Tensor, first_R: Tensor) -> Tensor:
    """x_RN: the sum over the samples of each request, in their order; without a gradient."""
    return F.embedding_bag(torch.arange(len(x_BN), device=x_BN.device), x_BN.contiguous(), first_R, mode="sum")


def linear(x: Inputs, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`F.linear`."""
    if isinstance(x, Tensor):
        return F.linear(x, weight_ND, bias_N)
    weight_NU, weight_NI = x.columns.parts(weight_ND)
    return spread(F.linear(x.shared_RU, weight_NU, bias_N), x.of_B, x.first_R) + F.linear(x.own_BI, weight_NI)


def parts_of(x: Inputs) -> tuple[Tensor, ...]:
    """What of x may have a gradient; of `Grouped`, the shared columns come first."""
    return (x,) if isinstance(x, Tensor) else (x.shared_RU, x.own_BI)


def with_parts(x: Inputs, parts: Sequence[Tensor]) -> Inputs:
    """The inverse of `parts_of`: x with other values."""
    return parts[0] if isinstance(x, Tensor) else replace(x, shared_RU=parts[0], own_BI=parts[1])


def cut(x: Inputs, rows: slice) -> tuple[Inputs, tuple[slice, ...]]:
    """Some samples in a row, and where their parts stand in those of x. A request may stand in several such pieces."""
    if isinstance(x, Tensor):
        return x[rows], (rows,)
    piece, requests = x.piece(rows)
    return piece, (requests, rows)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RN: Tensor, of_B: Tensor, first_R: Tensor) -> Tensor:
        ctx.save_for_backward(first_R)
        return x_RN.index_select(0, of_B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return sum_requests(grads[0], *ctx.saved_tensors), None, None


class _TakenApart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, first_R: Tensor, columns: SharedColumns) -> tuple[Tensor, Tensor]:
        ctx.columns = columns
        ctx.save_for_backward(first_R)
        shared_RU, _ = columns.parts(x_BD.index_select(0, first_R))
        _, own_BI = columns.parts(x_BD)
        return shared_RU, own_BI

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (first_R,) = ctx.saved_tensors
        shared_RU, own_BI = grads
        shared_BU = own_BI.new_zeros(len(own_BI), shared_RU.shape[1]).index_copy_(0, first_R, shared_RU)
        return ctx.columns.join(shared_BU, own_BI), None, None
