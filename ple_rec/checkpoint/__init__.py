"""Checkpoints: save, load, and which of them are kept."""
