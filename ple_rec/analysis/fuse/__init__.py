"""`ple-rec fuse`: the exponents of Eq. 1 for a trained run.

rows.py        predictions of a run on held-out rows, and the lists of candidates that the log showed
arguments.py   values of `--length`, `--scale` and `--value`
fuse.py        the search on one split, its result on another, and the files
text.py        the printed text
"""
