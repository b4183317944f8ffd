"""Raw logs to dataset directories: `prepare("feed.toml", Path("data/feed"))`, or Arrow tables by `write_tables`.

From the user's files to the last byte:

    run.py            the command: configuration, files, engine, pipeline, directory
    recipes/          configurations that come with the package
    datasets/         public datasets by name, and raw files that are fetched
    sources/          raw files: patterns, footers, digests; CSV and other formats to Parquet
    expressions/      labels, filters and features as SQL-like text
    pipeline.py       the passes in their order, as Ibis expressions
    survey.py         rows by split and part, bad rows, missing days
    transforms/       raw columns to columns of a dataset: rows, splits, features, labels, side tables, encoding
    vocabulary/       values to rows of embedding tables
    output/           parts, metadata, and the one way to make a directory, on a disk or in a store
    stats/            statistics and their page
    engines/          DuckDB and Spark
    append.py         one more day
    init/             `ple-rec init`: guesses about an unknown log
    inputs/           raw logs as the inputs of a model
    synthetic/        generated logs
"""

from __future__ import annotations

from data_prep.output.summary import Summary
from data_prep.output.tables import write_tables
from data_prep.run import Options, prepare, recipe_names

__all__ = ["Options", "Summary", "prepare", "recipe_names", "write_tables"]
