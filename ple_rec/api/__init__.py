"""The Python face of the package: what `import ple_rec` gives, and what `ple-rec` stands on. docs/api.md shows it.

The names of `ple_rec.__all__`, their arguments and the public attributes of their objects are a promise, which
docs/api.md words; everything else in the package may change with any version. torch is imported by what needs it.
"""
