"""Key -> row of an embedding table, by a hash table in memory-mapped files.

    slots_M   row of the key that stands in each of M = 2 n slots, 0 where none does
    keys_R    key of each row 1 .. n; that of row 0 means nothing

A key is sought from slot h(key) M / 2^64 on, until its row or an empty slot is met. Frequent values have small rows,
so what is read most often stands together, in memory pages that processes share.

Shapes: N keys sought at once, M slots, R rows and row 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Rows = NDArray[np.int32]
Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Same = Callable[[NDArray[np.intp], Rows], NDArray[np.bool_]]

CHUNK = 1 << 16  # keys sought at a time, so that what belongs to them stays in the processor's cache
SLOTS_PER_KEY = 2


def mixed(x: Hashes) -> Hashes:
    """A bijection of 64 bits that spreads every bit over all (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_keys(offsets: Keys, text: Bytes) -> Keys:
    """A key for each text, from its length and from its bytes eight at a time.

    Args:
        offsets: Text i is `text[offsets[i]:offsets[i + 1]]`.
        text: All bytes.
    """
    words = np.zeros(len(text) // 8 + 2, np.uint64)  # a text may be read beyond its end
    words.view(np.uint8)[: len(text)] = text
    starts, lengths = offsets[:-1], np.diff(offsets)
    keys = mixed(lengths.astype(np.uint64))
    active = np.flatnonzero(lengths > 0)
    done = 0
    while len(active):
        place = starts[active] + done
        left = lengths[active] - done
        shift = ((place & 7) << 3).astype(np.uint64)
        word = words[place >> 3] >> shift | words[(place >> 3) + 1] << (np.uint64(64) - shift)  # << 64 is 0
        word &= ~np.uint64(0) >> (64 - 8 * np.minimum(left, 8)).astype(np.uint64)
        keys[active] = mixed(keys[active] ^ word)
        done += 8
        active = active[left > 8]
    return keys.view(np.int64)


def slots_for(count: int) -> int:
    """M of `count` keys."""
    return SLOTS_PER_KEY * count + 1


def find(slots_M: Rows, keys_R: Keys, wanted_N: Keys, same: Same | None = None) -> Rows:
    """The row of each key, 0 where it has none.

    Args:
        slots_M: Of the table.
        keys_R: Of the table.
        wanted_N: The keys.
        same: Whether the value at a place of `wanted_N` is that of a row whose key is the same; without, it is.
    """
    rows_N = np.empty(len(wanted_N), np.int32)
    for begin in range(0, len(wanted_N), CHUNK):
        place = np.arange(begin, min(begin + CHUNK, len(wanted_N)))
        slot = _home(wanted_N[begin : begin + CHUNK], len(slots_M))
        while len(place):
            rows_N[place] = rows = slots_M[slot]
            other = keys_R[rows] != wanted_N[place]
            if same is not None:
                (at,) = (~other & (rows != 0)).nonzero()
                other[at] = ~same(place[at], rows[at])
            other &= rows != 0
            place, slot = place[other], _next(slot[other], len(slots_M))
    return rows_N


def insert(slots_M: Rows, keys_R: Keys, first: int, count: int, same: Same | None = None) -> int | None:
    """Put rows `first .. first + count - 1`, whose keys stand in `keys_R`, into the table.

    Args:
        slots_M: Of the table.
        keys_R: Of the table.
        first: The first row.
        count: How many.
        same: Whether the value of row `first + i` is that of another row of the same key; without, it is.

    Returns:
        A row whose value an earlier row has, if there is one.
    """
    left = np.arange(count)
    slot = _home(keys_R[first : first + count], len(slots_M))
    while len(left):
        rows = (first + left).astype(np.int32)
        met = slots_M[slot]
        known = (keys_R[met] == keys_R[rows]) & (met != 0)
        if same is not None and known.any():
            (at,) = known.nonzero()
            known[at] = same(left[at], met[at])
        if known.any():
            return int(np.maximum(rows, met)[known].min())
        free = met == 0
        slots_M[slot[free]] = rows[free]  # of several that want a slot, one gets it
        stays = slots_M[slot] == rows
        taken = ~free
        slot[taken] = _next(slot[taken], len(slots_M))
        left, slot = left[~stays], slot[~stays]
    return None


def _home(keys: Keys, slots: int) -> NDArray[np.int64]:
    high = mixed(keys.view(np.uint64)) >> np.uint64(32)
    return (high * np.uint64(slots) >> np.uint64(32)).view(np.int64)


def _next(slot: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    following = slot + 1
    following[following == slots] = 0
    return following
