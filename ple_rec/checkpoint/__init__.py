"""Checkpoints of a run: saving, loading, checking and removing them."""
