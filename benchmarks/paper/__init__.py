"""The paper's tables and figures, made anew: `python -m benchmarks.paper`, that is `make paper`.

parts.py      what there is to be made: datasets and comparisons
figure7.py    gains over the correlation of two tasks

The page that holds and links what was made is in `benchmarks/paper/page.py`.
"""
