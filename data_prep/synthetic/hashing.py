"""Random bits as a function of a key and an index, so that any process can generate any row, alone and repeatedly.

The bits come from integer arithmetic modulo 2^64, so they are the same on every machine.
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

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_UNIT_24 = np.float32(2.0**-24)
_UNIT_16 = np.float32(2.0**-16)


def key_of(*words: object) -> int:
    """Return the key of a stream of random bits, 64 bits that follow from a seed and the purpose of the stream."""
    text = "\x1f".join(map(str, words)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def bits(key: int, index: I64 | U64) -> U64:
    """Return 64 random bits for every index: SplitMix64 at counter `index`, started at `key`.

    Args:
        key: Key of the stream, from `key_of`.
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
    """Return a uniform number in [0, 1) from one group of 16 bits of each word, the `lane`-th from 0 to 3."""
    return words.view(np.uint16).reshape(len(words), 4)[:, lane].astype(np.float32) * _UNIT_16


def byte(words: U64, lane: int) -> NDArray[np.uint8]:
    """Return one byte of each word, the `lane`-th from 0 to 7, as a view."""
    return words.view(np.uint8).reshape(len(words), 8)[:, lane]


@dataclass(frozen=True)
class Bijection:
    """Random permutation of 0 .. size - 1 that needs no table, and its inverse.

        F(x) = x ^ (x >> h), then (odd x + add) mod 2^k, three times over;   2^(k - 1) < size <= 2^k, h >= k / 2

    F permutes 0 .. 2^k - 1. F is applied again to a result of `size` or more until it is below `size`. This permutes
    0 .. size - 1.

    Args:
        size: Number of permuted integers, from 1 to 2^62.
        key: Key of the random constants, from `key_of`.
    """

    size: int
    key: int

    def forward(self, x: I64) -> I64:
        """Return the image of each integer."""
        return self._walk(x, self._forward_once)

    def inverse(self, x: I64) -> I64:
        """Return the integer whose image is each of `x`."""
        return self._walk(x, self._inverse_once)

    @property
    def _width(self) -> int:
        return max(1, (self.size - 1).bit_length())

    def _turns(self) -> list[tuple[int, int]]:
        mask = (1 << self._width) - 1
        return [((key_of(self.key, turn, "*") | 1) & mask, key_of(self.key, turn, "+") & mask) for turn in range(3)]

    def _shift(self) -> np.uint64:
        return np.uint64((self._width + 1) // 2)

    def _forward_once(self, x: U64) -> None:
        mask, shift = np.uint64((1 << self._width) - 1), self._shift()
        for odd, add in self._turns():
            x ^= x >> shift
            x *= np.uint64(odd)
            x += np.uint64(add)
            x &= mask
        x ^= x >> shift

    def _inverse_once(self, x: U64) -> None:
        mask, shift = np.uint64((1 << self._width) - 1), self._shift()
        for odd, add in reversed(self._turns()):
            x ^= x >> shift  # It is its own inverse, since 2 h >= k.
            x -= np.uint64(add)
            x *= np.uint64(pow(odd, -1, 1 << self._width))
            x &= mask
        x ^= x >> shift

    def _walk(self, x: I64, once: Callable[[U64], None]) -> I64:
        out = x.astype(np.uint64)
        once(out)
        beyond = np.flatnonzero(out >= self.size)
        while beyond.size:
            again = out[beyond]
            once(again)
            out[beyond] = again
            beyond = beyond[again >= self.size]
        return out.view(np.int64)
