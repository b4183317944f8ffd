"""Outcomes of impressions: their probabilities from latent factors, labels, and the best metric that a model can reach.

Affinities, of the products x_k = user factor k x video factor k, k = 0 .. 7, scaled to a variance of about 1:

    click    x0 + x1 + x2 + x3
    watch    b (x2 + x3) + x4 + x5      b = 1 if the user chose the video, -.6 if it started by itself
    share    x4 + x5 + x6               comment    x1 + x6 + x7

and from them, `squash` being a link to (0, 1) and `grow` close to exp:

    p_click = squash(...)         p_play = p_click, or 1 - (1 - p_click)(1 - p_start) if it may start by itself
    ratio watched, given a play: L U^2        U uniform, L = grow(...)
    valid view: play_time > 3 s               completion: min(play_time / duration, 1), both 0 without a play
    p_share, p_comment: after a click

Two facts of the paper are built in. First, a valid view depends on the play *and* on the ratio. Second, a video that
starts by itself is nearly always played, so its valid view follows the ratio; for other videos the valid view follows
the click. For videos that start by themselves, x2 and x3 raise the click and shorten the view. So the correlation of
the two labels depends on the sample.

A probability has 10 bits of mantissa (`outcomes.TRUTH_BITS`). So counts by its bit pattern are exact, take a few
hundred kilobytes for any number of rows, and can be merged by adding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.synthetic.entities import Contexts, Users, Videos
from data_prep.synthetic.hashing import F32, F64, I32, I64, uniform32
from data_prep.synthetic.laws import coarse, grow, squash
from data_prep.synthetic.world import World
from ple_rec.config.schema import Task

VALID_VIEW_MS = 3000
TRUTH_BITS = 10  # Bits of mantissa of a probability: its relative error is at most 1/2048, and it compresses well.


@dataclass(frozen=True)
class Rates:
    """Offsets and slopes of the outcomes.

    The offsets give the rates that the paper's tasks and public feed logs suggest: valid view .43, completion
    .33 on average, click .45 (KuaiRand: .44), and of the clicks 1 % shared and 1.6 % commented
    (KuaiRand: .2 % and .5 %, too few to learn from a few million rows). The slopes let a perfect model reach an AUC
    of .67 to .74, the range of the paper's tables.
    """

    click: float = -0.67
    start: float = 0.8  # p_start = squash(start): videos that may start by themselves mostly do.
    watch: float = 0.85
    share: float = 0.008
    comment: float = 0.012
    click_taste: float = 0.9
    watch_taste: float = 0.45
    share_taste: float = 0.6


RATES = Rates()


@dataclass(frozen=True)
class Outcomes:
    """Labels of a block, and the probabilities from which they were drawn."""

    click: NDArray[np.bool_]
    play_time_ms: I32
    share: NDArray[np.bool_]
    comment: NDArray[np.bool_]
    truth: dict[str, F32]

    def valid_view(self) -> NDArray[np.bool_]:
        """Return the label of the task vtr."""
        return self.play_time_ms > VALID_VIEW_MS

    def completion(self, duration_ms: I32) -> F32:
        """Return the label of the task vcr."""
        ratio = self.play_time_ms.astype(np.float64) / duration_ms
        return np.minimum(ratio, 1.0).astype(np.float32)


def outcomes(
    world: World, impression: I64, users: Users, videos: Videos, contexts: Contexts, rates: Rates = RATES
) -> Outcomes:
    """Draw the outcomes of impressions.

    Args:
        world: World that has the random bits.
        impression: Numbers of the impressions.
        users: Users of the impressions.
        videos: Videos of the impressions.
        contexts: Contexts of the impressions.
        rates: Offsets and slopes of the outcomes.
    """
    x = _products(users, videos)
    auto = contexts.auto
    taste = x[2] + x[3]
    p_click = _click(rates, x[0] + x[1] + taste, users, videos, contexts)
    taste *= np.where(auto, np.float32(-0.6), np.float32(1))
    taste += x[4]
    taste += x[5]
    share_taste = (x[4] + x[5] + x[6]) * np.float32(1.15)
    comment_taste = (x[1] + x[6] + x[7]) * np.float32(1.15)
    length = _length(rates, taste, users, videos, contexts)
    p_share = _after_click(rates.share, rates.share_taste, share_taste, videos.quality)
    p_comment = _after_click(rates.comment, rates.share_taste, comment_taste, users.leaning)
    p_start: F32 = auto.astype(np.float32)
    p_start *= squash(np.array([rates.start], np.float32))
    p_play = np.float32(1) - (np.float32(1) - p_click) * (np.float32(1) - p_start)

    clicks, starts = uniform32(world.bits("click", impression))
    watched, _ = uniform32(world.bits("watch", impression))
    shares, comments = uniform32(world.bits("share", impression))
    click = clicks < p_click
    play = click | (starts < p_start)
    ratio = length * watched * watched
    play_time_ms = np.where(play, ratio * videos.duration_ms.astype(np.float32), np.float32(0)).astype(np.int32)
    return Outcomes(
        click=click,
        play_time_ms=play_time_ms,
        share=click & (shares < p_share),
        comment=click & (comments < p_comment),
        truth={
            "truth_vtr": coarse(p_play * _longer_than(VALID_VIEW_MS + 1, length, videos.duration_ms), TRUTH_BITS),
            "truth_vcr": coarse(p_play * _mean_completion(length), TRUTH_BITS),
            "truth_share": p_share,
            "truth_comment": p_comment,
            "truth_ctr": p_click,
        },
    )


def _products(users: Users, videos: Videos) -> F32:
    """Return x_k of shape (LATENT, n), each with a variance of about 1/4."""
    x = np.ascontiguousarray(users.latent.T).astype(np.float32)
    x *= np.ascontiguousarray(videos.latent.T)
    # The variance of a factor is (3^2 + 2^2) times that of a random int8.
    x *= np.float32(0.5 / (13 * 5461))
    return x


def _click(rates: Rates, taste: F32, users: Users, videos: Videos, contexts: Contexts) -> F32:
    z = taste * np.float32(rates.click_taste)
    z += videos.quality * np.float32(0.9)
    z += users.leaning * np.float32(0.7)
    z -= contexts.position.astype(np.float32) * np.float32(0.03)
    z -= contexts.tab.astype(np.float32) * np.float32(0.1)
    z -= videos.age * np.float32(0.3)
    z += np.float32(rates.click + 0.6)
    return coarse(squash(z), TRUTH_BITS)


def _length(rates: Rates, taste: F32, users: Users, videos: Videos, contexts: Contexts) -> F32:
    """Return L, the longest ratio that is watched, above 0."""
    z = taste * np.float32(rates.watch_taste)
    z += videos.quality * np.float32(0.35)
    z -= np.sqrt(videos.duration_ms.astype(np.float32)) * np.float32(0.0045)
    z -= np.where(contexts.auto, np.float32(0.35), np.float32(0))
    z += np.float32(rates.watch + 0.9)
    return np.maximum(grow(z), np.float32(0.02))


def _after_click(rate: float, slope: float, taste: F32, leaning: F32) -> F32:
    z = taste * np.float32(slope)
    z += leaning * np.float32(0.5)
    return coarse(np.minimum(grow(z) * np.float32(rate), np.float32(0.5)), TRUTH_BITS)


def _longer_than(milliseconds: int, length: F32, duration_ms: I32) -> F32:
    """Return P(L U^2 duration >= milliseconds) = 1 - sqrt(t / L), t = milliseconds / duration; 0 for t > L."""
    t = np.float32(milliseconds) / duration_ms.astype(np.float32)
    t /= length
    np.sqrt(t, out=t)
    np.minimum(t, np.float32(1), out=t)
    return np.float32(1) - t


def _mean_completion(length: F32) -> F32:
    """Return E min(L U^2, 1) = L / 3 for L <= 1, else 1 - 2 / (3 sqrt(L))."""
    above = np.float32(1) - np.float32(2 / 3) / np.sqrt(length)
    return np.where(length <= 1, length * np.float32(1 / 3), above)


_DROPPED_BITS = 23 - TRUTH_BITS
_PATTERNS = (127 << TRUTH_BITS) + 1  # Number of bit patterns of the floats in [0, 1].
_UNIT = 1 << 30  # Squared errors are summed as integers, so that the sum does not depend on the order.


class Reachable:
    """Best metrics that a model can reach on a split, computed from counts over its rows.

    Args:
        tasks: Tasks of the dataset. Task `t` has its ground truth in the column `truth_<t>`.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.counts = {t.name: np.zeros((2, _PATTERNS), np.int64) for t in self.tasks if t.kind == "binary"}
        self.sums = {t.name: [0, 0, 0, 0] for t in self.tasks if t.kind != "binary"}  # Samples, error^2, y, y^2.

    def add(self, rows: pa.Table) -> None:
        """Count rows."""
        for task in self.tasks:
            inside = rows if task.space is None else rows.filter(pc.field(task.space))
            truth = inside[f"truth_{task.name}"].to_numpy()
            label = inside[task.label].to_numpy()
            if task.kind == "binary":
                pattern = truth.view(np.uint32) >> np.uint32(_DROPPED_BITS)
                positive = label == 1
                self.counts[task.name][1] += np.bincount(pattern[positive], minlength=_PATTERNS)
                self.counts[task.name][0] += np.bincount(pattern[~positive], minlength=_PATTERNS)
            else:
                wide = label.astype(np.float64)
                sums = [_exact((wide - truth) ** 2), _exact(wide), _exact(wide * wide)]
                self.sums[task.name] = [a + b for a, b in zip(self.sums[task.name], [len(label), *sums], strict=True)]

    def merge(self, other: Reachable) -> None:
        """Add the counts of other rows."""
        for name, counts in other.counts.items():
            self.counts[name] += counts
        for name, sums in other.sums.items():
            self.sums[name] = [a + b for a, b in zip(self.sums[name], sums, strict=True)]

    def results(self) -> dict[str, dict[str, float | int | None]]:
        """Return `samples`, and `auc`, `logloss`, `positives` or `mse`, `variance` by task; None if undefined."""
        out: dict[str, dict[str, float | int | None]] = {}
        for name, counts in self.counts.items():
            negatives, positives = (int(n) for n in counts.sum(axis=1))
            out[name] = {
                "samples": negatives + positives,
                "positives": positives,
                "auc": _auc(counts) if negatives and positives else None,
                "logloss": _logloss(counts) if negatives + positives else None,
            }
        for name, (samples, errors, total, squares) in self.sums.items():
            mean = total / _UNIT / samples if samples else 0.0
            out[name] = {
                "samples": samples,
                "mse": errors / _UNIT / samples if samples else None,
                "variance": squares / _UNIT / samples - mean * mean if samples else None,
            }
        return {task.name: out[task.name] for task in self.tasks}


def describe(results: dict[str, dict[str, float | int | None]]) -> str:
    """Return the results as one line of text."""
    cells = []
    for name, values in results.items():
        figures = (f"{key} {values[key]:.4f}" for key in ("auc", "mse") if values.get(key) is not None)
        cells.append(f"{name} {' '.join(figures) or '-'}")
    return ", ".join(cells)


def _exact(values: F64) -> int:
    return int(np.rint(values * _UNIT).astype(np.int64).sum())


def _auc(counts: NDArray[np.int64]) -> float:
    """Return (pairs in the right order + half the ties) / pairs, from sums in integers."""
    negatives, positives = counts
    below = np.cumsum(negatives) - negatives
    twice = sum(int(p) * (2 * int(b) + int(n)) for p, b, n in zip(positives, below, negatives, strict=True) if p)
    return twice / (2 * int(negatives.sum()) * int(positives.sum()))


def _logloss(counts: NDArray[np.int64]) -> float:
    used = np.flatnonzero(counts.sum(axis=0))
    p = (used.astype(np.uint32) << np.uint32(_DROPPED_BITS)).view(np.float32).astype(np.float64)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    losses = -(counts[1, used] * np.log(p) + counts[0, used] * np.log1p(-p))
    return float(losses.sum() / counts.sum())
