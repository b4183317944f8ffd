"""Weights of rows by inverse propensity, which estimate the value of a ranking from the logs of another policy.

`metrics.py` computes the estimate, the metric value@k, with these weights. The log holds the videos that the old policy
showed: for user and context x_i the video a_i, drawn with the propensity p_i = p(a_i | x_i). A plain mean of labels
would favour the videos that the old policy favoured. With weights 1 / p_i, rows count as if all possible videos had
been shown equally often. The self-normalised estimator

    value@k = sum_i pi_i y_i / p_i  /  sum_i pi_i / p_i

(Swaminathan and Joachims, NIPS 2015), where y_i is the label, and pi_i is 1 if the evaluated ranking, the fusion of the
tasks' scores, puts row i among the first k of its list, else 0, tends to

    E[y pi] / E[pi]   over users and contexts x, a video drawn evenly from all that could be shown, and the other rows
                      of its list drawn as in the log

This is the expected label of a video that is drawn evenly from all possible ones, replaces a row of a list, and ranks
among the first k of the list. The estimator needs p_i > 0 for each video that could be shown, and rows of a list that
were drawn independently given x. As a ratio of sums over n rows it has a bias of order 1 / n. The division by the sum
of weights is necessary: the first sum alone would be greater for a fusion that puts rows with great weights first,
whatever their labels.

If all p_i are equal, the estimate is the plain mean of the labels at the first k places. If all rows were exposed at
random, the lists are pools of random videos, and this is the replay estimator (Li et al., WSDM 2011) of the first k of
such a pool.

Shape suffixes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ple_rec.ranking.lists import Floats


@dataclass(frozen=True)
class PropensityWeights:
    """Inverse propensities of rows as weights.

    Args:
        weight_N: Weight of each row: min(w_i, clip), with w_i = (1 / p_i) / mean(1 / p).
        clipped: Share of the rows with w_i > clip; 0 without a limit.
    """

    weight_N: Floats
    clipped: float


def propensity_weights(propensity_N: Floats, clip: float | None = None) -> PropensityWeights:
    """Return the inverse propensities as weights, divided by their mean and then clipped.

    Args:
        propensity_N: Propensities in (0, 1].
        clip: Largest weight, as a multiple of the mean of 1 / p; None for no limit. A limit lowers the variance, and
            adds a bias towards the old policy.
    """
    weight_N = 1.0 / propensity_N
    weight_N /= weight_N.mean()
    if clip is None:
        return PropensityWeights(weight_N, 0.0)
    return PropensityWeights(np.minimum(weight_N, clip), float((weight_N > clip).mean()))
