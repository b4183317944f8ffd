"""A chain of days, `ple-rec daily`: each day's log becomes a dataset, a run and a version of the served model.

run.py           the steps of a day, in order
chain.py         the folder of a chain: which days it has, and which day is next
served.py        the version that is served, and whether it belongs to the chain
validation.py    progressive validation: the served version and the candidate on rows that neither was trained on
gate.py          the verdict on a candidate, from differences and margins
record.py        the record of a day, its text and its file
"""
