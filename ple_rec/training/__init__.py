"""Training of a run: checks, loop, evaluations, profile, loggers and results; and the opening of trained runs."""
