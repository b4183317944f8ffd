"""Hash table with linear probing, from the raw values of a vocabulary to their rows 1 to n in an embedding table.

The hash table consists of two arrays, which may be mapped from files (`vocabulary_index.py`):

    slots_M   row that is stored in each of the M = 2 n + 1 slots; 0 for an empty slot
    keys_R    key of each of the rows 1 .. n; the entries of row 0 and of rows without a value are unused

The search for a key starts at slot ((h(key) >> 32) M) >> 32, where h is `mix_bits`. It goes from slot to slot until it
finds a row with this key or an empty slot. Frequent values have low rows, so their keys lie close together, in few
pages of memory.

The key of an integer is the integer. The key of a text is a hash of it (`text_keys`). Different texts may have the same
key, so `find` and `insert` call a function that compares the texts.

Shape suffixes: N keys of one call, M slots, R = n + 1 rows with row 0.
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

# Number of keys that are looked up at a time, so that the intermediate arrays stay in the processor's cache.
CHUNK = 1 << 16
SLOTS_PER_KEY = 2


def mix_bits(x: Hashes) -> Hashes:
    """Return x under a bijection in which every bit of x affects all 64 bits (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def text_keys(offsets: Keys, text: Bytes) -> Keys:
    """Return a key for each text: a hash of its length and its bytes, of which eight at a time are mixed in.

    Args:
        offsets: Offsets of the texts; text i is `text[offsets[i]:offsets[i + 1]]`.
        text: Bytes of all texts, one text after the other.
    """
    # Two words more than whole ones, since the loop reads two words, of which the last may begin after `text`.
    words = np.zeros(len(text) // 8 + 2, np.uint64)
    words.view(np.uint8)[: len(text)] = text
    starts, lengths = offsets[:-1], np.diff(offsets)
    keys = mix_bits(lengths.astype(np.uint64))
    active = np.flatnonzero(lengths > 0)
    done = 0
    while len(active):
        position = starts[active] + done
        remaining = lengths[active] - done
        shift = ((position & 7) << 3).astype(np.uint64)
        # The eight bytes at an unaligned position are parts of two words. In NumPy, a shift by 64 bits gives 0.
        word = words[position >> 3] >> shift | words[(position >> 3) + 1] << (np.uint64(64) - shift)
        word &= ~np.uint64(0) >> (64 - 8 * np.minimum(remaining, 8)).astype(np.uint64)
        keys[active] = mix_bits(keys[active] ^ word)
        done += 8
        active = active[remaining > 8]
    return keys.view(np.int64)


def slot_count(count: int) -> int:
    """Return the number of slots M of a table of `count` keys."""
    return SLOTS_PER_KEY * count + 1


def find(slots_M: Rows, keys_R: Keys, keys_N: Keys, equal_values: EqualValues | None = None) -> Rows:
    """Return the row of each key, or 0 if the table does not contain it.

    Args:
        slots_M: Slots of the table.
        keys_R: Keys of the table.
        keys_N: Keys to look up.
        equal_values: Function that compares values with equal keys. It is called with positions in `keys_N` and a row
            for each, and returns a flag for each pair, True if their values are equal. None if keys are unique.
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


def insert(slots_M: Rows, keys_R: Keys, rows_N: Rows, equal_values: EqualValues | None = None) -> int | None:
    """Insert rows into the table, unless two rows have the same value.

    Args:
        slots_M: Slots of the table.
        keys_R: Keys of the table, those of the new rows included.
        rows_N: Rows to insert.
        equal_values: Function that compares values with equal keys, as in `find`; its positions are those in `rows_N`.

    Returns:
        Row that has the same value as an earlier row; None if all values differ. If a row is returned, the table is
        incomplete.
    """
    remaining = np.arange(len(rows_N))
    slot = _first_slot(keys_R[rows_N], len(slots_M))
    while len(remaining):
        rows = rows_N[remaining]
        occupants = slots_M[slot]
        duplicate = (keys_R[occupants] == keys_R[rows]) & (occupants != 0)
        if equal_values is not None and duplicate.any():
            (same_key,) = duplicate.nonzero()
            duplicate[same_key] = equal_values(remaining[same_key], occupants[same_key])
        if duplicate.any():
            return int(np.maximum(rows, occupants)[duplicate].min())
        free = occupants == 0
        # If several rows are written to one slot, one of them remains, and the others try the next slot.
        slots_M[slot[free]] = rows[free]
        inserted = slots_M[slot] == rows
        slot[~free] = _next_slot(slot[~free], len(slots_M))
        remaining, slot = remaining[~inserted], slot[~inserted]
    return None


def _first_slot(keys: Keys, slots: int) -> NDArray[np.int64]:
    high = mix_bits(keys.view(np.uint64)) >> np.uint64(32)
    return (high * np.uint64(slots) >> np.uint64(32)).view(np.int64)


def _next_slot(slot: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    following = slot + 1
    following[following == slots] = 0
    return following
