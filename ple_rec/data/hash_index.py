"""Hash table from keys to rows of an embedding table in memory-mapped arrays, and integer keys of texts.

    slots_M   row of the key in each of the M = 2 n + 1 slots; 0 marks an empty slot
    keys_R    key of each of the rows 1 .. n; the entry of row 0 is unused

The search for a key starts at slot ((h(key) >> 32) M) >> 32 and goes to the next slot until it meets the key's row or
an empty slot. Frequent values have low rows, so their keys lie close together, in memory pages that processes share.

An integer is its own key. Different texts may have the same key, so their table also compares the texts.

Shapes: N keys of one call, M slots, R = n + 1 rows with row 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Rows = NDArray[np.int32]
Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
EqualValues = Callable[[NDArray[np.intp], Rows], NDArray[np.bool_]]

# Keys are looked up in chunks so that the arrays of a chunk stay in the processor's cache.
CHUNK = 1 << 16
SLOTS_PER_KEY = 2


def mix_bits(x: Hashes) -> Hashes:
    """Return x under a bijection in which every bit of x affects all 64 bits (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_keys(offsets: Keys, text: Bytes) -> Keys:
    """Return a key for each text: a hash of its length and of its bytes, eight at a time.

    Args:
        offsets: Offsets of the texts; text i is `text[offsets[i]:offsets[i + 1]]`.
        text: Bytes of all texts, one text after the other.
    """
    # The last eight bytes of a text may reach beyond the end of `text`.
    words = np.zeros(len(text) // 8 + 2, np.uint64)
    words.view(np.uint8)[: len(text)] = text
    starts, lengths = offsets[:-1], np.diff(offsets)
    keys = mix_bits(lengths.astype(np.uint64))
    active = np.flatnonzero(lengths > 0)
    done = 0
    while len(active):
        position = starts[active] + done
        left = lengths[active] - done
        shift = ((position & 7) << 3).astype(np.uint64)
        # A shift by 64 bits gives 0 in NumPy.
        word = words[position >> 3] >> shift | words[(position >> 3) + 1] << (np.uint64(64) - shift)
        word &= ~np.uint64(0) >> (64 - 8 * np.minimum(left, 8)).astype(np.uint64)
        keys[active] = mix_bits(keys[active] ^ word)
        done += 8
        active = active[left > 8]
    return keys.view(np.int64)


def slots_for(count: int) -> int:
    """Return the number of slots M of a table of `count` keys."""
    return SLOTS_PER_KEY * count + 1


def find(slots_M: Rows, keys_R: Keys, keys_N: Keys, equal_values: EqualValues | None = None) -> Rows:
    """Return the row of each key, 0 if the table does not contain it.

    Args:
        slots_M: Slots of the table.
        keys_R: Keys of the table.
        keys_N: Keys to look up.
        equal_values: Function from positions in `keys_N` and rows with the same keys to flags, True if their values are
            equal too, or None if equal keys mean equal values.
    """
    rows_N = np.empty(len(keys_N), np.int32)
    for begin in range(0, len(keys_N), CHUNK):
        position = np.arange(begin, min(begin + CHUNK, len(keys_N)))
        slot = _first_slot(keys_N[begin : begin + CHUNK], len(slots_M))
        while len(position):
            rows_N[position] = rows = slots_M[slot]
            differs = keys_R[rows] != keys_N[position]
            if equal_values is not None:
                (same_key,) = (~differs & (rows != 0)).nonzero()
                differs[same_key] = ~equal_values(position[same_key], rows[same_key])
            differs &= rows != 0
            position, slot = position[differs], _next_slot(slot[differs], len(slots_M))
    return rows_N


def insert(slots_M: Rows, keys_R: Keys, first: int, count: int, equal_values: EqualValues | None = None) -> int | None:
    """Insert the rows `first .. first + count - 1` into the table, and stop at a value that it already contains.

    Args:
        slots_M: Slots of the table.
        keys_R: Keys of the table, those of the new rows included.
        first: First row to insert.
        count: Number of rows to insert.
        equal_values: Function from row numbers relative to `first` and rows with the same keys to flags, True if their
            values are equal too, or None if equal keys mean equal values.

    Returns:
        Row whose value an earlier row has too, or None if all values differ.
    """
    left = np.arange(count)
    slot = _first_slot(keys_R[first : first + count], len(slots_M))
    while len(left):
        rows = (first + left).astype(np.int32)
        occupants = slots_M[slot]
        duplicate = (keys_R[occupants] == keys_R[rows]) & (occupants != 0)
        if equal_values is not None and duplicate.any():
            (same_key,) = duplicate.nonzero()
            duplicate[same_key] = equal_values(left[same_key], occupants[same_key])
        if duplicate.any():
            return int(np.maximum(rows, occupants)[duplicate].min())
        free = occupants == 0
        # If several rows are written to one slot, one of them stays, and the others try again.
        slots_M[slot[free]] = rows[free]
        inserted = slots_M[slot] == rows
        slot[~free] = _next_slot(slot[~free], len(slots_M))
        left, slot = left[~inserted], slot[~inserted]
    return None


def _first_slot(keys: Keys, slots: int) -> NDArray[np.int64]:
    high = mix_bits(keys.view(np.uint64)) >> np.uint64(32)
    return (high * np.uint64(slots) >> np.uint64(32)).view(np.int64)


def _next_slot(slot: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    following = slot + 1
    following[following == slots] = 0
    return following
