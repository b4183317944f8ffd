"""Division of rows into requests, so that a model computes what the rows of a request share only once.

The samples of one request, such as the videos that one user sees at a time, share some features, such as those of the
user. The configuration lists these shared features. Here a request is a run of consecutive rows that are equal in all
shared features. A column with the number of the request is not used: rows with the same number may differ in a shared
feature, and a result computed once for all of them would then be wrong for some. The end of a batch or of a row group
cuts a request into two.

Shape suffixes: N rows, S sparse features, B rows of a batch (with padding), R requests, V ids of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.data.arrow import AnyIdArray, BoolArray, FloatArray, IdArray, IntArray
from ple_rec.data.batch import Requests


class ListColumn(Protocol):
    """Multi-valued column (a bag, with any number of ids in a row), such as `ple_rec.data.columns.BagColumn`."""

    @property
    def offsets(self) -> IntArray:
        """N + 1 offsets: row i has the ids `values[offsets[i]:offsets[i + 1]]`.

        The first offset is above 0 if `values` begins with ids of earlier rows, as in a slice of a longer column.
        """

    @property
    def values(self) -> IdArray:
        """Ids of all rows, row by row."""

    @property
    def weights(self) -> FloatArray | None:
        """Weight of each id, in the order of `values`; None if the column has no weights."""


def request_starts(
    ids: Sequence[AnyIdArray], bags: Sequence[ListColumn], dense: Sequence[FloatArray | IdArray], rows: int
) -> BoolArray:
    """Return a flag for each row, True if the row begins a request.

    The first row begins a request, and so does every row that differs from the row before in one of the features.

    Args:
        ids: Shared single-valued features, each as an array with the id of every row, and the numbers that determine
            shared histories.
        bags: Shared multi-valued features.
        dense: Shared dense features, and the numbers of shared vectors, each as an array of N values; two missing
            values (NaN) count as equal.
        rows: Number of rows N.
    """
    starts_N = np.ones(rows, np.bool_)
    # A view: what is written to it is written to `starts_N`.
    differs = starts_N[1:]
    differs[:] = False
    for ids_N in ids:
        differs |= ids_N[1:] != ids_N[:-1]
    for x_N in dense:
        current, previous = x_N[1:], x_N[:-1]
        differs |= (current != previous) & ~(np.isnan(current) & np.isnan(previous))
    for bag in bags if rows else ():
        differs |= _bag_differs(bag)
    return starts_N


def _bag_differs(bag: ListColumn) -> BoolArray:
    """Return a flag for each row but the first, True if it has other ids or other weights than the row before."""
    lengths = np.diff(bag.offsets)
    # Distance in `values` from each id of a row to the id at the same index of the previous row. If a row is longer
    # than the previous one, its last ids are compared with wrong ones. Such rows differ anyway, by their lengths below.
    distance = np.repeat(np.append(0, lengths[:-1]), lengths)
    first = int(bag.offsets[0])
    values, index = bag.values[first:], np.arange(len(distance))
    differs_V = values[index] != values[index - distance]
    if bag.weights is not None:
        weights = bag.weights[first:]
        differs_V |= weights[index] != weights[index - distance]
    differences = np.append(0, np.cumsum(differs_V))[bag.offsets - first]
    differs: BoolArray = (np.diff(differences) > 0)[1:] | (lengths[1:] != lengths[:-1])
    return differs


def drop_repeated_ids(
    sparse: KeyedJaggedTensor, shared_S: Sequence[bool], starts_B: BoolArray, *, pin: bool = False
) -> KeyedJaggedTensor:
    """Return the ids of a batch, with those of shared features only in the first row of each request.

    The other rows of a request have no ids, that is length 0, in the shared features.

    Args:
        sparse: Ids of every row of the batch.
        shared_S: Flag for each key of `sparse`, in order; True if the samples of a request share the feature.
        starts_B: Flag for each row, True if the row begins a request.
        pin: True to put the result in page-locked memory.
    """
    lengths_SB = sparse.lengths().numpy().reshape(len(shared_S), -1)
    keep_SB = starts_B | ~np.array(shared_S, np.bool_)[:, None]
    keep_V = torch.from_numpy(np.repeat(keep_SB.ravel(), lengths_SB.ravel()))
    distinct_lengths_SB = lengths_SB * keep_SB
    weights = sparse.weights_or_none()
    distinct = KeyedJaggedTensor(
        keys=sparse.keys(),
        values=sparse.values()[keep_V],
        weights=None if weights is None else weights[keep_V],
        lengths=torch.from_numpy(distinct_lengths_SB.ravel()),
        stride=sparse.stride(),
        length_per_key=distinct_lengths_SB.sum(axis=1).tolist(),
    )
    return distinct.pin_memory() if pin else distinct


def build_requests(starts_B: BoolArray, *, pin: bool) -> Requests:
    """Return the index of the request of each row of a batch, and the first row of each request.

    Args:
        starts_B: Flag for each row, True if the row begins a request.
        pin: True to put the result in page-locked memory.
    """
    request_B, first_R = torch.from_numpy(np.cumsum(starts_B) - 1), torch.from_numpy(np.flatnonzero(starts_B))
    return Requests(request_B.pin_memory(), first_R.pin_memory()) if pin else Requests(request_B, first_R)
