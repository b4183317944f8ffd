"""Equal tuning: as many trials for each variant of a comparison, on the validation split alone.

space.py      what the trials change, and that every variant has it
ask.py        the values that they try, by Optuna
record.py     tune.json
study.py      the trials of a variant: what they try, what came of it, which was best
tune.py       the trials of all variants as jobs, and the variants with their best values
told.py       what compare.json, the terminal and the page tell of it
"""
