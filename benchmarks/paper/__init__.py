"""Reproduction of the tables and figures of the PLE paper: `python -m benchmarks.paper`, or `make paper`.

parts.py      datasets and comparisons of each table and figure
figure7.py    Fig. 7, the gains over the correlation of two tasks
page.py       paper.html, which shows the results and links the comparisons
"""
