"""Samples of one request: rows one after the other that are equal in all features which a request's samples share.

The rows themselves say so, whatever the column of a request's number holds, so that what is done once per request is
exact. Rows whose requests are cut, by a batch or a row group, are two requests.

Shape suffixes: N rows, S sparse features, B batch (with padding),
R requests, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.data.arrow import AnyIdArray, BoolArray, FloatArray, IdArray, IntArray
from ple_rec.data.batch import Requests


class Lists(Protocol):
    """A multi-valued column, as `ple_rec.data.columns.Bag`."""

    @property
    def offsets(self) -> IntArray:
        """Where the values of each row begin, and the last ones end."""

    @property
    def values(self) -> IdArray:
        """Ids of all rows."""

    @property
    def weights(self) -> FloatArray | None:
        """Of the ids."""


def starts_of(ids: Sequence[AnyIdArray], bags: Sequence[Lists], dense: Sequence[FloatArray], rows: int) -> BoolArray:
    """Return a flag of each row, true where it differs from the one before; the first one does.

    Args:
        ids: Single-valued features, a value of each row.
        bags: Multi-valued features.
        dense: Dense features; a missing value (NaN) equals another.
        rows: N.
    """
    starts_N = np.ones(rows, np.bool_)
    differs = starts_N[1:]
    differs[:] = False
    for ids_N in ids:
        differs |= ids_N[1:] != ids_N[:-1]
    for x_N in dense:
        now, before = x_N[1:], x_N[:-1]
        differs |= (now != before) & ~(np.isnan(now) & np.isnan(before))
    for bag in bags if rows else ():
        differs |= _bag_differs(bag)
    return starts_N


def _bag_differs(bag: Lists) -> BoolArray:
    """Of each row but the first."""
    lengths = np.diff(bag.offsets)
    # Where a value stands in the row before, if that is as long.
    back = np.repeat(np.append(0, lengths[:-1]), lengths)
    first = int(bag.offsets[0])
    values, at = bag.values[first:], np.arange(len(back))
    wrong = values[at] != values[at - back]
    if bag.weights is not None:
        weights = bag.weights[first:]
        wrong |= weights[at] != weights[at - back]
    wrongs = np.append(0, np.cumsum(wrong))[bag.offsets - first]
    differs: BoolArray = (np.diff(wrongs) > 0)[1:] | (lengths[1:] != lengths[:-1])
    return differs


def once(
    sparse: KeyedJaggedTensor, shared_S: Sequence[bool], starts_B: BoolArray, *, pin: bool = False
) -> KeyedJaggedTensor:
    """The ids of a batch, of shared features only those of the first sample of each request.

    Args:
        sparse: The ids of every sample.
        shared_S: Which features are shared, in the order of its keys.
        starts_B: Of each row, whether a request begins there.
        pin: Put them in page-locked memory.
    """
    lengths_SB = sparse.lengths().numpy().reshape(len(shared_S), -1)
    keep_SB = starts_B | ~np.array(shared_S, np.bool_)[:, None]
    keep_V = torch.from_numpy(np.repeat(keep_SB.ravel(), lengths_SB.ravel()))
    weights = sparse.weights_or_none()
    kept = KeyedJaggedTensor(
        keys=sparse.keys(),
        values=sparse.values()[keep_V],
        weights=None if weights is None else weights[keep_V],
        lengths=torch.from_numpy((lengths_SB * keep_SB).ravel()),
        stride=sparse.stride(),
    )
    return kept.pin_memory() if pin else kept


def requests_of(starts_B: BoolArray, *, pin: bool) -> Requests:
    """The requests that begin there."""
    of_B, first_R = torch.from_numpy(np.cumsum(starts_B) - 1), torch.from_numpy(np.flatnonzero(starts_B))
    return Requests(of_B.pin_memory(), first_R.pin_memory()) if pin else Requests(of_B, first_R)
