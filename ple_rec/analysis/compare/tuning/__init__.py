"""Equal tuning: as many trials for each variant of a comparison, on the validation split alone.

space.py      what the trials change, and that every variant has it
ask.py        the values that they try, by Optuna
record.py     tune.json
study.py      the trials of a variant: what was asked, what came of it, which was best
tune.py       trials trained, those of all variants side by side
told.py       what compare.json, the terminal and the page tell of it
"""
