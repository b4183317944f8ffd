"""Counterfactual value of a ranking on the logs of another policy, by inverse propensities.

The log holds the videos that the old policy showed: for user and context x_i the video a_i, drawn with the propensity
p_i = p(a_i | x_i). A plain mean favours the videos that the old policy favoured. With weights 1 / p_i a row counts as
if all possible videos had been shown equally often, and the self-normalised estimator

    value@k = sum_i pi_i y_i / p_i  /  sum_i pi_i / p_i,    pi_i = [the fusion puts row i at a place < k of its list]

(Swaminathan and Joachims, NIPS 2015) tends to

    E[y pi] / E[pi]   over users and contexts x, a video drawn evenly from all that could be shown, and the other rows
                      of its list drawn as in the log

This is the expected label of a video that is drawn without the old policy's favour, replaces a row of a list and ranks
among its first k. The estimator needs p_i > 0 for each video that could be shown, and rows of a list that were drawn
independently given x. A ratio of sums has a bias of order 1 / n. Without the division, a setting that puts rows of
great weight first would gain by the weights alone.

If all p_i are equal, this is the plain mean of the labels at those places. If all rows were exposed at random, the
lists are pools of random videos, and this is the replay estimator (Li et al., WSDM 2011) of the first k of such a pool.

Shape suffixes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ple_rec.ranking.lists import Floats


@dataclass(frozen=True)
class Weights:
    """Weights of rows.

    Args:
        weight_N: Weight of each row: min(w_i, clip), with w_i = (1 / p_i) / mean(1 / p).
        clipped: Share of the rows with w_i > clip.
    """

    weight_N: Floats
    clipped: float


def weights_of(propensity_N: Floats, clip: float | None = None) -> Weights:
    """Return the inverse propensities as weights, divided by their mean.

    Args:
        propensity_N: Propensities in (0, 1].
        clip: Largest weight; None for no limit. A limit lowers the variance, and adds a bias towards the old policy.
    """
    weight_N = 1.0 / propensity_N
    weight_N /= weight_N.mean()
    if clip is None:
        return Weights(weight_N, 0.0)
    return Weights(np.minimum(weight_N, clip), float((weight_N > clip).mean()))
