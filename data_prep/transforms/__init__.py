"""Derivation of a dataset's columns from the columns of a raw log, as Ibis expressions that an engine computes."""
