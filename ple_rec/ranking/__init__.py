"""From predictions to a ranked feed.

fusion.py        one score from the tasks' predictions (Eq. 1)
calibration.py   probabilities that are frequencies
lists.py         rows in lists of candidates, ordered under many fusions at once
metrics.py       of ordered lists
counterfactual.py   weights of rows by how the log's policy showed them
evaluation.py    metrics of fusions with their intervals
search.py        for the exponents
"""
