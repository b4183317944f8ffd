"""`ple-rec compare`: variants and seeds of a comparison, trained, and what they tell of one another.

matrix.py     the variants as runs, their cost made equal
runs.py       which runs are left, and where they run
worker.py     a process that trains one run after another
results.py    compare.json from the finished runs
text.py       the tables on the terminal
"""
