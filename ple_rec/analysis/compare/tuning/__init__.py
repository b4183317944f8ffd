"""Tuning of all variants of a comparison, each with the same number of trials, on the validation split alone.

A variant is one model configuration. A trial is one training of a variant with hyperparameters from a search space.

sampler.py    the search space, and the values that Optuna proposes
study.py      the trials of one variant, their file tune.json, and the best of them
tune.py       training of the trials of all variants, and the variants with their best values
"""
