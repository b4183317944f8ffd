"""Preparation of dataset directories from raw logs, by `prepare("feed.toml", Path("data/feed"))`.

`write_tables` makes one from Arrow tables. The modules:

    run.py            `prepare`: configuration, files, engine, pipeline, directory
    recipes/          configurations that come with the package
    datasets/         raw files of public data sets: they are found, or downloaded
    sources/          raw files: patterns, footers, digests; CSV and other formats to Parquet
    expressions/      labels, filters and features as SQL-like text
    pipeline.py       the passes over the log in their order, as Ibis expressions
    survey.py         counts before anything is written: rows by split and part, bad rows, missing days
    dry_run.py        report on a preparation, from a sample of the log
    failures.py       exceptions of the engines as errors with a rule and a fix
    diagnose.py       search for the file and the row that made an engine fail
    page_checksums.py verification of raw Parquet pages
    progress.py       progress line
    transforms/       raw columns to columns of a dataset: rows, splits, features, labels, side tables, encoding
    vocabulary/       assignment of values to rows of embedding tables
    output/           the directory, local or in an object store: Parquet files (parts) and metadata
    stats/            statistics and their page
    engines/          DuckDB and Spark
    append.py         configuration of a day that is appended to a dataset
    init/             `ple-rec init`: guesses about an unknown log
    inputs/           raw logs as the inputs of a model, for predictions
    synthetic/        generated logs
"""

from __future__ import annotations

from data_prep.output.summary import Summary
from data_prep.output.tables import write_tables
from data_prep.run import Options, prepare, recipe_names

__all__ = ["Options", "Summary", "prepare", "recipe_names", "write_tables"]
