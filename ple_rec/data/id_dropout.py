"""Id dropout: training replaces a share of the ids of a feature by row 0, the row of missing and unknown values.

    id_ij <- 0 if u_ij < p_j, else id_ij        u_ij ~ U(0, 1) of sample i and feature j; p_j is the share of feature j

The number u_ij depends on the seed, the epoch, the row group, the feature and the position of the sample in the file.
It does not depend on the number of ranks, on the layout of the batches, or on the step at which a run resumes.

In a bag (a feature with any number of ids in a row), each id has a number of its own, because values that serving does
not know come one by one too: the bag keeps its length, its weights and its other ids. All rows of a request
(`requests.py`) have the ids of its first row in the features that they share, so that these stay equal.

The ids of a history are looked up when a batch is made, so their numbers u depend on the seed, the epoch, the feature,
the event and the time of the row instead (`HistoryDropout`). An event keeps its age.

Shape suffixes: N rows of a row group, V ids of a bag column.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ple_rec.data.arrow import AnyIdArray, BoolArray
from ple_rec.data.columns import BagColumn, DecodedRows
from ple_rec.data.histories import HistoryDropout


def drop_ids(
    decoded: DecodedRows, shares: Mapping[str, float], *, seed: int, epoch: int, row_group: int
) -> DecodedRows:
    """Return the columns of a row group in which ids are replaced by row 0 at random.

    Args:
        decoded: Columns of the row group, in file order.
        shares: Share of the ids to replace, by name of the feature; other features keep their ids.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        row_group: Index of the row group in the split.
    """
    selection = decoded.selection

    def keeps(feature: str, count: int) -> BoolArray:
        """Return a flag for each id of a feature, False if row 0 replaces it."""
        generator = np.random.default_rng([seed, epoch, row_group + 1, zlib.crc32(feature.encode())])
        flags: BoolArray = generator.random(count, dtype=np.float32) >= shares[feature]
        return flags

    # Row whose ids a row has in shared features: the first one of its request.
    first_N = np.arange(decoded.rows)
    if selection.requests:
        first_N = np.maximum.accumulate(np.where(decoded.request_starts(), first_N, 0))

    ids: list[AnyIdArray] = list(decoded.ids)
    for i, feature in enumerate(selection.single):
        if feature.name in shares:
            ids[i] = ids[i] * keeps(feature.name, len(ids[i]))
            ids[i] = ids[i][first_N] if feature.name in selection.requests else ids[i]
    bags: list[BagColumn] = list(decoded.bags)
    for i, feature in enumerate(selection.bags):
        if feature.name in shares:
            bags[i] = replace(bags[i], values=bags[i].values * keeps(feature.name, len(bags[i].values)))
            bags[i] = bags[i].take(first_N) if feature.name in selection.requests else bags[i]
    dropout = HistoryDropout(seed, epoch, shares)
    histories = tuple(replace(history, dropout=dropout) for history in decoded.histories)
    return replace(decoded, ids=tuple(ids), bags=tuple(bags), histories=histories)
