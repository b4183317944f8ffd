"""Ranking by a fusion of predictions, its metrics and its search.

fusion.py           one score from the tasks' predictions (Eq. 1)
calibration.py      probabilities that agree with frequencies
lists.py            rows in lists of candidates, ordered under many fusions at once
metrics.py          metrics of ordered lists
counterfactual.py   weights of rows by the propensities of the log's policy
evaluation.py       metrics of fusions with their confidence intervals
search.py           search for the exponents
losses.py           metrics that a saved fusion made worse
"""
