"""A chain of days, `ple-rec daily`: each day's log becomes a dataset, a run and a version of the served model.

`run` has the steps of a day in their order. `chain` is the folder of a chain, and says which day is next; `served` is
the version that is served, and the run that made it. `validation` compares it with the candidate on rows that neither
was trained on, and `gate` judges the differences. `record` is what the day leaves for people and schedulers.
"""
