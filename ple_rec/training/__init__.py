"""The loop, evaluation, and the report of a run."""
