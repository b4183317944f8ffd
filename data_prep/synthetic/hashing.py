"""Random bits as a function of a key and an index, so that any process can generate any row without the others.

A word is 64 random bits. Words are computed in integer arithmetic modulo 2^64, so they are the same on every
(little-endian) machine. `Bijection` is a random permutation of integers that is computed without a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# Constants of SplitMix64.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_UNIT_24 = np.float32(2.0**-24)
_UNIT_16 = np.float32(2.0**-16)


def stream_key(*parts: object) -> int:
    """Return the 64-bit key of a stream of random bits, a hash of the parts as text, such as a seed and a purpose."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def random_bits(key: int, index: I64 | U64) -> U64:
    """Return a word of 64 random bits for every index: SplitMix64 at counter `index`, started at `key`.

    Args:
        key: Key of the stream, from `stream_key`.
        index: Integers from 0, of any shape.

    Returns:
        New array of the same shape.
    """
    x = index.astype(np.uint64)
    x *= _GOLDEN
    x += np.uint64(key)
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


def uniform64(words: U64) -> F64:
    """Return a uniform number in [0, 1) from the upper 53 bits of each word."""
    out: F64 = (words >> np.uint64(11)).astype(np.float64)
    out *= 2.0**-53
    return out


def uniform32(words: U64) -> tuple[F32, F32]:
    """Return two independent uniform numbers in [0, 1) from each word, each from 24 bits."""
    high = (words >> np.uint64(40)).astype(np.float32)
    low = (words & np.uint64(0xFFFFFF)).astype(np.float32)
    return high * _UNIT_24, low * _UNIT_24


def uniform16(words: U64, lane: int) -> F32:
    """Return a uniform number in [0, 1) from 16 bits of each word: the lowest for `lane` 0, the highest for 3."""
    return words.view(np.uint16).reshape(len(words), 4)[:, lane].astype(np.float32) * _UNIT_16


def byte_of_word(words: U64, lane: int) -> NDArray[np.uint8]:
    """Return byte `lane` of each word, where 0 is the lowest and 7 the highest, as a view."""
    return words.view(np.uint8).reshape(len(words), 8)[:, lane]


@dataclass(frozen=True)
class Bijection:
    """Random permutation of 0 .. size - 1, with its inverse, that needs no table.

    Let k >= 1 be the least number with size <= 2^k, and h = (k + 1) // 2. Three rounds of x ^= x >> h and
    x = (odd x + add) mod 2^k, each with constants of its own, and a last x ^= x >> h permute 0 .. 2^k - 1. Where the
    result is not below `size`, all of this is applied to the result again until it is (cycle walking). This permutes
    0 .. size - 1.

    Args:
        size: Number of permuted integers, from 1 to 2^62.
        key: Key of the random constants, from `stream_key`.
    """

    size: int
    key: int

    def forward(self, x: I64) -> I64:
        """Return the image of each integer."""
        return self._cycle_walk(x, self._forward_once)

    def inverse(self, x: I64) -> I64:
        """Return, for each integer in `x`, the integer of which it is the image."""
        return self._cycle_walk(x, self._inverse_once)

    @property
    def _width(self) -> int:
        return max(1, (self.size - 1).bit_length())

    def _round_constants(self) -> list[tuple[int, int]]:
        mask = (1 << self._width) - 1
        return [
            ((stream_key(self.key, turn, "*") | 1) & mask, stream_key(self.key, turn, "+") & mask) for turn in range(3)
        ]

    def _shift(self) -> np.uint64:
        return np.uint64((self._width + 1) // 2)

    def _forward_once(self, x: U64) -> None:
        mask, shift = np.uint64((1 << self._width) - 1), self._shift()
        for odd, add in self._round_constants():
            x ^= x >> shift
            x *= np.uint64(odd)
            x += np.uint64(add)
            x &= mask
        x ^= x >> shift

    def _inverse_once(self, x: U64) -> None:
        mask, shift = np.uint64((1 << self._width) - 1), self._shift()
        for odd, add in reversed(self._round_constants()):
            x ^= x >> shift  # This operation is its own inverse, since 2 h >= k.
            x -= np.uint64(add)
            x *= np.uint64(pow(odd, -1, 1 << self._width))
            x &= mask
        x ^= x >> shift

    def _cycle_walk(self, x: I64, apply: Callable[[U64], None]) -> I64:
        out = x.astype(np.uint64)
        apply(out)
        beyond = np.flatnonzero(out >= self.size)
        while beyond.size:
            again = out[beyond]
            apply(again)
            out[beyond] = again
            beyond = beyond[again >= self.size]
        return out.view(np.int64)
