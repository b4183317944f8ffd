"""Search for the exponents of Eq. 1 for a trained run, by `ple-rec fuse`.

rows.py        predictions of a run on held-out rows, and the lists of candidates in the log
arguments.py   values of `--length`, `--scale` and `--value`
fuse.py        the search on one split, and its result on another
"""
