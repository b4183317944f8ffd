"""Configurations of runs, preparations, comparisons and plans: typed, strict, without torch."""
