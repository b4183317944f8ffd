"""`ple-rec compare`: variants and seeds of a comparison, trained, and what they tell of one another.

matrix.py     the variants as runs, their cost made equal
tuning/       as many trials for each of them, on the validation split alone
work.py       which trials and runs are left, and which of them are this host's
estimate.py   how long that will take
runs.py       the runs, and which of them have finished
scheduler.py  trials and runs trained side by side
worker.py     a process that trains one run after another
results.py    compare.json from the finished runs
text.py       the tables on the terminal
"""
