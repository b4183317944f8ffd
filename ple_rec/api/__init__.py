"""Python interface of the package, which `import ple_rec` offers. docs/api.md shows it.

The names of `ple_rec.__all__`, their arguments and the public attributes of their objects are a promise, whose terms
are in docs/api.md. Everything else in the package may change with any version. Only the functions that need torch
import it.
"""
