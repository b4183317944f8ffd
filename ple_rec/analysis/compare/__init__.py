"""Comparison of variants over several seeds, by `ple-rec compare`.

A variant is one model configuration. A run is one training of a variant with one seed; a trial is a run that tunes
hyperparameters.

compare.py    the whole comparison, from its configuration to compare.json
load.py       its configuration
matrix.py     the variants, with layer widths of equal cost (equal_cost.py)
tuning/       an equal number of trials for each variant, on the validation split alone
work.py       the unfinished trials and runs, and this host's share of them (shares.py)
reuse.py      finished runs of other comparisons
estimate.py   the time that the unfinished trials and runs will take
runs.py       the run directories and their outcomes
in_store.py   the directory of a comparison in an object store
scheduler.py  training of trials and runs side by side, with the time left (time_left.py)
workers.py    processes that train one run after another
one_run.py    training and analysis of a run in such a process
results.py    compare.json from the finished runs, by gain.py, resampling.py and task_relations.py
"""
