"""What a ranking would bring on logs that another policy made: inverse propensities.

The log holds what the old policy showed: for user and context x_i the video a_i, drawn with the propensity
p_i = p(a_i | x_i). Its plain mean favours what the old policy favoured. With weights 1 / p_i a row counts as if all
that could have been shown were shown alike, and the self-normalised estimator

    value@k = sum_i pi_i y_i / p_i  /  sum_i pi_i / p_i,    pi_i = [the fusion puts row i at a place < k of its list]

(Swaminathan and Joachims, NIPS 2015) tends to

    E[y pi] / E[pi]   over users and contexts x, a video drawn evenly from all that could be shown, and the other rows
                      of its list drawn as in the log

which is what a video brings that comes without the old policy's favour, takes the place of one of the list's rows and
is put among its first k. It needs p_i > 0 wherever the video could be shown, and rows of a list that were drawn
independently given x. A ratio of sums has a bias of order 1 / n; without the division, a setting that puts rows of
great weight first would gain by the weights alone.

Where all p_i are equal it is the plain mean of the labels at those places. Of rows that were exposed at random alone,
the lists are pools of random videos, and it is the replay estimator (Li et al., WSDM 2011): what the first k of such a
pool bring.

Shape suffixes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ple_rec.ranking.lists import Floats


@dataclass(frozen=True)
class Weights:
    """Of rows, in units of their mean.

    Args:
        weight_N: min(w_i, clip), w_i = (1 / p_i) / mean(1 / p).
        clipped: Share of the rows whose weight was greater.
    """

    weight_N: Floats
    clipped: float


def weights_of(propensity_N: Floats, clip: float | None = None) -> Weights:
    """Weights of inverse propensity.

    Args:
        propensity_N: In (0, 1].
        clip: The greatest weight there is. It takes from the variance, and brings a bias towards the old policy.
    """
    weight_N = 1.0 / propensity_N
    weight_N /= weight_N.mean()
    if clip is None:
        return Weights(weight_N, 0.0)
    return Weights(np.minimum(weight_N, clip), float((weight_N > clip).mean()))
