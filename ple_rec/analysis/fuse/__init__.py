"""Search for the exponents of a run's score fusion (Eq. 1 of the paper), by `ple-rec fuse`.

A fusion multiplies the predictions of all tasks for a candidate to one score, each raised to an exponent.

rows.py        predictions of a run on held-out rows, and the lists of candidates in the log
arguments.py   values of `--length`, `--scale` and `--value`
fuse.py        the search on one split, and its result on another
"""
