"""The paper's tables and figures, made anew: `python -m ple_rec.analysis.paper`, that is `make paper`.

parts.py      what there is to be made: datasets and comparisons
figure7.py    gains over the correlation of two tasks

The page that holds and links what was made is in `ple_rec/reports/paper.py`.
"""
