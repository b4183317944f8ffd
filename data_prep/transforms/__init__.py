"""Raw columns to columns of a dataset: expressions, rows, splits, features, labels, side tables."""
