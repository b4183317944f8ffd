"""Derivation of a dataset's columns from raw columns: expressions, rows, splits, features, labels, side tables."""
