"""Equal tuning: as many trials for each variant of a comparison, on the validation split alone.

sampler.py    the keys that trials change, and the values that they try, by Optuna
study.py      the trials of one variant, their file tune.json, and the best of them
tune.py       the trials of all variants as jobs, and the variants with their best values
report.py     what compare.json, the terminal and the page tell of them
"""
