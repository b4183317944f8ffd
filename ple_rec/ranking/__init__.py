"""Ranking of candidates by a fusion: one score, the product of the predictions of all tasks raised to exponents.

fusion.py           the factors of the score (Eq. 1 of the PLE paper)
calibration.py      probabilities that agree with frequencies
lists.py            rows in lists of candidates, ordered under many fusions at once
metrics.py          metrics of ordered lists
counterfactual.py   weights of rows by the propensities of the log's policy
evaluation.py       metrics of fusions with their confidence intervals
search.py           search for the exponents that maximise metrics
losses.py           list of the metrics that a saved fusion makes worse
"""
