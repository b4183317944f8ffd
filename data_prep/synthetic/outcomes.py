"""Outcomes of impressions: their probabilities, labels drawn from these, and the best metrics that a model can reach.

The affinity of a user to a video, for each kind of outcome, is a sum of products of latent factors,
x_k = (user factor k) (video factor k) with k = 0 .. 7, scaled so that the sum has a variance of about 1:

    click    x0 + x1 + x2 + x3
    watch    b (x2 + x3) + x4 + x5      b = 1, or -0.6 if the video may start by itself (autoplay)
    share    x4 + x5 + x6
    comment  x1 + x6 + x7

Together with other features, the affinities determine the probabilities of the outcomes. Here s is
`laws.algebraic_sigmoid`, a function to (0, 1), and e is `laws.approximate_exp`:

    click         p_click = s(...)
    play          p_play = p_click, or 1 - (1 - p_click) (1 - p_start) with autoplay
    watch ratio   play time / duration = L U^2 if the video is played, with L = e(...) and U uniform on [0, 1]; else 0
    valid view    play time > 3 s
    completion    min(play time / duration, 1)
    share, comment   only after a click, with p_share and p_comment

Two facts of the paper are built in. First, a valid view depends on both the play and the watch ratio. Second, with
autoplay most videos are played, so the valid view depends mainly on the ratio; without, it needs a click. With
autoplay, x2 and x3 make a click more likely and the view shorter. So the correlation of valid view and completion
differs between samples with and without autoplay.

Probabilities are rounded to `TRUTH_BITS` bits of mantissa, so there are few different ones. The metrics of a binary
task are computed from the numbers of positives and negatives for each probability. These counts are exact, take 2 MB
for any number of rows, and can be added.
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
from data_prep.synthetic.laws import algebraic_sigmoid, approximate_exp, round_mantissa
from data_prep.synthetic.world import World
from ple_rec.config.schema import Task

VALID_VIEW_MS = 3000
TRUTH_BITS = 10  # Bits of mantissa of a probability: its relative error is at most 1/2048, and it compresses well.


@dataclass(frozen=True)
class Rates:
    """Offsets of the probabilities of the outcomes, and slopes in the affinities; `share_taste` is for comments, too.

    The offsets give rates like those of the paper's tasks and of public logs: valid view 0.43, mean completion 0.33,
    click 0.45 (KuaiRand: 0.44), and after a click, share 1 % and comment 1.6 % (KuaiRand: 0.2 % and 0.5 %, which are
    too rare to be learned from a few million rows). With these slopes, a perfect model reaches an AUC of 0.67 to 0.74,
    the range of the paper's tables.
    """

    click: float = -0.67  # Offset of the argument of s in p_click.
    start: float = 0.8  # p_start = algebraic_sigmoid(start), the probability that a video with autoplay starts.
    watch: float = 0.85  # Offset of the argument of e in L.
    share: float = 0.008  # p_share where the argument of e is 0; likewise `comment`.
    comment: float = 0.012
    click_taste: float = 0.9  # Slope: factor of the affinity in the argument of s or e; likewise those below.
    watch_taste: float = 0.45
    share_taste: float = 0.6


RATES = Rates()


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the impressions of a block, and the expected values of the labels (`truth`, by column).

    In `truth`, shares and comments are conditional on a click.
    """

    click: NDArray[np.bool_]
    play_time_ms: I32
    share: NDArray[np.bool_]
    comment: NDArray[np.bool_]
    truth: dict[str, F32]

    def valid_view(self) -> NDArray[np.bool_]:
        """Return the label of the task vtr (view-through rate)."""
        return self.play_time_ms > VALID_VIEW_MS

    def completion(self, duration_ms: I32) -> F32:
        """Return the label of the task vcr (view completion ratio)."""
        ratio = self.play_time_ms.astype(np.float64) / duration_ms
        return np.minimum(ratio, 1.0).astype(np.float32)


def outcomes(
    world: World, impression: I64, users: Users, videos: Videos, contexts: Contexts, rates: Rates = RATES
) -> Outcomes:
    """Draw the outcomes of impressions.

    Args:
        world: World whose seed determines the random bits.
        impression: Numbers of the impressions.
        users: Users of the impressions.
        videos: Videos of the impressions.
        contexts: Contexts of the impressions.
        rates: Offsets and slopes of the outcomes.
    """
    x = _products(users, videos)
    auto = contexts.auto
    # An affinity is called a taste here. `taste` is first a part of the click's affinity, then that of watching.
    taste = x[2] + x[3]
    p_click = _click(rates, x[0] + x[1] + taste, users, videos, contexts)
    taste *= np.where(auto, np.float32(-0.6), np.float32(1))
    taste += x[4]
    taste += x[5]
    # A sum of three products has a variance of 3/4, and 1.15^2 3/4 is about 1.
    share_taste = (x[4] + x[5] + x[6]) * np.float32(1.15)
    comment_taste = (x[1] + x[6] + x[7]) * np.float32(1.15)
    max_ratio = _max_ratio(rates, taste, users, videos, contexts)
    p_share = _after_click(rates.share, rates.share_taste, share_taste, videos.quality)
    p_comment = _after_click(rates.comment, rates.share_taste, comment_taste, users.click_bias)
    p_start: F32 = auto.astype(np.float32)
    p_start *= algebraic_sigmoid(np.array([rates.start], np.float32))
    p_play = np.float32(1) - (np.float32(1) - p_click) * (np.float32(1) - p_start)

    u_click, u_start = uniform32(world.bits("click", impression))
    u_watch, _ = uniform32(world.bits("watch", impression))
    u_share, u_comment = uniform32(world.bits("share", impression))
    click = u_click < p_click
    play = click | (u_start < p_start)
    ratio = max_ratio * u_watch * u_watch
    play_time_ms = np.where(play, ratio * videos.duration_ms.astype(np.float32), np.float32(0)).astype(np.int32)
    return Outcomes(
        click=click,
        play_time_ms=play_time_ms,
        share=click & (u_share < p_share),
        comment=click & (u_comment < p_comment),
        truth={
            "truth_vtr": round_mantissa(
                p_play * _probability_longer(VALID_VIEW_MS + 1, max_ratio, videos.duration_ms), TRUTH_BITS
            ),
            "truth_vcr": round_mantissa(p_play * _mean_completion(max_ratio), TRUTH_BITS),
            "truth_share": p_share,
            "truth_comment": p_comment,
            "truth_ctr": p_click,
        },
    )


def _products(users: Users, videos: Videos) -> F32:
    """Return the products x_k, of shape (LATENT, n), each with a variance of about 1/4."""
    x = np.ascontiguousarray(users.latent.T).astype(np.float32)
    x *= np.ascontiguousarray(videos.latent.T)
    # The variance of a factor is 3^2 + 2^2 = 13 times that of a random int8, which is 5461.
    x *= np.float32(0.5 / (13 * 5461))
    return x


def _click(rates: Rates, taste: F32, users: Users, videos: Videos, contexts: Contexts) -> F32:
    """Return p_click, the probability of a click."""
    z = taste * np.float32(rates.click_taste)
    z += videos.quality * np.float32(0.9)
    z += users.click_bias * np.float32(0.7)
    z -= contexts.position.astype(np.float32) * np.float32(0.03)
    z -= contexts.tab.astype(np.float32) * np.float32(0.1)
    z -= videos.age * np.float32(0.3)
    z += np.float32(rates.click + 0.6)
    return round_mantissa(algebraic_sigmoid(z), TRUTH_BITS)


def _max_ratio(rates: Rates, taste: F32, users: Users, videos: Videos, contexts: Contexts) -> F32:
    """Return L, the largest possible watch ratio, which is above 0."""
    z = taste * np.float32(rates.watch_taste)
    z += videos.quality * np.float32(0.35)
    z -= np.sqrt(videos.duration_ms.astype(np.float32)) * np.float32(0.0045)
    z -= np.where(contexts.auto, np.float32(0.35), np.float32(0))
    z += np.float32(rates.watch + 0.9)
    return np.maximum(approximate_exp(z), np.float32(0.02))


def _after_click(rate: float, slope: float, taste: F32, bias: F32) -> F32:
    """Return the probability of a share or a comment after a click, at most 0.5."""
    z = taste * np.float32(slope)
    z += bias * np.float32(0.5)
    return round_mantissa(np.minimum(approximate_exp(z) * np.float32(rate), np.float32(0.5)), TRUTH_BITS)


def _probability_longer(milliseconds: int, max_ratio: F32, duration_ms: I32) -> F32:
    """Return P(L U^2 duration >= milliseconds) = 1 - sqrt(t / L) with t = milliseconds / duration; 0 if t > L."""
    t = np.float32(milliseconds) / duration_ms.astype(np.float32)
    t /= max_ratio
    np.sqrt(t, out=t)
    np.minimum(t, np.float32(1), out=t)
    return np.float32(1) - t


def _mean_completion(max_ratio: F32) -> F32:
    """Return the mean of min(L U^2, 1), which is L / 3 for L <= 1, and else 1 - 2 / (3 sqrt(L))."""
    above = np.float32(1) - np.float32(2 / 3) / np.sqrt(max_ratio)
    return np.where(max_ratio <= 1, max_ratio * np.float32(1 / 3), above)


_DROPPED_BITS = 23 - TRUTH_BITS
_PATTERNS = (127 << TRUTH_BITS) + 1  # Number of floats in [0, 1] with TRUTH_BITS bits of mantissa.
# Values are summed as integers in units of 1 / _UNIT, so that a sum does not depend on the order of the rows.
_UNIT = 1 << 30


class ReachableMetrics:
    """Best metrics that a model can reach on a split: those of a model that predicts the labels' expected values.

    Args:
        tasks: Tasks of the dataset. The column `truth_<t>` has the expected value of the label of task `t`, which for a
            binary task is rounded to `TRUTH_BITS` bits of mantissa.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        # Numbers of negatives and positives, by bit pattern of the expected value.
        self.counts = {t.name: np.zeros((2, _PATTERNS), np.int64) for t in self.tasks if t.kind == "binary"}
        self.sums = {t.name: [0, 0, 0, 0] for t in self.tasks if t.kind != "binary"}  # Samples, error^2, y, y^2.

    def add(self, rows: pa.Table) -> None:
        """Add the rows of a table with the labels and their expected values.

        Each task counts only the rows in its sample space.
        """
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
                label64 = label.astype(np.float64)
                sums = [
                    _fixed_point_sum((label64 - truth) ** 2),
                    _fixed_point_sum(label64),
                    _fixed_point_sum(label64 * label64),
                ]
                self.sums[task.name] = [a + b for a, b in zip(self.sums[task.name], [len(label), *sums], strict=True)]

    def merge(self, other: ReachableMetrics) -> None:
        """Add the counts and sums of other rows."""
        for name, counts in other.counts.items():
            self.counts[name] += counts
        for name, sums in other.sums.items():
            self.sums[name] = [a + b for a, b in zip(self.sums[name], sums, strict=True)]

    def results(self) -> dict[str, dict[str, float | int | None]]:
        """Return the metrics by task and name; None for an undefined metric.

        They are `samples`, and for binary tasks `positives`, `auc` and `logloss`, for others `mse` and `variance`.
        """
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
    """Return the AUC or MSE of each task as one line of text, with `-` for an undefined one."""
    cells = []
    for name, values in results.items():
        figures = (f"{key} {values[key]:.4f}" for key in ("auc", "mse") if values.get(key) is not None)
        cells.append(f"{name} {' '.join(figures) or '-'}")
    return ", ".join(cells)


def _fixed_point_sum(values: F64) -> int:
    """Return the sum in units of 1 / _UNIT."""
    return int(np.rint(values * _UNIT).astype(np.int64).sum())


def _auc(counts: NDArray[np.int64]) -> float:
    """Return the share of pairs of a positive and a negative in the right order, with ties as half, from integers."""
    negatives, positives = counts
    below = np.cumsum(negatives) - negatives
    twice = sum(int(p) * (2 * int(b) + int(n)) for p, b, n in zip(positives, below, negatives, strict=True) if p)
    return twice / (2 * int(negatives.sum()) * int(positives.sum()))


def _logloss(counts: NDArray[np.int64]) -> float:
    nonzero = np.flatnonzero(counts.sum(axis=0))
    p = (nonzero.astype(np.uint32) << np.uint32(_DROPPED_BITS)).view(np.float32).astype(np.float64)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    losses = -(counts[1, nonzero] * np.log(p) + counts[0, nonzero] * np.log1p(-p))
    return float(losses.sum() / counts.sum())
