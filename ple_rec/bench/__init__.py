"""Benchmarks that a user can run: `ple-rec bench`."""
