"""The command line `ple-rec`: a file for each verb, the parser, and the options and output that verbs share.

Also here are the checks of `ple_rec.agent` (`submission`) and the worker processes of a comparison.
"""

from ple_rec.cli.app import main

__all__ = ["main"]
