"""The command line: one file a verb, the parser, and what every verb shares."""

from ple_rec.cli.app import main

__all__ = ["main"]
