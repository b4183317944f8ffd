"""Python interface of the package, which `import ple_rec` offers; docs/api.md describes it.

The names in `ple_rec.__all__`, their arguments and the public attributes of their objects are stable, as docs/api.md
says. Everything else in the package may change with any version. A function that does not need torch does not import
it.
"""
