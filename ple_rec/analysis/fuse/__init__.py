"""`ple-rec fuse`: the exponents of Eq. 1 for a trained run.

rows.py   what the run predicts on held-out rows
length.py   f of the length, as the command line asks for it
scale.py   scales of regressions, as the command line gives them and as predictions need them
logged.py   which rows are candidates together, whose they are, how they were shown
valued.py   a label times a feature, such as seconds watched
fuse.py   the search on one split, the result on another
text.py   what is printed
page.py   fusion.html
output.py   the folder of the three files, and what may be replaced there
"""
