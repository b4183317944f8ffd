"""Comparison of variants over several seeds, by `ple-rec compare`.

matrix.py     the variants as runs of equal cost
tuning/       an equal number of trials for each variant, on the validation split alone
work.py       the trials and runs that are left, and this host's share of them
estimate.py   the time that they will take
runs.py       the runs and their outcomes
scheduler.py  training of trials and runs side by side
workers.py    processes that train one run after another
one_run.py    training and analysis of a run in such a process
results.py    compare.json from the finished runs
"""
