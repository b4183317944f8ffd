"""The command line: one file a verb, the parser, what every verb shares, and the program of a comparison's workers."""

from ple_rec.cli.app import main

__all__ = ["main"]
