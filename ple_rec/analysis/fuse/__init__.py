"""`ple-rec fuse`: the exponents of Eq. 1 for a trained run.

rows.py   what the run predicts on held-out rows
fuse.py   the search on one split, the result on another
text.py   what is printed
page.py   fusion.html
"""
