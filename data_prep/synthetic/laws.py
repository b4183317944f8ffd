"""Power laws and link functions that give the same bits on every machine.

They use only + - * / and square roots, whose results IEEE 754 defines exactly, unlike those of exp and log. The power
laws have the exponents 7/8 and 9/8, since an eighth root is three square roots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.synthetic.hashing import F32, F64, I64


def eighth_root(x: F64) -> F64:
    """Return x^(1/8)."""
    return np.sqrt(np.sqrt(np.sqrt(x)))


def eighth_power(x: F64) -> F64:
    """Return x^8."""
    x = x * x
    x *= x
    x *= x
    return x


@dataclass(frozen=True)
class PowerLaw:
    """Distribution over the ranks 0 .. size - 1, whose probability falls with the rank.

        F(x) = (G(x) - G(0)) / (G(size) - G(0))        G(x) = (x + shift)^(1/8), or -(x + shift)^(-1/8) if steep
        P(r) = F(r + 1) - F(r), about proportional to (r + shift)^(-7/8), or (r + shift)^(-9/8) if steep

    Args:
        size: Number of ranks.
        shift: Number above 0 that flattens the head of the distribution.
        steep: True for the exponent 9/8 instead of 7/8.
    """

    size: int
    shift: float
    steep: bool

    def _integral(self, x: F64) -> F64:
        root = eighth_root(x + self.shift)
        return -1.0 / root if self.steep else root

    def _low_and_span(self) -> tuple[float, float]:
        """Return G(0) and G(size) - G(0)."""
        low, high = self._integral(np.array([0.0, float(self.size)]))
        return float(low), float(high - low)

    def cdf(self, x: F64) -> F64:
        """Return F(x), the probability of a rank below x."""
        low, span = self._low_and_span()
        return (self._integral(x) - low) / span

    def inverse_cdf(self, share: F64) -> I64:
        """Return the rank r with F(r) <= share < F(r + 1), up to rounding, ascending with `share`."""
        low, span = self._low_and_span()
        g = low + share * span
        x = eighth_power(-1.0 / g if self.steep else g) - self.shift
        return np.clip(x.astype(np.int64), 0, self.size - 1)

    def pdf(self, rank: I64) -> F64:
        """Return the density F'(rank), which is close to the probability of the rank."""
        x = rank.astype(np.float64)
        x += self.shift
        root = eighth_root(x)
        x *= (root if self.steep else 1.0 / root) * (8.0 * self._low_and_span()[1])
        return 1.0 / x


def algebraic_sigmoid(z: F32) -> F32:
    """Return 1/2 + z / (2 sqrt(4 + z^2)).

    It maps to (0, 1), and has the value 1/2 and the slope 1/4 at 0, like the logistic function.
    """
    out = z * z
    out += np.float32(4)
    np.sqrt(out, out=out)
    out += out
    np.divide(z, out, out=out)
    out += np.float32(0.5)
    return out


def approximate_exp(z: F32) -> F32:
    """Return (1 + z/8)^8, which is close to exp(z) for z near 0; it is 0 for z below -8."""
    out = z * np.float32(0.125)
    out += np.float32(1)
    np.maximum(out, np.float32(0), out=out)
    out *= out
    out *= out
    out *= out
    return out


def round_mantissa(x: F32, mantissa_bits: int) -> F32:
    """Return numbers rounded to `mantissa_bits` (below 23) bits of mantissa, half away from 0, to compress better."""
    drop = 23 - mantissa_bits
    word = x.view(np.uint32) + np.uint32(1 << (drop - 1))
    word &= np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
    return word.view(np.float32)
