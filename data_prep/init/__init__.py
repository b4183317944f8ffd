"""Guesses about the columns of an unknown log, which `ple-rec init` writes into configurations for users to correct."""
